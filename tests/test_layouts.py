"""Our StyleGAN2 computes what the public networks compute: numbers recorded from them, weights made from key names."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mattesmith.gen import Discriminator, Generator, load_discriminator, load_generator

HERE = Path(__file__).parent
FILL = runpy.run_path(str(HERE / "fill.py"))


def pack(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A parity pack's (state dict, recorded arrays)."""
    folder = HERE / "data" / "parity" / f"stylegan2_{name}"
    keys = json.loads((folder / "manifest.json").read_text())["keys"]
    state = {key: torch.from_numpy(np.array(value)) for key, value in FILL["state"](keys).items()}
    for key, entry in keys.items():
        state[key] *= entry.get("post_scale", 1)
    return state, {key: torch.from_numpy(value) for key, value in np.load(folder / "io.npz").items()}


def crop(image: Tensor) -> Tensor:
    return image[..., 24:40, 24:40]


def close(found: Tensor, recorded: Tensor, tolerance: float = 1e-4) -> bool:
    return found.shape == recorded.shape and bool((found - recorded).abs().max() <= tolerance)


@pytest.fixture(scope="module")
def rosinality(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Generator, dict[str, Tensor]]]:
    state, recorded = pack("rosinality_g")
    path = tmp_path_factory.mktemp("rosinality") / "g.pt"
    torch.save({"g_ema": state, "latent_avg": recorded["latent_avg"]}, path)
    yield load_generator(path), recorded


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Generator, dict[str, Tensor]]]:
    state, recorded = pack("nvidia_g")
    path = tmp_path_factory.mktemp("nvidia") / "g.pt"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    yield load_generator(path), recorded


def rosinality_noise(recorded: dict[str, Tensor]) -> list[Tensor]:
    return [recorded[f"noise_{layer}"] for layer in range(9)]


def test_rosinality_mapping(rosinality: Any) -> None:
    generator, recorded = rosinality
    ws = generator.mapping(recorded["z"])
    assert ws.shape == (2, 10, 512)
    assert close(ws[:, 7], recorded["w"], 1e-5)


def test_rosinality_synthesis_with_given_noise(rosinality: Any) -> None:
    generator, recorded = rosinality
    assert close(generator.synthesis(recorded["ws"], rosinality_noise(recorded)), recorded["image"])


def test_rosinality_truncation_pulls_towards_latent_avg(rosinality: Any) -> None:
    generator, recorded = rosinality
    ws = generator.mapping(recorded["z"], psi=0.7)
    assert close(generator.synthesis(ws, rosinality_noise(recorded)), recorded["image_trunc"])


def test_rosinality_stored_noise_and_mixed_rows(rosinality: Any) -> None:
    generator, recorded = rosinality
    ws = generator.mapping(recorded["z"])
    assert close(crop(generator.synthesis(ws, "const")), recorded["image_buffers_crop"])
    mixed = torch.cat([ws[:, :4], generator.mapping(recorded["z2"])[:, 4:]], dim=1)
    assert close(crop(generator.synthesis(mixed, rosinality_noise(recorded))), recorded["image_mixed_crop"])


def test_nvidia_mapping_and_synthesis(nvidia: Any) -> None:
    generator, recorded = nvidia
    assert close(generator.mapping(recorded["z"])[:, 0], recorded["w"], 1e-5)
    assert close(generator.synthesis(recorded["ws"], "const"), recorded["image"])
    assert close(crop(generator.synthesis(recorded["ws"])), recorded["image_nonoise_crop"])


def test_nvidia_truncation_of_all_and_of_some_rows(nvidia: Any) -> None:
    generator, recorded = nvidia
    ws = generator.mapping(recorded["z"], psi=0.7)
    assert close(generator.synthesis(ws, "const"), recorded["image_trunc"])
    cut = torch.cat([ws[:, :4], generator.mapping(recorded["z"])[:, 4:]], dim=1)
    assert close(crop(generator.synthesis(cut, "const")), recorded["image_trunc_cutoff_crop"])


@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
def test_discriminator_logits_and_groups(layout: str, tmp_path: Path) -> None:
    state, recorded = pack(f"{layout}_d")
    torch.save({"d": state}, tmp_path / "d.pt")
    discriminator: Discriminator = load_discriminator(tmp_path / "d.pt")
    images = recorded["images"]
    assert close(discriminator(images), recorded["logits_batch4"], 1e-5)
    flipped = torch.cat([images, images.flip(3)])
    assert close(discriminator(flipped), recorded["logits_batch8_flipped"], 1e-5)
    assert close(discriminator(images[:2], group=1)[:1], recorded["logits_batch1"], 1e-5)
