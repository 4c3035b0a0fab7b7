"""The perceptual distance: its formula, and that the embedded trunk is the package's network."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mattesmith.enhance.perceptual import (
    LPIPS_TRUNK,
    WEIGHTS,
    LPIPSTrunk,
    Perceptual,
    block_mean,
    load_embedded,
    load_perceptual,
    unit_length,
)
from mattesmith.studio.perceptual import SCALES, make_perceptual

MEAN_BGR = torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1)
WIDTHS = {"block1": (3, 64, 64), "block2": (64, 128, 128), "block3": (128, 256, 256, 256)}


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return load_perceptual()


def picture(seed: int, side: int = 32) -> Tensor:
    few = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(F.interpolate(few, (side, side), mode="bicubic"))


def test_no_change_is_no_distance_and_more_change_is_more(perceptual: Perceptual) -> None:
    image = picture(0, 64)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    distances = [perceptual(image, image + share * noise).item() for share in (0, 0.02, 0.1, 0.5)]
    assert distances[0] == 0 and distances == sorted(distances) and 0 < distances[1] < distances[3] < 6


def test_a_batch_has_one_distance_an_image(perceptual: Perceptual) -> None:
    a, b = torch.cat([picture(1), picture(2)]), torch.cat([picture(1), picture(3)])
    distance = perceptual.distance(perceptual.features(a), perceptual.features(b))
    assert distance.shape == (2,) and distance[0] == 0
    torch.testing.assert_close(distance[1:], perceptual(picture(2), picture(3)))


def test_the_distance_by_hand(perceptual: Perceptual) -> None:
    """One layer, two channels, two positions: ((1 - 0)^2 + (0 - 1)^2 + 0) / 2 = 1; two such layers: 2."""
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    b = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).view(1, 2, 1, 2)
    assert perceptual.distance([a], [b]).tolist() == [1] and perceptual.distance([a, a], [b, b]).tolist() == [2]


def test_features_have_unit_length_and_halving_sizes(perceptual: Perceptual) -> None:
    features = perceptual.features(picture(4))
    assert [tuple(f.shape[1:]) for f in features] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    for feature in features:
        torch.testing.assert_close(feature.square().sum(1), torch.ones(feature.shape[0], *feature.shape[2:]))


def test_fewer_blocks_are_the_first_ones(perceptual: Perceptual) -> None:
    image = picture(5)
    for depth in (1, 2):
        for shallow, deep in zip(perceptual.features(image, depth=depth), perceptual.features(image), strict=False):
            torch.testing.assert_close(shallow, deep)
        assert len(perceptual.features(image, depth=depth)) == depth
    with pytest.raises(ValueError, match="depth must be one of 1 to 3, got 4"):
        perceptual.features(image, depth=4)


def test_a_large_image_is_block_averaged_to_at_most_256() -> None:
    ramp = torch.arange(6.0).view(1, 1, 1, 6)
    assert block_mean(ramp, max_side=3).flatten().tolist() == [0.5, 2.5, 4.5]
    assert block_mean(ramp, max_side=4).flatten().tolist() == [0.5, 2.5, 4.5]
    assert block_mean(ramp, max_side=6) is ramp
    assert block_mean(torch.zeros(1, 3, 1024, 768), max_side=256).shape == (1, 3, 256, 192)
    assert block_mean(torch.ones(1, 3, 301, 257), max_side=256).unique().tolist() == [1]


def test_the_gradient_is_finite_even_where_no_channel_fires(perceptual: Perceptual) -> None:
    dead = torch.zeros(1, 4, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(unit_length(dead).sum(), dead)
    assert bool(gradient.isfinite().all())
    image = picture(6).requires_grad_()
    (gradient,) = torch.autograd.grad(perceptual(image, picture(7)).sum(), image)
    assert bool(gradient.isfinite().all()) and gradient.abs().sum() > 0


def test_it_is_frozen_small_and_has_its_licence_beside(perceptual: Perceptual) -> None:
    perceptual.train()
    assert not perceptual.training and not any(p.requires_grad for p in perceptual.parameters())
    assert WEIGHTS.stat().st_size <= 3.5e6 and perceptual.card["licence"].startswith("MIT")
    assert "MIT License" in WEIGHTS.with_suffix(".LICENSE").read_text()


def test_raw_feature_maps_are_near_1(perceptual: Perceptual) -> None:
    for feature in perceptual.trunk(picture(8, 64)):
        assert 0.2 < feature.square().mean().sqrt() < 5 and feature.min() == 0


def test_a_missing_trunk_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="trunk is missing"):
        load_embedded(tmp_path / "none.safetensors")


def test_the_trunk_made_from_the_packages_layout_computes_the_packages_network(tmp_path: Path) -> None:
    """A file in the package's layout, run as the package runs it: BGR in 0..255 minus the mean, zero padding after."""
    h5py = pytest.importorskip("h5py")
    random = torch.Generator().manual_seed(0)
    x = (picture(9, 20) + 1).flip(1) * 127.5 - MEAN_BGR
    expected: list[Tensor] = []
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for block, widths in WIDTHS.items():
            x = F.max_pool2d(x, 2) if expected else x
            for i, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
                kernel = torch.randn(c_out, c_in, 3, 3, generator=random) * (2 / (9 * c_in)) ** 0.5
                bias = torch.randn(c_out, generator=random)
                name = f"{block}/layers/conv2d" + (f"_{i}" if i else "") + "/vars"
                file[f"{name}/0"], file[f"{name}/1"] = kernel.permute(2, 3, 1, 0).numpy(), bias.numpy()
                x = F.relu(F.conv2d(x, kernel, bias, padding=1))
            expected.append(x / SCALES[f"{block}.{len(widths) - 2}"])
    make_perceptual(tmp_path / "weights.h5", tmp_path / "trunk.safetensors")
    for found, wanted in zip(
        load_embedded(tmp_path / "trunk.safetensors").trunk(picture(9, 20)), expected, strict=True
    ):
        assert (found - wanted).abs().max() < 3e-3 * wanted.abs().max()


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGG16 as torchvision saves it, of random weights that keep the scale of what they are given."""
    random = torch.Generator().manual_seed(0)
    state = {"classifier.0.weight": torch.zeros(1), "classifier.0.bias": torch.zeros(1)}
    for key, shape in ((key, value.shape) for key, value in LPIPSTrunk().state_dict().items()):
        deviation = 0.05 if len(shape) == 1 else (2 / (9 * shape[1])) ** 0.5
        state[key] = torch.randn(shape, generator=random) * deviation
    file = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    torch.save(state, file)
    return file


def test_lpips_is_the_packages_distance(vgg16_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the lpips package's own network on the same trunk."""
    lpips = pytest.importorskip("lpips")
    vgg = pytest.importorskip("torchvision.models.vgg")
    state = torch.load(vgg16_file, weights_only=True)
    layers = vgg.make_layers(vgg.cfgs["D"])
    layers.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    # What the package would fetch.
    monkeypatch.setattr(lpips.pretrained_networks.tv, "vgg16", lambda pretrained: SimpleNamespace(features=layers))
    theirs = lpips.LPIPS(net="vgg", verbose=False)
    found = load_perceptual(f"lpips:{vgg16_file}")

    a, b = picture(1, 37), picture(2, 37).requires_grad_()
    ours, expected = found(a, b), theirs(a, b).flatten()
    assert expected.item() > 0.05 and abs(ours - expected).item() <= 1e-5
    gradient, wanted = (torch.autograd.grad(each.sum(), b)[0] for each in (ours, expected))
    assert (gradient - wanted).abs().max() <= 1e-3 * wanted.abs().max()
    assert found(a, a).item() == 0 and len(found.features(a)) == 5 and len(found.features(a, depth=2)) == 2


def test_lpips_says_what_it_is(vgg16_file: Path) -> None:
    lpips = load_perceptual(f"lpips:{vgg16_file}")
    lpips.train()
    assert not lpips.training and not any(p.requires_grad for p in lpips.parameters())
    assert lpips.card["name"] == "lpips with another trunk" and "BSD" in lpips.card["licence"]
    assert len(lpips.card["sha256"]) == len(lpips.card["heads_sha256"]) == 64


def test_lpips_never_fetches_its_trunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg16_file: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"{LPIPS_TRUNK}: LPIPS needs .* never fetched .* lpips:FILE"):
        load_perceptual("lpips")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / LPIPS_TRUNK).write_bytes(vgg16_file.read_bytes())
    with pytest.raises(ValueError, match=r"expected torchvision's file \(sha256 397923af"):
        load_perceptual("lpips")


@pytest.mark.parametrize("name", ["", "vgg", "lpips:", "embedded:x"])
def test_an_unknown_distance_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name!r}; known: embedded, lpips, lpips:FILE"):
        load_perceptual(name)


def test_a_file_of_something_else_is_no_trunk(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: expected the 26 tensors of LPIPSTrunk, found 1"):
        load_perceptual(f"lpips:{tmp_path / 'other.pth'}")
