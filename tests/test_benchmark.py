"""The exact-alpha benchmark is the same from the same seed, and what it says of its pictures is true."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mattesmith.studio.backgrounds import UNSEEN, linear_from_srgb
from mattesmith.studio.benchmark import LAYERS, write_benchmark

SIZE = 32


@pytest.fixture
def renders(tmp_path: Path) -> Path:
    """Two people: the left half covered, by 100 % and by 50 %; hair in the upper half of what is covered."""
    folder = tmp_path / "renders" / "test"
    folder.mkdir(parents=True)
    for identity, cover in ((3, 255), (8, 128)):
        alpha = np.zeros((SIZE, SIZE), np.uint8)
        alpha[:, : SIZE // 2] = cover
        hair = alpha.copy()
        hair[SIZE // 2 :] = 0
        stem = folder / f"{identity:06d}"
        Image.fromarray(np.full((SIZE, SIZE, 3), 200, np.uint8)).save(f"{stem}.foreground.png")
        Image.fromarray(alpha).save(f"{stem}.alpha.png")
        Image.fromarray(hair).save(f"{stem}.hair.png")
        attributes = {"age": 30, "gender": 1, "skin": {"tone": 0.5}, "hair": {"style": "bob"}, "yaw": 3}
        stem.with_suffix(".json").write_text(
            json.dumps({"identity": identity, "light": "soft", "attributes": attributes})
        )
    return tmp_path / "renders"


def read(out: Path, layer: str, name: str) -> np.ndarray:
    with Image.open(out / layer / f"{name}.png") as picture:
        return np.asarray(picture)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "attributes.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_identity_comes_once_with_every_layer_and_its_attributes(renders: Path, tmp_path: Path) -> None:
    assert write_benchmark(renders, tmp_path / "b", size=SIZE) == 2
    table = rows(tmp_path / "b")
    assert {row["identity"] for row in table} == {"3", "8"}
    for row in table:
        whole = row["identity"] == "3"
        assert float(row["coverage"]) == pytest.approx(0.5 if whole else 0.251, abs=1e-3)
        assert float(row["soft_share"]) == (0.0 if whole else 0.5)
        assert float(row["hair_share"]) == pytest.approx(float(row["coverage"]) / 2, abs=1e-3)
        assert all((tmp_path / "b" / layer / f"{row['name']}.png").exists() for layer in LAYERS)
        assert row["background"] in {family.__name__ for family in UNSEEN}
        assert set(np.unique(read(tmp_path / "b", "trimap", row["name"]))) <= {0, 128, 255}


def test_the_image_is_the_composite_in_linear_light(renders: Path, tmp_path: Path) -> None:
    write_benchmark(renders, tmp_path / "b", size=SIZE)
    for row in rows(tmp_path / "b"):
        image, alpha, fg, bg = (read(tmp_path / "b", layer, row["name"]) for layer in ("image", "alpha", "fg", "bg"))
        light = [linear_from_srgb(x.astype(np.float32) / 255) for x in (image, fg, bg)]
        share = alpha[..., None].astype(np.float32) / 255
        assert np.abs(light[0] - share * light[1] - (1 - share) * light[2]).max() < 0.01


def test_a_seed_gives_the_same_bytes_and_another_one_others(renders: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_benchmark(renders, tmp_path / name, size=SIZE, num=5, seed=seed)
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 5 * len(LAYERS) + 1
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert not np.array_equal(read(tmp_path / "a", "bg", "00000"), read(tmp_path / "c", "bg", "00000"))


def test_other_splits_and_chosen_people_can_be_taken(renders: Path, tmp_path: Path) -> None:
    (renders / "test").rename(renders / "train")
    assert write_benchmark(renders, tmp_path / "b", size=SIZE, split="train", keys=["000008"]) == 1
    assert [row["identity"] for row in rows(tmp_path / "b")] == ["8"]
    with pytest.raises(ValueError, match=r"none of the 2 renders in .*train has one of the names"):
        write_benchmark(renders, tmp_path / "c", size=SIZE, split="train", keys=["9"])


def test_no_renders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `studio render` first"):
        write_benchmark(tmp_path, tmp_path / "b", size=SIZE)
