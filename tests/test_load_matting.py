"""Any name or file becomes a frozen matting network, or one clear line."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mattesmith.enhance.matting import Matting, load, load_matting, save_network
from mattesmith.enhance.matting.checkpoint import canonical_keys, load_strictly, read_state
from mattesmith.enhance.matting.modnet import MODNet
from mattesmith.enhance.matting.unet import UNet

CARD = {"architecture": "unet", "name": "test", "licence": "CC0-1.0", "source": "this test"}


class Shared(nn.Module):
    """One convolution under two names, and one that counts batches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1)
        self.second = nn.ModuleDict({"again": self.first})
        self.norm = nn.BatchNorm2d(2)


@pytest.fixture(scope="module")
def unet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("unet") / "unet.safetensors"
    save_network(file, UNet(), CARD)
    return file


@pytest.fixture(scope="module")
def matting(unet_file: Path) -> Matting:
    return load_matting(f"unet:{unet_file}")


def images(*size: int) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_it_is_frozen_and_stays_so(matting: Matting) -> None:
    assert not any(parameter.requires_grad for parameter in matting.parameters())
    matting.train()
    assert not any(module.training for module in matting.modules())


def test_any_size_goes_in_and_comes_out(matting: Matting) -> None:
    for size in [(1, 1), (7, 50), (32, 64), (33, 17)]:
        alpha = matting(images(2, 3, *size))
        assert alpha.shape == (2, 1, *size) and alpha.min() >= 0 and alpha.max() <= 1


def test_a_size_that_fits_is_the_bare_networks_answer(matting: Matting) -> None:
    image = images(1, 3, 32, 48)
    torch.testing.assert_close(matting(image), matting.network(image))


def test_padding_repeats_the_edge_and_is_cropped_back(matting: Matting) -> None:
    """A picture of 32 px whose first and last two rows repeat the third: cut to 28 px, it is padded to itself."""
    image = images(1, 3, 32, 32)
    image[:, :, :2], image[:, :, 30:] = image[:, :, 2:3], image[:, :, 29:30]
    torch.testing.assert_close(matting(image[:, :, 2:30]), matting(image)[:, :, 2:30])


def test_the_image_takes_a_gradient(matting: Matting) -> None:
    image = images(1, 3, 20, 20).requires_grad_()
    (gradient,) = torch.autograd.grad(matting(image).sum(), image)
    assert bool((gradient.abs().sum(1) > 0).all())


class Overshooting(nn.Module):
    """Says twice the mean of its first three channels, wherever it may lead."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x[:, :3].mean(1, keepdim=True)


def trimap_network() -> Matting:
    return Matting(Overshooting(), load.ARCHITECTURES["dim"], name="dim", card={})


def test_known_pixels_are_the_trimaps_and_only_the_unknown_are_estimated() -> None:
    trimap = torch.tensor([0, 0.5, 128 / 255, 1]).view(1, 1, 2, 2)
    image = torch.full((1, 3, 2, 2), -1.0).requires_grad_()
    alpha = trimap_network()(image, trimap)
    assert alpha.flatten().tolist() == [0, 0, 0, 1]  # 0, twice the overshooting estimate limited to [0, 1], 1
    (gradient,) = torch.autograd.grad(alpha.sum(), image)
    assert (gradient.abs().sum(1).flatten() > 0).tolist() == [False, True, True, False]


def test_a_trimap_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"trimap must be \[1, 1, 4, 4\] for this image, got \[1, 1, 4, 2\]"):
        trimap_network()(images(1, 3, 4, 4), torch.zeros(1, 1, 4, 2))


def test_a_missing_trimap_is_derived_from_the_coarse_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coarse network halves the picture; the unknown region is 3 % of 100 px on either side of its edge."""
    coarse = torch.zeros(1, 1, 100, 100)
    coarse[..., 50:] = 1
    matting = trimap_network()
    halved = Matting(nn.Identity(), load.ARCHITECTURES["unet"], name="default", card={})
    monkeypatch.setattr(Matting, "forward", lambda self, image: image)
    monkeypatch.setattr(load, "load_matting", lambda name: halved if name == "default" else None)
    assert matting.needs_trimap and matting.coarse_matting is None
    trimap = matting.derive_trimap(coarse)
    assert (trimap[0, 0, 0] == 0.5).nonzero().flatten().tolist() == list(range(47, 53))
    assert not trimap.requires_grad


def test_a_network_with_classes_gives_its_likeliest_as_the_trimap() -> None:
    """Logits are the picture's own channels; its second row is unknown, though the first class comes near."""
    deeplab = Matting(nn.Identity(), load.ARCHITECTURES["deeplab"], name="deeplab", card={})
    matting = trimap_network()
    matting.coarse_matting = deeplab
    image = torch.tensor([[3.0, 0.9, -5.0], [2.0, 1.0, -4.0], [1.0, 0.0, -3.0]]).view(1, 3, 3, 1).requires_grad_()
    trimap = matting.derive_trimap(image)
    assert trimap.flatten().tolist() == [0, 0.5, 1] and not trimap.requires_grad


def test_a_coarse_network_that_needs_a_trimap_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "load_matting", lambda name: trimap_network())
    with pytest.raises(ValueError, match="default: expected a network that trimaps can be derived from"):
        trimap_network().trimap_network()


def test_a_missing_coarse_network_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.EMBEDDED, "default", tmp_path / "matting.safetensors")
    with pytest.raises(FileNotFoundError, match="studio train-matting"):
        trimap_network()(images(1, 3, 32, 32))


def test_what_is_not_an_image_batch_is_named(matting: Matting) -> None:
    with pytest.raises(ValueError, match=r"\[N, 3, H, W\], got \[3, 8, 8\]"):
        matting(images(3, 8, 8))


def test_a_saved_network_comes_back_in_float32_with_its_card(unet_file: Path, matting: Matting) -> None:
    torch.manual_seed(0)
    for key, value in UNet().state_dict().items():
        loaded = matting.network.state_dict()[key]
        assert loaded.dtype == torch.float32
        torch.testing.assert_close(loaded, value.half().float(), rtol=0, atol=0)
    assert matting.card.items() >= CARD.items() and len(matting.card["sha256"]) == 64
    assert unet_file.stat().st_size < 2.2 * sum(value.numel() for value in matting.network.parameters())
    assert not list(unet_file.parent.glob("*.partial"))


def test_the_same_network_is_saved_as_the_same_bytes(unet_file: Path, matting: Matting, tmp_path: Path) -> None:
    save_network(tmp_path / "again.safetensors", matting.network, CARD)
    assert (tmp_path / "again.safetensors").read_bytes() == unet_file.read_bytes()
    assert (tmp_path / "again.json").read_bytes() == unet_file.with_suffix(".json").read_bytes()


def test_a_value_too_large_for_half_precision_is_kept(tmp_path: Path) -> None:
    network = nn.Conv2d(1, 1, 1)
    nn.init.constant_(network.weight, 1e6)
    save_network(tmp_path / "large.safetensors", network, CARD)
    assert read_state(tmp_path / "large.safetensors")["weight"].item() == 1e6


def test_a_shared_module_is_stored_once_and_loaded_under_both_names(tmp_path: Path) -> None:
    network, again = Shared(), Shared()
    save_network(tmp_path / "shared.safetensors", network, CARD)
    state = read_state(tmp_path / "shared.safetensors")
    assert "second.again.weight" in state and "first.weight" not in state
    load_strictly(again, state, file=tmp_path)
    torch.testing.assert_close(again.first.weight, network.first.weight.half().float())


def test_of_two_copies_of_a_shared_tensor_the_last_wins() -> None:
    network = Shared()
    state = network.state_dict() | {
        "first.weight": torch.zeros(2, 1, 1, 1),
        "second.again.weight": torch.ones(2, 1, 1, 1),
    }
    load_strictly(network, state, file=Path("two.pt"))
    assert network.first.weight.unique().tolist() == [1]


def test_modnets_backbone_is_one_module_with_two_names() -> None:
    canonical = canonical_keys(MODNet())
    assert canonical["backbone.model.features.0.0.weight"] == "lr_branch.backbone.model.features.0.0.weight"


def test_missing_batch_counts_do_not_matter() -> None:
    network = Shared()
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_strictly(network, state, file=Path("old.pt"))


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "module", "both"])
def test_wrapper_and_prefix_come_off(wrap: str, matting: Matting, tmp_path: Path) -> None:
    state = dict(matting.network.state_dict())
    if wrap in ("module", "both"):
        state = {f"module.{key}": value for key, value in state.items()}
    record = argparse.Namespace(lr=0.1)
    wrapped = {"state_dict": state, "epoch": 3, "best": np.float64(0.5), "args": record}
    torch.save(wrapped if wrap in ("state_dict", "both") else state, tmp_path / "net.pth.tar")
    image = images(1, 3, 32, 32)
    torch.testing.assert_close(load_matting(f"unet:{tmp_path / 'net.pth.tar'}")(image), matting(image))


class OnlyChild(nn.Module):
    """A network of one's own whose keys all begin with the name of its only child."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Sequential(nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize("child", ["net", "model", "module", "body"])
@pytest.mark.parametrize("wrapper", ["", "module.", "net.", "module._orig_mod.", "model."])
def test_a_prefix_that_is_the_networks_own_stays(child: str, wrapper: str, tmp_path: Path) -> None:
    network, again, file = OnlyChild(child), OnlyChild(child), tmp_path / "net.pth"
    torch.save({wrapper + key: value for key, value in network.state_dict().items()}, file)
    load_strictly(again, read_state(file), file=file)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value)


def test_what_is_missing_is_told_under_the_networks_own_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 missing \(first: net\.0\.bias\)$"):
        load_strictly(OnlyChild("net"), {"net.0.weight": torch.zeros(1, 1, 1, 1)}, file=tmp_path)


def test_integer_buffers_are_stored_as_they_are(tmp_path: Path) -> None:
    """Half precision has no odd numbers above 2048; a table of relative positions has such."""
    network, again, file = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), tmp_path / "indices.safetensors"
    index = torch.arange(2040, 2060)
    network.register_buffer("relative_position_index", index)
    again.register_buffer("relative_position_index", torch.zeros_like(index))
    network.register_buffer("mask", torch.tensor([True, False]))
    again.register_buffer("mask", torch.tensor([False, False]))
    save_network(file, network, CARD)
    assert read_state(file)["weight"].dtype == torch.float16
    load_strictly(again, read_state(file), file=file)
    found = again.state_dict()["relative_position_index"]
    assert found.dtype == torch.int64 and torch.equal(found, index)
    assert again.state_dict()["mask"].tolist() == [True, False]


def test_a_file_from_before_torch_1_6_loads(matting: Matting, tmp_path: Path) -> None:
    torch.save(matting.network.state_dict(), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    image = images(1, 3, 32, 32)
    torch.testing.assert_close(load_matting(f"unet:{tmp_path / 'old.ckpt'}")(image), matting(image))


def test_a_file_without_a_card_loads_with_its_hash(matting: Matting, tmp_path: Path) -> None:
    torch.save(matting.network.state_dict(), tmp_path / "net.pth")
    card = load_matting(f"unet:{tmp_path / 'net.pth'}").card
    assert {"architecture", "name", "licence", "source", "sha256"} <= card.keys() and card["name"] == "net.pth"


def test_a_card_of_another_file_is_refused(unet_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "unet.safetensors"
    file.write_bytes(unet_file.read_bytes())
    file.with_suffix(".json").write_text(json.dumps(CARD | {"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"sha256 000000000000.*get both again"):
        load_matting(f"unet:{file}")
    file.with_suffix(".json").write_text(json.dumps(CARD | {"sha256": 12}))
    with pytest.raises(ValueError, match=r"sha256 12\).*get both again"):
        load_matting(f"unet:{file}")


@pytest.mark.parametrize("name", ["", "modnet", "modnet:", "resnet:file.pth", "Default"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"{name!r}; known: default, second, modnet:FILE, unet:FILE, gca:FILE")
    ):
        load_matting(name)


def test_a_missing_embedded_network_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.EMBEDDED, "second", tmp_path / "second.safetensors")
    with pytest.raises(FileNotFoundError, match=r"python cli.py studio train-matting"):
        load_matting("second")


def test_the_card_says_which_network_the_embedded_one_is(
    unet_file: Path, matting: Matting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(load.EMBEDDED, "default", unet_file)
    default = load_matting("default")
    assert default.name == "default" and isinstance(default.network, UNet)
    torch.testing.assert_close(default(images(1, 3, 16, 16)), matting(images(1, 3, 16, 16)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt: no such"):
        load_matting(f"modnet:{tmp_path / 'absent.ckpt'}")


def write_bad(kind: str, file: Path, unet_file: Path) -> None:
    network = nn.Conv2d(1, 1, 1)
    nan = {key: value * float("nan") for key, value in UNet().state_dict().items()}
    whole = unet_file.read_bytes()
    if kind == "directory":
        file.mkdir()
    elif kind in ("foreign", "object", "list", "number", "nan", "shape"):
        shape = UNet().state_dict() | {"predict.bias": torch.zeros(2)}
        saved: dict[str, Any] = {
            "foreign": network.state_dict(),
            "object": {"state_dict": network},
            "list": [1],
            "number": {"epoch": 1},
            "nan": nan,
            "shape": shape,
        }
        torch.save(saved[kind], file)
    else:
        written = {
            "empty": b"",
            "html": b"\n<!DOCTYPE html><html>quota exceeded</html>",
            "pointer": b"version https://git-lfs.github.com/spec/v1\n",
            "text": b"not a checkpoint at all",
            "cut": whole[: len(whole) // 2],
            "half": whole[:100],
        }
        file.write_bytes(written[kind])


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("directory", "a directory"),
        ("empty", "an empty file"),
        ("html", "a web page"),
        ("pointer", "a Git LFS pointer"),
        ("text", "a damaged, truncated or foreign file"),
        ("cut", "a damaged one"),
        ("half", "a damaged one"),
        ("foreign", "missing"),
        ("object", "never loaded"),
        ("list", "list without tensors"),
        ("number", "'epoch': int"),
        ("nan", "not finite"),
        ("shape", r"predict.bias \[2\], not \[1\]"),
    ],
)
def test_a_bad_file_is_one_clear_line(kind: str, found: str, unet_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.ckpt"
    write_bad(kind, file, unet_file)
    with pytest.raises(ValueError, match=rf"bad\.ckpt: expected .*found .*{found}") as caught:
        load_matting(f"unet:{file}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_cut_torch_file_is_one_clear_line(tmp_path: Path, matting: Matting) -> None:
    torch.save(matting.network.state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.pth: expected .*found a damaged, truncated or foreign file"):
        load_matting(f"unet:{tmp_path / 'cut.pth'}")
