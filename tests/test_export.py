"""Exports: every trainer's folders, members byte for byte, resumable, nothing of others touched."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mattesmith import shards
from mattesmith.enhance import Enhanced
from mattesmith.enhance.light import decoded, encoded
from mattesmith.filters import Scored
from mattesmith.gen import Latents, Sample
from mattesmith.shards.export import LAYOUTS, export
from mattesmith.shards.members import decode

CONFIG = {"n": 3}


def portraits() -> Iterator[Scored]:
    """A white person left, a dark wall right; between them a column with two fifths of his light."""
    alpha = torch.zeros(1, 8, 8)
    alpha[..., :4], alpha[..., 4] = 1, 0.4  # 102 of 255: what is stored is exact
    foreground, wall = torch.ones(3, 8, 8), torch.full((3, 8, 8), -0.6)
    image = encoded(torch.lerp(decoded(wall), decoded(foreground), alpha))
    for candidate in range(9):
        sample = Sample(Latents(1, 0, candidate, torch.zeros(4)), torch.zeros(2, 4), (), image)
        yield Scored(Enhanced(sample, sample.ws, (), image, alpha, foreground, {}, 1), {"coverage": 0.5}, -1.0, None)


def make(folder: Path, **encoding: object) -> Path:
    with shards.open_dataset(folder, CONFIG):
        shards.write_shard(folder, 0, 3, portraits(), max_candidates=9, **encoding)
        shards.finish(folder, config=CONFIG, n=3, networks=[])
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made") / "dataset")


@pytest.mark.parametrize("to", LAYOUTS)
def test_every_folder_holds_every_portrait_under_one_name(dataset: Path, tmp_path: Path, to: str) -> None:
    assert export(dataset, tmp_path / "out", to) == 3
    for name in LAYOUTS[to]:
        files = sorted(path.name for path in (tmp_path / "out" / name).iterdir())
        assert files == ["0000000000.png", "0000000001.png", "0000000002.png"]


def test_members_are_copied_byte_for_byte(dataset: Path, tmp_path: Path) -> None:
    export(dataset, tmp_path / "out", "folder")
    for key, files in shards.samples_of(dataset / "00000.tar"):
        for name in ("image", "alpha", "fg", "trimap"):
            assert (tmp_path / "out" / name / f"{key}.png").read_bytes() == files[f"{name}.png"]


def test_a_background_explains_the_picture_with_its_matte(dataset: Path, tmp_path: Path) -> None:
    export(dataset, tmp_path / "out", "rvm")
    pixels = {
        name: np.asarray(Image.open(tmp_path / "out" / name / "0000000000.png"), float)
        for name in ("fgr", "pha", "bgr")
    }
    assert pixels["bgr"] == pytest.approx(51, abs=2)  # -0.6, also behind the person
    alpha = torch.from_numpy(pixels["pha"][..., None] / 255)
    back, front = (decoded(torch.from_numpy(pixels[name]) / 127.5 - 1) for name in ("bgr", "fgr"))
    _, members = next(shards.samples_of(dataset / "00000.tar"))
    image = decode("image.png", members["image.png"])
    assert (encoded(torch.lerp(back, front, alpha.float())).numpy() + 1) * 127.5 == pytest.approx(image, abs=2)


def test_jpeg_images_come_out_as_png(tmp_path: Path) -> None:
    export(make(tmp_path / "dataset", codec="jpeg"), tmp_path / "out", "modnet")
    with Image.open(tmp_path / "out" / "image" / "0000000001.png") as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (8, 8))


def test_run_again_it_writes_what_is_missing_only(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(dataset, out, "folder")
    kept, lost = out / "fg" / "0000000000.png", out / "alpha" / "0000000002.png"
    os.utime(kept, ns=(5, 5))
    content = lost.read_bytes()
    lost.unlink()
    assert export(dataset, out, "folder") == 3
    assert kept.stat().st_mtime_ns == 5
    assert lost.read_bytes() == content


def test_run_again_after_a_kill_it_leaves_no_partial_file(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json.7.partial").write_text("{")  # killed before anything else was there
    export(dataset, out, "folder")
    (out / "alpha" / "0000000001.png.7.partial").write_bytes(b"half")
    export(dataset, out, "folder")
    assert not list(out.rglob("*.partial"))


def test_a_second_export_into_the_folder_is_refused_while_one_runs(dataset: Path, tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(ValueError, match="another run is working on"):
            export(dataset, tmp_path / "out", "folder")

    assert export(dataset, tmp_path / "out", "folder", progress=second) == 3


def test_other_folders_and_damaged_datasets_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown layout 'gfm'; known: p3m"):
        export(dataset, tmp_path / "out", "gfm")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty"):
        export(dataset, tmp_path / "mine", "folder")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    export(dataset, tmp_path / "out", "folder")
    with pytest.raises(ValueError, match="holds another export"):
        export(dataset, tmp_path / "out", "rvm")
    broken = make(tmp_path / "broken")
    with (broken / "00000.tar").open("r+b") as file:
        file.truncate(2048)
    with pytest.raises(ValueError, match=r"00000\.tar: is 2048 bytes long"):
        export(broken, tmp_path / "third", "folder")
    assert json.loads((tmp_path / "third" / "export.json").read_text())["to"] == "folder"
    with pytest.raises(FileNotFoundError, match="is not a dataset"):
        export(tmp_path / "mine", tmp_path / "fourth", "folder")
