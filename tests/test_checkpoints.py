"""Networks come back from files exactly, or not at all and with one clear line."""

import argparse
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mattesmith.gen import (
    GENERATOR_FILES,
    Absent,
    Discriminator,
    Generator,
    load_discriminator,
    load_generator,
    save_network,
)
from mattesmith.gen import checkpoints as module

CARD = {"name": "tiny", "licence": "Apache-2.0", "source": "a test"}
CHANNELS = {4: 6, 8: 5, 16: 4}
Load = Callable[[Path], Generator | Discriminator]


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(1)
    return Generator(
        resolution=16, channels=CHANNELS, z_dim=7, w_dim=8, num_mapping_layers=3, mapping_lr=0.02, clamp=256.0
    )


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(2)
    return Discriminator(resolution=16, channels=CHANNELS, group=2)


def refusal(load: Load, path: Path, *, kind: type[Exception] = ValueError) -> str:
    """The one line with which a file is refused; it begins with the file."""
    with pytest.raises(kind) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < 600
    return line.removeprefix(f"{path}: ")


def rosinality_names(generator: Generator) -> dict[str, Tensor]:
    """A generator's state dict under rosinality's names and shapes, written out independently of gen/rosinality.py."""
    fir = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 16
    state = {"input.input": generator.get_parameter("blocks.4.const")}
    for i in range(3):
        for name in ("weight", "bias"):
            state[f"style.{i + 1}.{name}"] = generator.get_parameter(f"dense.{i}.{name}")
    layers = {"4.conv": "conv1", "8.up": "convs.0", "8.conv": "convs.1", "16.up": "convs.2", "16.conv": "convs.3"}
    layers |= {"4.to_rgb": "to_rgb1", "8.to_rgb": "to_rgbs.0", "16.to_rgb": "to_rgbs.1"}
    for number, (ours, theirs) in enumerate(layers.items()):
        layer = generator.get_submodule(f"blocks.{ours}")
        state[f"{theirs}.conv.weight"] = layer.get_parameter("weight")[None]
        state[f"{theirs}.conv.modulation.weight"] = layer.get_parameter("style.weight")
        state[f"{theirs}.conv.modulation.bias"] = layer.get_parameter("style.bias")
        if "rgb" in theirs:
            state[f"{theirs}.bias"] = layer.get_parameter("bias").reshape(1, 3, 1, 1)
        else:
            state[f"{theirs}.activate.bias"] = layer.get_parameter("bias")
            state[f"{theirs}.noise.weight"] = layer.get_parameter("noise_strength").reshape(1)
            state[f"noises.noise_{number}"] = layer.get_buffer("noise")
        if ".up" in ours:
            state[f"{theirs}.conv.blur.kernel"] = fir
        if theirs.startswith("to_rgbs"):
            state[f"{theirs}.upsample.kernel"] = fir
    return {key: value.detach().clone() for key, value in state.items()}


def test_save_and_load_give_the_same_network_in_half_precision(
    generator: Generator, discriminator: Discriminator, tmp_path: Path
) -> None:
    for network, load in ((generator, load_generator), (discriminator, load_discriminator)):
        path = tmp_path / "network.safetensors"
        save_network(path, network, CARD)
        found = load(path)
        assert found.architecture == network.architecture
        assert not found.training and not any(one.requires_grad for one in found.parameters())
        state = found.state_dict()
        for key, value in network.state_dict().items():
            assert state[key].dtype == torch.float32
            assert torch.equal(state[key], value.half().float()), key
        card = json.loads(path.with_suffix(".json").read_text())
        assert found.card == card and card["name"] == "tiny" and len(card["sha256"]) == 64
        assert sorted(one.name for one in tmp_path.iterdir()) == ["network.json", "network.safetensors"]


def test_the_same_weights_give_the_same_bytes(generator: Generator, tmp_path: Path) -> None:
    save_network(tmp_path / "one.safetensors", generator, CARD)
    save_network(tmp_path / "two.safetensors", load_generator(tmp_path / "one.safetensors"), CARD)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_what_cannot_be_saved_is_refused(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs .'source'."):
        save_network(tmp_path / "g.safetensors", generator, {"name": "x", "licence": "y"})
    with pytest.raises(ValueError, match=r"saved as \.safetensors"):
        save_network(tmp_path / "g.pt", generator, CARD)
    generator.mean_w[0] = 1e9
    with pytest.raises(ValueError, match="mean_w is not finite in half precision"):
        save_network(tmp_path / "g.safetensors", generator, CARD)
    assert not list(tmp_path.iterdir())


def test_the_embedded_network_when_missing_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    for load, kind in ((load_generator, "generator"), (load_discriminator, "discriminator")):
        with pytest.raises(FileNotFoundError, match=rf"{kind}\.safetensors.*cli\.py studio train-generator"):
            load()


def test_a_rosinality_file_loads_exactly_with_any_wrapper_or_prefix(generator: Generator, tmp_path: Path) -> None:
    generator.mean_w.normal_()
    state = rosinality_names(generator)
    path = tmp_path / "g.pt"
    for contents in (
        {"g_ema": state, "g": {}, "latent_avg": generator.mean_w},
        {"params_ema": state, "latent_avg": generator.mean_w},
        {"module." + key: value for key, value in state.items()} | {"latent_avg": generator.mean_w},
        {**state, "latent_avg": generator.mean_w},
    ):
        torch.save(contents, path)
        found = load_generator(path)
        for key, value in generator.state_dict().items():
            assert torch.equal(found.state_dict()[key], value), key
        assert found.card["licence"].startswith("unknown") and found.card["layout"] == "rosinality"


def test_a_training_checkpoint_loads_and_gets_a_mean_w_that_never_changes(generator: Generator, tmp_path: Path) -> None:
    state = {key: value for key, value in rosinality_names(generator).items() if not key.startswith("noises")}
    contents = {"g_ema": state, "args": argparse.Namespace(size=16, lr=0.002), "ada_aug_p": 0.1}
    path = tmp_path / "550000.pt"
    torch.save(contents, path)
    found, again = load_generator(path), load_generator(path)
    assert "mean of 4096 latents" in found.card["mean_w"] and "drawn here" in found.card["noise"]
    assert torch.equal(found.mean_w, again.mean_w)
    z = torch.randn(4, 7)
    assert torch.equal(found(z, noise="const"), again(z, noise="const"))
    expected = found.mapping(torch.randn(4000, 7))[:, 0].mean(dim=0)
    assert (found.mean_w - expected).abs().max() < 0.1


def test_old_torch_files_load(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"g_ema": rosinality_names(generator)}, path, _use_new_zipfile_serialization=False)
    assert load_generator(path).resolution == 16


def broken_generator_files(tmp_path: Path, generator: Generator) -> dict[str, tuple[Any, str]]:
    state = rosinality_names(generator)

    def without(key: str) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if name != key}

    return {
        "missing": (without("convs.1.conv.weight"), "channels must name every resolution from 4 to 16, missing [8]"),
        "no style": (without("to_rgb1.conv.modulation.bias"), "missing blocks.4.to_rgb.style.bias"),
        "foreign key": (state | {"encoder.weight": torch.zeros(2, 2)}, "unexpected encoder.weight"),
        "shape": (state | {"convs.0.activate.bias": torch.zeros(9)}, "blocks.8.up.bias must be [5], found [9]"),
        "nan": (state | {"style.1.bias": torch.full([8], torch.nan)}, "dense.0.bias is not finite"),
        "integers": (state | {"style.1.bias": torch.zeros(8, dtype=torch.long)}, "dense.0.bias is not a plain"),
        "bomb": (state | {"style.1.weight": torch.zeros(1).expand(8, 10**12)}, "style.1.weight is not a plain"),
        "kernel": (state | {"convs.0.conv.blur.kernel": torch.ones(4, 4)}, "is not the filter [1, 3, 3, 1]"),
        "scalars": (state | {"convs.1.conv.weight": torch.zeros([])}, "expected a weight blocks.8.conv.weight"),
        "huge": (state | {"convs.49.conv.weight": torch.zeros(1, 1, 1, 3, 3)}, "no convolutions up to 4096 px"),
        "resnet": ({"layer1.0.conv1.weight": torch.zeros(4, 4)}, "found layer1.0.conv1.weight"),
        "empty dict": ({}, "holds no generator: expected g_ema or params_ema or a bare state dict"),
        "tensor": (torch.zeros(3), "holds a Tensor, expected a dict of tensors"),
        "other network": ({"d": {"final_conv.0.weight": torch.zeros(4, 4, 3, 3)}}, "holds no generator"),
    }


def test_foreign_and_broken_tensors_are_named(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "g.pt"
    for name, (contents, message) in broken_generator_files(tmp_path, generator).items():
        torch.save(contents if name in ("tensor", "other network", "empty dict") else {"g_ema": contents}, path)
        assert message in refusal(load_generator, path), name


class Call:
    """Pickles as a call of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_that_calls_the_shell_is_refused_by_name(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"g_ema": Call(f"touch {tmp_path}/owned")}, path, _use_new_zipfile_serialization=zipped)
    assert "refused: it names posix.system" in refusal(load_generator, path)
    assert not (tmp_path / "owned").exists()


def test_files_that_are_no_weights_at_all_are_refused(tmp_path: Path) -> None:
    html = b"\n<!DOCTYPE html><html>quota exceeded</html>"
    for suffix in ("pt", "pkl", "safetensors"):
        path = tmp_path / f"file.{suffix}"
        assert "no such file" in refusal(load_generator, path, kind=FileNotFoundError)
        for content, message in ((b"", "an empty file"), (html, "an HTML page"), (b"version https://git-lfs", "LFS")):
            path.write_bytes(content)
            assert message in refusal(load_generator, path)
        path.write_bytes(bytes(range(256)) * 8)
        refusal(load_generator, path)
        path.unlink()
        path.mkdir()
        assert "a folder or device" in refusal(load_discriminator, path)
    other = tmp_path / "portrait.png"
    other.write_bytes(b"\x89PNG")
    assert "unknown kind of file .png" in refusal(load_generator, other)
    with pytest.raises(FileNotFoundError, match='expected "default" or'):
        load_generator("stylegan2-ffhq")


def test_truncated_files_are_refused(generator: Generator, tmp_path: Path) -> None:
    save_network(tmp_path / "g.safetensors", generator, CARD)
    (tmp_path / "g.json").unlink()
    torch.save({"g_ema": rosinality_names(generator)}, tmp_path / "g.pt")
    torch.save({"g_ema": rosinality_names(generator)}, tmp_path / "h.pt", _use_new_zipfile_serialization=False)
    for name in ("g.safetensors", "g.pt", "h.pt"):
        path = tmp_path / name
        whole = path.read_bytes()
        for length in (3, 40, len(whole) // 3, len(whole) - 30):
            path.write_bytes(whole[:length])
            refusal(load_generator, path)


def safetensors_bytes(header: dict[str, Any], content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def test_hostile_safetensors_are_refused(generator: Generator, discriminator: Discriminator, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    save_network(path, discriminator, CARD)
    assert "holds a discriminator, expected a generator" in refusal(load_generator, path)
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "not a whole safetensors file" in refusal(load_generator, path)
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for metadata, message in [
        ({}, "without a StyleGAN2 architecture"),
        ({"architecture": "[]"}, "without a StyleGAN2 architecture"),
        ({"architecture": "{}"}, "without a StyleGAN2 architecture"),
        ({"architecture": '{"network": "generator", "resolution": 1073741824}'}, "no convolutions up to"),
    ]:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.write_bytes(safetensors_bytes({"__metadata__": metadata, "a": tensor}, b"\0" * 4))
        assert message in refusal(load_generator, path)
    for setting in ({"mapping_lr": "0.01"}, {"mapping_lr": None}, {"clamp": -1}, {"clamp": float("nan")}):
        generator.architecture |= {"mapping_lr": 0.01, "clamp": None} | setting
        save_network(path, generator, CARD)
        assert "expected a positive number" in refusal(load_generator, path)


def test_a_card_of_another_file_is_refused(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    save_network(path, generator, CARD)
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"sha256": "', '"sha256": "0'))
    assert "its card g.json belongs to another file" in refusal(load_generator, path)
    card.write_text("{")
    assert "its card g.json is not JSON" in refusal(load_generator, path)
    card.unlink()
    assert load_generator(path).card["licence"].startswith("unknown")


def test_what_a_card_leaves_out_is_said_as_of_a_file_without_one(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    save_network(path, generator, CARD)
    sha256 = load_generator(path).card["sha256"]
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256, "licence": "MIT"}))
    card = load_generator(path).card
    assert card == {"name": "g.safetensors", "licence": "MIT", "source": "g.safetensors", "sha256": sha256}


def test_known_files_are_known_by_their_hash(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "renamed.pt"
    torch.save({"g_ema": rosinality_names(generator)}, path)
    sha256 = load_generator(path).card["sha256"]
    monkeypatch.setitem(module.KNOWN_FILES, sha256, GENERATOR_FILES[0])
    card = load_generator(path).card
    assert card["name"] == "ffhq-nvidia-tensorflow" and card["licence"].startswith("non-commercial")


def test_a_pickle_of_anything_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle.dumps([1, 2, 3]))
    assert "expected a network D in the file, found list" in refusal(load_discriminator, path)


def test_a_generator_and_its_discriminator_in_one_file_come_back_exactly_in_float32(
    generator: Generator, discriminator: Discriminator, tmp_path: Path
) -> None:
    path = tmp_path / "pair.safetensors"
    save_network(path, generator, CARD, discriminator=discriminator, dtype=torch.float32)
    for found, network in ((load_generator(path), generator), (load_discriminator(path), discriminator)):
        assert found.architecture == network.architecture and found.card["name"] == "tiny"
        assert all(torch.equal(found.state_dict()[key], value) for key, value in network.state_dict().items())


def test_a_file_without_the_network_asked_for_says_so_by_its_type(
    generator: Generator, discriminator: Discriminator, tmp_path: Path
) -> None:
    """A caller may go on without a discriminator, but never with a broken one."""
    save_network(tmp_path / "g.safetensors", generator, CARD)
    state = rosinality_names(generator)
    torch.save({"g_ema": state, "latent_avg": generator.mean_w}, tmp_path / "wrapped.pt")
    torch.save(state, tmp_path / "bare.pt")
    (tmp_path / "none.pkl").write_bytes(pickle.dumps({"G_ema": None, "D": None}))
    for name in ("g.safetensors", "wrapped.pt", "bare.pt", "none.pkl"):
        with pytest.raises(Absent, match=rf"{name}: (holds|expected)"):
            load_discriminator(tmp_path / name)
    torch.save({"d": {"final_conv.0.weight": torch.zeros(2, 2, 3, 3)}}, tmp_path / "broken.pt")
    with pytest.raises(ValueError) as caught:
        load_discriminator(tmp_path / "broken.pt")
    assert not isinstance(caught.value, Absent)


def test_loading_a_network_does_not_load_torch_s_compiler():
    lines = "import sys; from mattesmith import gen; gen.load_generator('default'); gen.load_discriminator('default'); "
    lines += "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"  # each takes a second, in every worker
