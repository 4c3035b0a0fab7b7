"""Finetuning learns, resumes as if never stopped, keeps the best, and writes what loads again."""

import csv
import json
import math
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from mattesmith import cli, shards
from mattesmith.enhance import Enhanced
from mattesmith.filters import Scored
from mattesmith.finetune import finetune, load_network
from mattesmith.finetune import train as module
from mattesmith.finetune.feed import Feed, held_out
from mattesmith.finetune.networks import recipe_of, unfrozen
from mattesmith.finetune.pictures import folder_sum
from mattesmith.finetune.snapshots import load_state, save_state
from mattesmith.gen import Latents, Sample

SIDE = 32
FACTORY = "tiny_matting:network"
SOURCE = """
from torch import nn

def network():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1)]
    return nn.Sequential(*layers, nn.Sigmoid())

def dropping():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Dropout2d(0.5), nn.Conv2d(8, 1, 3, padding=1), nn.Sigmoid())

def halving():
    return nn.Conv2d(3, 1, 3, stride=2, padding=1)

def failing():
    return nn.Conv2d(4, 1, 1)

nothing = 3

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def factory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("code")
    (folder / "tiny_matting.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)
    torch.set_num_threads(1)


def portraits(shard: int) -> Iterator[Scored]:
    """White people in the middle."""
    for candidate in range(20):
        alpha = torch.zeros(1, SIDE, SIDE)
        alpha[:, 8 + candidate % 4 :, 10:22] = 1
        white = torch.ones(3, SIDE, SIDE)
        sample = Sample(Latents(1, shard, candidate, torch.zeros(4)), torch.zeros(2, 4), (), white)
        yield Scored(Enhanced(sample, sample.ws, (), white, alpha, white, {}, 1), {"coverage": 0.5}, -1.0, None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty portraits in two shards."""
    folder = tmp_path_factory.mktemp("made") / "people"
    config = {"n": 20, "shard_size": 10}
    with shards.open_dataset(folder, config):
        for shard, quota in shards.plan(20, 10):
            shards.write_shard(folder, shard, quota, portraits(shard), max_candidates=20)
        card = {"name": "tiny", "licence": "MIT", "sha256": "12"}
        shards.finish(folder, config=config, n=20, networks=[card])
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three black pictures with an empty matte, larger than the portraits and not square."""
    folder = tmp_path_factory.mktemp("real") / "photographs"
    for name, mode in (("image", "RGB"), ("alpha", "L")):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.new(mode, (50, 40)).save(folder / name / f"{number}.png")
    return folder


def tiny(dataset: Path, out: Path, **knobs) -> dict:
    return finetune(dataset, out, **{"network": FACTORY, "steps": 10, "batch": 4, "size": SIDE, "lr": 0.01} | knobs)


def assert_same(a, b) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b or (math.isnan(a) and math.isnan(b))


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The next run is interrupted before this step."""
    train_step = module.Run.train_step

    def killed(self, *batch):
        if self.step == step:
            monkeypatch.setattr(module.Run, "train_step", train_step)
            raise KeyboardInterrupt
        train_step(self, *batch)

    monkeypatch.setattr(module.Run, "train_step", killed)


# Whole runs


def test_it_learns_and_keeps_the_best_and_what_it_writes_loads_again(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "net.safetensors"
    card = tiny(dataset, out, steps=120, lr=0.03)
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(0, 121, 6)) and rows[0]["loss"] == ""
    mads = [float(row["mad"]) for row in rows]
    assert min(mads) < 0.7 * mads[0]
    assert card["measured"]["mad"] == min(mads) and card["best_step"] == int(rows[int(np.argmin(mads))]["step"])
    with Image.open(out.with_suffix(".png")) as curve:
        assert curve.size == (720, 480)

    matting = load_network(str(out))
    pictures = Feed(dataset, batch=4, size=SIDE, trimap_px=None, seed=0).validation()
    assert module.mean_error(matting, pictures) == pytest.approx(min(mads), rel=0.01)  # half precision on the disk
    written = json.loads(out.with_suffix(".json").read_text())
    assert written["continues"]["name"] == FACTORY and written["data"]["networks"][0]["licence"] == "MIT"
    assert written["data"]["config_hash"] == json.loads((dataset / "dataset.json").read_text())["config_hash"]
    assert written["licence"] == "other"  # nobody knows the factory's


@pytest.mark.parametrize("step", [0, 5])
def test_a_killed_run_ends_with_the_same_numbers(
    dataset: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    mixed = {"real": photographs, "real_share": 0.25}
    tiny(dataset, tmp_path / "whole.safetensors", **mixed)
    kill_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        tiny(dataset, tmp_path / "parts.safetensors", snapshot_s=0.0, **mixed)
    assert load_state(tmp_path / "parts.state.pt")["step"] == step and not (tmp_path / "parts.safetensors").exists()
    tiny(dataset, tmp_path / "parts.safetensors", **mixed)
    assert_same(*(load_state(tmp_path / f"{name}.state.pt") for name in ("whole", "parts")))
    for suffix in ("safetensors", "csv", "json"):
        assert (tmp_path / f"whole.{suffix}").read_bytes() == (tmp_path / f"parts.{suffix}").read_bytes()


def test_what_a_network_draws_follows_from_the_seed_and_the_step_alone(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = {"network": "tiny_matting:dropping", "steps": 4}
    torch.manual_seed(1)
    tiny(dataset, tmp_path / "whole.safetensors", **knobs)
    kill_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        tiny(dataset, tmp_path / "parts.safetensors", snapshot_s=0.0, **knobs)
    torch.manual_seed(2)  # another process has drawn other numbers by then
    tiny(dataset, tmp_path / "parts.safetensors", **knobs)
    assert_same(*(load_state(tmp_path / f"{name}.state.pt") for name in ("whole", "parts")))


def test_another_folder_of_the_same_name_is_refused_and_one_that_moved_is_not(
    dataset: Path, photographs: Path, tmp_path: Path
) -> None:
    moved, other = (tmp_path / name / photographs.name for name in ("moved", "other"))
    for folder in (moved, other):
        shutil.copytree(photographs, folder)
    Image.new("L", (50, 40), 255).save(other / "alpha" / "1.png")
    out = tmp_path / "net.safetensors"
    card = tiny(dataset, out, steps=1, real=photographs, real_share=0.25, validate_on=photographs)
    assert tiny(dataset, out, steps=1, real=moved, real_share=0.25, validate_on=moved) == card
    with pytest.raises(ValueError, match=r"other settings .*real_sum: .* / .*; use the same settings"):
        tiny(dataset, out, steps=1, real=other, real_share=0.25, validate_on=photographs)
    with pytest.raises(ValueError, match=r"other settings .*validate_on_sum: .* / .*; use the same settings"):
        tiny(dataset, out, steps=1, real=photographs, real_share=0.25, validate_on=other)
    saved = load_state(out.with_suffix(".state.pt"))  # as an older version wrote it, which knew names alone
    saved["settings"] = {name: value for name, value in saved["settings"].items() if not name.endswith("_sum")}
    save_state(out.with_suffix(".state.pt"), saved)
    assert tiny(dataset, out, steps=1, real=photographs, real_share=0.25, validate_on=photographs) == card
    assert folder_sum(dataset) == json.loads((dataset / "dataset.json").read_text())["config_hash"]


def test_run_again_it_changes_nothing_and_other_settings_are_refused(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    card = tiny(dataset, out, steps=2)
    before = out.read_bytes()
    assert tiny(dataset, out, steps=2) == card and out.read_bytes() == before
    with pytest.raises(ValueError, match=r"other settings .*lr: 0.01 / 0.02"):
        tiny(dataset, out, steps=2, lr=0.02)
    out.with_suffix(".state.pt").unlink()
    with pytest.raises(ValueError, match="exists already"):
        tiny(dataset, out, steps=2)


def test_a_start_that_nothing_beats_is_kept(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(module, "mean_error", lambda matting, pictures: next(errors))
    card = tiny(dataset, tmp_path / "net.safetensors", steps=2)
    assert card["best_step"] == 0 and card["measured"]["mad"] == 1.0
    start = load_network(FACTORY).network.state_dict()
    kept = load_network(f"{FACTORY}:{tmp_path / 'net.safetensors'}").network.state_dict()
    assert torch.equal(start["0.weight"].half().float(), kept["0.weight"])


@pytest.mark.parametrize("network", ["default", "second"])
def test_the_embedded_networks_are_trained_with_their_own_losses(network: str, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    card = finetune(dataset, out, network=network, steps=1, batch=2, size=SIDE)
    kind = {"default": "modnet", "second": "unet"}[network]
    assert card["architecture"] == kind and card["continues"]["sha256"] == load_network(network).card["sha256"]
    assert ("semantic" in card["recipe"]) == (kind == "modnet")
    assert load_network(f"{kind}:{out}")(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 1, SIDE, SIDE)


def test_the_command_trains_and_says_what_it_kept(dataset: Path, photographs: Path, tmp_path: Path) -> None:
    words = ["finetune", str(dataset), "--out", str(tmp_path / "net.safetensors"), "--network", FACTORY, "--steps", "2",
             "--batch", "2", "--size", "32", "--real", str(photographs), "--validate-on", str(photographs)]  # fmt: skip
    done = CliRunner().invoke(cli.cli, words, catch_exceptions=False)
    assert done.exit_code == 0 and "3 validation pictures" in done.output and "at the start" in done.output
    assert json.loads((tmp_path / "net.json").read_text())["settings"]["num_real"] == 1


# Parts


def test_trimap_networks_are_told_what_is_known_and_keep_their_fixed_tensors() -> None:
    from mattesmith.enhance.matting.load import ARCHITECTURES, Matting

    torch.manual_seed(0)
    matting = Matting(ARCHITECTURES["gca"].build(), ARCHITECTURES["gca"], name="gca", card={"architecture": "gca"})
    network = unfrozen(matting)
    fixed = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert fixed and all(name.endswith(("weight_u", "weight_v")) for name in fixed)
    image, alpha = torch.zeros(2, 3, 32, 32), torch.full((2, 1, 32, 32), 0.3)
    known, unknown = (torch.full((2, 1, 32, 32), level) for level in (0.0, 0.5))
    loss = recipe_of(matting).loss
    assert loss(network, image, alpha, known) == 0  # the trimap says it all
    error = loss(network, image, alpha, unknown)
    error.backward()
    assert error > 0 and any(parameter.grad is not None for parameter in network.parameters())


def test_held_out_samples_are_never_trained_on_and_stay_the_same(dataset: Path, photographs: Path) -> None:
    keys = [f"{number:010d}" for number in range(2000)]
    assert held_out(keys) == held_out(keys[:1900]) | held_out(keys) and 60 < len(held_out(keys)) <= 128
    assert len(held_out(keys[:3])) == 1 and len(held_out(keys[:20])) == 4
    feed = Feed(dataset, batch=4, size=SIDE, trimap_px=(1, 3), seed=0, real=photographs, real_share=0.25)
    batches = feed.batches(0, 0)
    seen = [next(batches) for _ in range(12)]
    trained = {key for _, _, batch in seen for key in batch["key"][:3]}
    validated = {item.key for item in feed.validation()}
    assert validated and not trained & validated
    assert {key for _, _, batch in seen for key in batch["key"][3:]} <= {"0", "1", "2"}
    assert {batch["trimap"].shape for _, _, batch in seen} == {(4, 1, SIDE, SIDE)}
    assert [epoch for epoch, _, _ in seen] == [0] * 5 + [1] * 5 + [2] * 2  # 16 samples, 3 of them a batch
    assert torch.equal(feed.validation()[0].image, feed.validation()[0].image)
    again = feed.batches(1, 2)
    for _, _, batch in seen[7:]:
        assert torch.equal(next(again)[2]["image"], batch["image"])


def test_real_pictures_with_foregrounds_come_mostly_over_new_backgrounds(
    dataset: Path, photographs: Path, tmp_path: Path
) -> None:
    # Nobody is in them, so what is seen is the background: black as it is, drawn where it is new (and then often dark).
    with_fg = tmp_path / "photographs"
    shutil.copytree(photographs, with_fg)
    shutil.copytree(with_fg / "image", with_fg / "fg")

    def share_of_new(folder: Path) -> float:
        feed = Feed(dataset, batch=8, size=SIDE, trimap_px=None, seed=0, real=folder, real_share=0.5)
        pictures = torch.cat([batch["image"][4:] for _, _, batch in islice(feed.batches(0, 0), 20)])
        return float((pictures.mean((1, 2, 3)) > -0.5).float().mean())

    assert share_of_new(photographs) == 0 and 0.4 < share_of_new(with_fg) < 0.9


def test_portraits_can_keep_their_own_background(dataset: Path, tmp_path: Path) -> None:
    # The portraits are white all over: their own background is as bright as they are.
    def brightest_corners(originals: float) -> float:
        feed = Feed(dataset, batch=4, size=SIDE, trimap_px=None, seed=0, originals=originals)
        pictures = torch.cat([batch["image"] for _, _, batch in islice(feed.batches(0, 0), 5)])
        return float((pictures[:, :, 0, 0].mean(1) > 0.5).float().mean())

    assert brightest_corners(1.0) == 1 and brightest_corners(0.0) < 0.5
    card = tiny(dataset, tmp_path / "net.safetensors", steps=1, originals=1.0)
    assert card["settings"]["originals"] == 1.0


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"network": "tiny_matting:missing"}, "has no callable missing"),
        ({"network": "tiny_matting:nothing"}, "has no callable nothing"),
        ({"network": "tiny_matting:number"}, r"must return a torch\.nn\.Module, got int"),
        ({"network": "tiny_matting:halving"}, r"halving must give alpha \[1, 1, 32, 32\], got \[1, 1, 16, 16\]"),
        ({"network": "tiny_matting:failing"}, r"failing fails on an image \[1, 3, 32, 32\]: Given groups=1"),
        ({"network": "no_such_module:network"}, "no module no_such_module can be imported"),
        ({"network": "deeplab:x"}, "no such checkpoint"),
        ({"batch": 30}, "16 samples to train on, too few for batches of 30"),
        ({"batch": 1}, "batch must be 2 or more"),
        ({"size": 40}, "multiple of 32"),
        ({"lr": 1e30, "steps": 30}, "the loss is nan"),
        ({"real": Path("/"), "real_share": 0.0}, r"share in \(0, 1\)"),
        ({"validate_on": Path("nowhere")}, "no such folder"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(dataset: Path, tmp_path: Path, knobs: dict, said: str) -> None:
    with pytest.raises((ValueError, OSError), match=said) as error:
        tiny(dataset, tmp_path / "net.safetensors", **knobs)
    assert "\n" not in str(error.value) and not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetune", "people", "--out", "net.safetensors"], "a smaller --batch (and another --out)"),
        (["studio", "train-matting"], "a smaller --batch (and another --state)"),
        (["generate"], "fewer --slots (and another dataset)"),
    ],
)
def test_out_of_memory_names_an_option_that_the_command_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    def full(**knobs) -> None:
        raise torch.OutOfMemoryError("12 GiB")

    monkeypatch.setattr(sys, "argv", ["mattesmith", *words])
    monkeypatch.setattr(cli.cli, "main", full)
    with pytest.raises(SystemExit):
        cli._run_command()
    assert f"nothing is lost; use {said}: 12 GiB" in capsys.readouterr().err


def test_a_broken_sample_is_one_line_also_from_a_worker(dataset: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    for name in ("image", "alpha"):
        (pictures / name).mkdir(parents=True)
        (pictures / name / "1.png").write_bytes(b"no picture")
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"1\.png cannot be read as a picture") as error:
            tiny(dataset, tmp_path / f"{workers}.safetensors", real=pictures, real_share=0.5, workers=workers)
        assert "\n" not in str(error.value)
