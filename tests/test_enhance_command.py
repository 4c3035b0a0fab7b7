"""`enhance` as a user runs it, in one process: bad photos are named, good ones come out whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from mattesmith import cli
from mattesmith import enhance as enhancing
from mattesmith.enhance import Face

FEW = ("--invert-steps", "1", "--steps", "1", "--slots", "2")
MEMBERS = ("alpha.png", "alpha_before.png", "compare.png", "image.png", "json", "photo_alpha.png")


def run(*words: object, code: int) -> Result:
    done = CliRunner().invoke(cli.cli, ["enhance", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


def person(side: int) -> tuple[Image.Image, Image.Image]:
    """A bust of two discs on blue, with its exact matte."""
    rows, columns = np.mgrid[:side, :side] / side
    inside = (np.hypot(columns - 0.5, rows - 0.45) < 0.22) | (np.hypot(columns - 0.5, rows - 1.05) < 0.4)
    rgb = np.where(inside[..., None], (200, 150, 120), (60, 90, 160)).astype(np.uint8)
    return Image.fromarray(rgb), Image.fromarray(inside.astype(np.uint8) * 255)


def test_good_photos_come_out_whole_bad_ones_are_named_and_the_exit_code_is_one(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    picture, matte = person(96)
    picture.save(photos / "good.png")
    picture.crop((0, 0, 96, 80)).save(photos / "wide.png")
    (photos / "text.jpg").write_text("no picture")
    matte.save(photos / "true.png")
    matte.resize((50, 50)).save(photos / "small.png")
    picture.rotate(90).save(photos / "turned.png")
    words = []
    for name, true in (("text.jpg", "true"), ("wide.png", "true"), ("good.png", "true"), ("turned.png", "small")):
        words += [photos / name, "--true-alpha", photos / f"{true}.png"]
    done = run(*words, "--out", out, "--no-align", *FEW, code=1)

    problems = [line for line in done.output.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 3
    for line, named in zip(
        problems, ("text.jpg: is no picture", "wide.png: an aligned", "small.png is 50"), strict=True
    ):
        assert named in line
    assert "error: 3 of 4 photos were not enhanced" in done.output
    assert sorted(path.name for path in out.iterdir()) == [f"good.{name}" for name in MEMBERS]

    facts = json.loads((out / "good.json").read_text())
    assert facts["faces"] == 0 and facts["inversion"]["pixel_after"] > 0
    assert set(facts["agreement"]) == set(facts["measured"]) == {"photo", "inverted", "enhanced"}
    assert {"SAD", "MSE", "Grad", "Conn"} <= set(done.output.replace("x1000", "").split())
    with Image.open(out / "good.photo_alpha.png") as stored:
        assert stored.size == (96, 96) and stored.mode == "L"
        off = np.abs(np.asarray(stored) / 255 - np.asarray(matte) / 255)
    assert facts["measured"]["enhanced"]["sad"] == pytest.approx(off.sum() / 1000, rel=0.05, abs=0.01)
    with Image.open(out / "good.compare.png") as compare:
        assert compare.size == (4 * 128, 2 * 128)


def test_without_a_discriminator_a_photo_has_no_realism(tmp_path: Path) -> None:
    picture, _ = person(96)
    picture.save(tmp_path / "good.png")
    run(tmp_path / "good.png", "--out", tmp_path / "out", "--no-align", "--discriminator", "none", *FEW, code=0)
    facts = json.loads((tmp_path / "out" / "good.json").read_text())
    assert list(facts["networks"]) == ["generator", "matting", "perceptual", "second"]
    assert "realism" not in facts["scores"] and "drift" in facts["scores"]


def test_a_photo_is_read_once_so_it_may_go_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = Face((62.0, 55.0), (78.0, 55.0), (64.0, 72.0), (76.0, 72.0))
    first, second = (tmp_path / "photos" / f"{name}.png" for name in "ab")
    first.parent.mkdir()

    def detector(photo: torch.Tensor) -> list[Face]:
        first.unlink(missing_ok=True)  # its bytes are in memory by now
        return [face]

    monkeypatch.setattr(enhancing, "load_detector", lambda: detector)
    for photo in (first, second):
        person(140)[0].save(photo)
    run(first, second, "--out", tmp_path / "out", *FEW, code=0)
    assert (tmp_path / "out" / "a.photo_alpha.png").exists() and (tmp_path / "out" / "b.photo_alpha.png").exists()


@pytest.mark.parametrize("words", [(), ("--slots", "2")])
def test_a_photos_results_are_the_same_bytes_whatever_other_photos_are_named(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    good, other = (tmp_path / f"{name}.png" for name in ("good", "other"))
    person(96)[0].save(good)
    person(96)[0].rotate(90).save(other)
    fixed = ("--no-align", "--invert-steps", "4", "--steps", "2", *words)
    run(good, "--out", tmp_path / "alone", *fixed, code=0)
    run(other, good, "--out", tmp_path / "both", *fixed, code=0)
    for name in MEMBERS:
        assert (tmp_path / "alone" / f"good.{name}").read_bytes() == (tmp_path / "both" / f"good.{name}").read_bytes()


def test_of_several_faces_the_largest_is_said_to_be_taken_and_its_matte_lies_in_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = [
        Face((20.0, 20.0), (24.0, 20.0), (20.0, 25.0), (24.0, 25.0)),
        Face((62.0, 55.0), (78.0, 55.0), (64.0, 72.0), (76.0, 72.0)),
    ]
    monkeypatch.setattr(enhancing, "load_detector", lambda: lambda photo: faces)
    photo = tmp_path / "photos" / "pair.png"
    photo.parent.mkdir()
    person(140)[0].crop((0, 0, 140, 120)).save(photo)
    done = run(photo, "--out", tmp_path / "out", *FEW, code=0)
    assert "pair.png: 2 faces, the largest is taken" in done.output
    facts = json.loads((tmp_path / "out" / "pair.json").read_text())
    assert facts["faces"] == 2 and facts["measured"] is None
    assert facts["square"]["centre"][0] == pytest.approx(70)
    with Image.open(tmp_path / "out" / "pair.photo_alpha.png") as stored:
        assert stored.size == (140, 120)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("a/x.png", "b/x.jpg", "--out", "out"), "2 photos are named x"),
        (("a/x.png", "--out", "a"), "the photos' own folder"),
        (("a/x.png", "a/y.png", "--true-alpha", "b/x.png", "--out", "out"), "given 1 times for 2 photos"),
        (("--out", "out"), "PHOTO..."),
        (("a/x.png", "--out", "out", "--invert-steps", "-1"), "--invert-steps"),
    ],
)
def test_what_would_mix_up_files_is_refused_before_any_work(
    words: tuple[str, ...], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in run(*words, code=2).output
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_breaks_off_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mattesmith.shards import photos as files

    picture = torch.zeros(3, 8, 8)
    photo: Any = type("Photo", (), {})()
    photo.portrait = type("Portrait", (), {"path": Path("p.jpg")})()
    photo.images = dict.fromkeys(("photo", "inverted", "enhanced"), picture)
    photo.mattes = photo.in_photo = dict.fromkeys(photo.images, torch.ones(1, 8, 8))
    files.write_photo(tmp_path, photo, {"run": 1})
    assert json.loads((tmp_path / "p.json").read_text()) == {"run": 1}

    def full(path: Path, content: bytes) -> None:
        raise OSError("cannot write: no space left")

    monkeypatch.setattr(files, "publish_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        files.write_photo(tmp_path, photo, {"run": 2})
    assert not (tmp_path / "p.json").exists() and not list(tmp_path.glob("*.partial"))
