"""Evaluation: known errors give known numbers, intervals hold the mean, the worst are the worst."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from mattesmith import cli
from mattesmith.enhance.matting.checkpoint import save_network
from mattesmith.enhance.matting.load import Architecture, Matting
from mattesmith.finetune import count_items, items, load_network, run, summary, table, write_json, write_worst
from mattesmith.finetune.networks import full_name


class RedIsAlpha(nn.Module):
    """The red channel, 0..1, and a given error more: the matte of pictures that are their own matte."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.off = off

    def forward(self, image: Tensor) -> Tensor:
        return (image[:, :1] + 1) / 2 + self.off


def matting(off: float = 0.0, *, needs_trimap: bool = False) -> Matting:
    alpha = lambda network, image, trimap: network(image)  # noqa: E731
    architecture = Architecture(lambda: nn.Identity(), alpha, 1, needs_trimap, "", "")
    return Matting(RedIsAlpha(off), architecture, name="red", card={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures that are their own mattes, 32 x 40: a soft column, then a hard edge; ever brighter."""
    for name in ("image", "alpha", "hair"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for number in range(5):
        matte = np.zeros((32, 40), np.uint8)
        matte[:, 20:], matte[:, 19] = 200 + number, 100
        hair = np.zeros((32, 40), np.uint8)
        hair[:16] = 255
        Image.fromarray(np.repeat(matte[..., None], 3, 2)).save(tmp_path / "set" / "image" / f"{number}.png")
        Image.fromarray(matte).save(tmp_path / "set" / "alpha" / f"{number}.png")
        if number < 3:
            Image.fromarray(hair).save(tmp_path / "set" / "hair" / f"{number}.png")
    return tmp_path / "set"


def test_a_constant_error_is_its_own_mean_in_every_region(folder: Path) -> None:
    measured, _ = run(matting(0.1), items(folder), trimap_share=0.03)
    rows = summary(measured).set_index(["region", "metric"])
    for region in ("whole", "unknown", "hair"):
        for metric, mean in (("mad", 100), ("mse", 10)):
            row = rows.loc[region, metric]
            assert (row["mean"], row["low"], row["high"]) == pytest.approx((mean, mean, mean), rel=1e-4)
    assert rows.loc["whole", "sad"]["mean"] == pytest.approx(0.1 * 32 * 40 / 1000, rel=1e-4)
    assert rows.loc["hair", "mad"]["pictures"] == 3 and rows.loc["whole", "mad"]["pictures"] == 5
    # Alphas of 0.78 are soft, too: with hair the upper half from column 17 on, and two rows and columns around it.
    assert {one.num_pixels for one in measured["0"] if one.region == "hair"} == {18 * 23}
    assert {one.divisor for one in measured["0"] if one.metric == "sad"} == {1000}


def test_a_perfect_matte_has_no_error(folder: Path) -> None:
    measured, _ = run(matting(), items(folder))
    assert summary(measured)["mean"].abs().max() < 1e-6


def test_a_network_that_needs_a_trimap_gets_the_true_one(folder: Path) -> None:
    _, worst = run(matting(0.1, needs_trimap=True), items(folder), trimap_share=0.03)
    assert worst[0].pred[0, 0] == 0  # known background, so the error is not seen there
    assert worst[0].pred[0, 19] == pytest.approx(100 / 255 + 0.1, abs=1e-3)


def test_intervals_hold_the_mean_and_grow_with_the_spread(folder: Path) -> None:
    measured, _ = run(matting(0.1), items(folder))
    for number, key in enumerate(measured):
        measured[key] = [type(one)(one.metric, one.region, float(number), 1.0, 1) for one in measured[key]]
    row = summary(measured).iloc[0]
    assert row["low"] < 2 * row["scale"] < row["high"] and row["mean"] == 2 * row["scale"]
    assert row["low"] >= 0 and row["high"] <= 4 * row["scale"]
    assert summary(measured).equals(summary(measured))


def test_the_worst_come_first(folder: Path) -> None:
    class Worse(RedIsAlpha):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * 0.5

    network = matting()
    network.network = Worse()
    _, worst = run(network, items(folder))
    assert [result.item.key for result in worst] == ["4", "3", "2", "1", "0"]


def test_json_and_picture_are_written_whole(folder: Path, tmp_path: Path) -> None:
    measured, worst = run(matting(0.1), items(folder))
    rows = summary(measured)
    write_json(tmp_path / "out.json", measured, rows, {"network": "red"})
    fields = json.loads((tmp_path / "out.json").read_text())
    assert fields["about"] == {"network": "red"}
    assert fields["pictures"]["0"][0].keys() == {"metric", "region", "value", "divisor", "num_pixels"}
    assert {row["region"] for row in fields["summary"]} == {"whole", "unknown", "hair"}
    write_worst(tmp_path / "worst.png", worst)
    with Image.open(tmp_path / "worst.png") as picture:
        assert picture.size == (2 * (4 * 160 + 4) + 4, 3 * (160 + 4) + 4)
    assert "MAD x1000" in table(rows) and "100 [100, 100]" in table(rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "alpha" / "2.png").unlink(), "2 has no alpha"),
        (lambda folder: (folder / "alpha" / "2.png").write_bytes(b"no picture"), r"2\.png cannot be read"),
        (lambda folder: Image.new("L", (3, 3)).save(folder / "alpha" / "2.png"), "sizes must agree"),
        (lambda folder: (folder / "alpha").rename(folder / "matte"), "has no alpha"),
        (lambda folder: [path.unlink() for path in folder.rglob("*.png")], "no pictures to measure on"),
    ],
)
def test_incomplete_folders_are_named(folder: Path, change, said: str) -> None:
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        count_items(folder)
        list(items(folder))


def test_sixteen_bits_are_read_as_sixteen_bits(folder: Path) -> None:
    Image.fromarray(np.full((32, 40), 32768, np.uint16)).save(folder / "alpha" / "0.png")
    assert next(items(folder)).alpha == pytest.approx(0.5, abs=1e-4)


def first(folder: Path) -> tuple[list[int], list[float]]:
    """Levels of the first picture's row 0 and its alpha there, at columns 0, 19 and 39."""
    item = next(items(folder))
    at = [0, 19, 39]
    return np.rint((item.image[0, 0, at].numpy() + 1) * 127.5).astype(int).tolist(), item.alpha[0, at].tolist()


@pytest.mark.parametrize("name", ["image", "alpha"])
def test_a_picture_is_read_the_way_up_its_file_says(folder: Path, name: str) -> None:
    wanted = first(folder)
    with Image.open(folder / name / "0.png") as picture:
        stored = picture.transpose(Image.Transpose.ROTATE_90)  # the tag says how to turn it back
    tag = Image.Exif()
    tag[0x0112] = 6
    stored.save(folder / name / "0.png", exif=tag)
    assert first(folder) == wanted


def test_grey_pictures_of_sixteen_bits_keep_their_levels(folder: Path) -> None:
    wanted = first(folder)
    with Image.open(folder / "image" / "0.png") as picture:
        grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "image" / "0.png")
    assert first(folder) == wanted


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_the_matte_of_a_cut_out_is_its_alpha_channel(folder: Path, mode: str) -> None:
    wanted = first(folder)
    file = folder / "alpha" / "0.png"
    with Image.open(file) as matte:
        cut_out = Image.new(mode.removesuffix("A"), matte.size, "white")
        cut_out.putalpha(matte)
        opaque = matte.convert(mode)
    cut_out.save(file)
    assert first(folder) == wanted
    opaque.save(file)  # its alpha channel says nothing
    assert first(folder) == wanted


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_matte_of_levels_0_and_1_is_refused_and_an_empty_one_is_not(folder: Path, kind: type) -> None:
    levels = np.zeros((32, 40), kind)
    Image.fromarray(levels).save(folder / "alpha" / "0.png")
    assert first(folder)[1] == [0, 0, 0]
    levels[:, 20:] = 1
    Image.fromarray(levels).save(folder / "alpha" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png has levels 0 and 1, expected 0 to (255|65535); multiply"):
        first(folder)


def test_the_command_measures_an_embedded_network_and_refuses_what_it_cannot_load(folder: Path, tmp_path: Path) -> None:
    rest = ["--on", str(folder), "--json", str(tmp_path / "out.json"), "--worst", str(tmp_path / "worst.png")]
    done = CliRunner().invoke(cli.cli, ["evaluate", "default", *rest], catch_exceptions=False)
    assert done.exit_code == 0
    assert "default on 5 pictures" in done.output and "hair" in done.output
    assert json.loads((tmp_path / "out.json").read_text())["about"]["given_trimap"] is False
    assert (tmp_path / "worst.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(cli.cli, ["evaluate", "modnet:no/such.ckpt", *rest])
    assert done.exit_code != 0 and "no/such.ckpt" in str(done.exception)


def test_a_file_of_ours_goes_by_its_card(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_network(file, nn.Linear(1, 1), {"architecture": "unet"})
    assert full_name(str(file)) == f"unet:{file}"
    assert full_name("default") == "default" and full_name(f"modnet:{file}") == f"modnet:{file}"
    file.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"has no card net\.json"):
        full_name(str(file))


def test_a_missing_file_of_ours_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"net\.safetensors: no such checkpoint file"):
        load_network(str(tmp_path / "net.safetensors"))
