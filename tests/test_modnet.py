"""MODNet computes what the published one does: recorded numbers, weights made from its key names, our own loader."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mattesmith.enhance.matting.load import Matting, load_matting
from mattesmith.enhance.matting.modnet import MODNet

HERE = Path(__file__).parent
PACK = HERE / "data" / "parity" / "modnet"
FILL = runpy.run_path(str(HERE / "fill.py"))
MANIFEST = json.loads((PACK / "manifest.json").read_text())
CASES = ("main", "square")


@pytest.fixture(scope="module")
def matting(tmp_path_factory: pytest.TempPathFactory) -> Matting:
    """Loaded as the published file is: a bare state dict of keys that start with `module.`."""
    state = {f"module.{key}": torch.from_numpy(np.array(v)) for key, v in FILL["state"](MANIFEST["keys"]).items()}
    file = tmp_path_factory.mktemp("modnet") / "modnet_photographic_portrait_matting.ckpt"
    torch.save(state, file)
    return load_matting(f"modnet:{file}")


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.array(value)) for key, value in np.load(PACK / "io.npz").items()}


def test_its_keys_and_shapes_are_the_published_ones() -> None:
    ours = {key: list(value.shape) for key, value in MODNet().state_dict().items()}
    assert ours == {key: entry["shape"] for key, entry in MANIFEST["keys"].items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("output", ["semantic", "detail", "matte"])
def test_its_outputs_are_the_published_ones(matting: Matting, recorded: Any, case: str, output: str) -> None:
    found = getattr(matting.network(recorded[f"{case}/input"]), output)
    assert (found - recorded[f"{case}/{output}"]).abs().max() <= 1e-4


@pytest.mark.parametrize("case", CASES)
def test_inference_leaves_the_matte_as_it_is(matting: Matting, recorded: Any, case: str) -> None:
    semantic, detail, matte = matting.network(recorded[f"{case}/input"], True)
    assert semantic is None and detail is None
    assert (matte - recorded[f"{case}/matte_inference"]).abs().max() <= 1e-4


@pytest.mark.parametrize("case", CASES)
def test_its_gradient_to_the_image_is_the_published_one(matting: Matting, recorded: Any, case: str) -> None:
    image = recorded[f"{case}/input"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(matting(image).sum(), image)
    norm = recorded[f"{case}/input_grad_norm"].item()
    assert gradient.double().norm().item() == pytest.approx(norm, rel=1e-2)
    values = recorded[f"{case}/grad_value"]
    found = gradient.flatten()[recorded[f"{case}/grad_index"].long()]
    assert (found - values).abs().max() <= 2e-2 * values.abs().max()


@pytest.mark.parametrize("stage", MANIFEST["stages"])
def test_every_stage_is_the_published_one(matting: Matting, recorded: Any, stage: str) -> None:
    seen: list[Tensor] = []
    module = matting.network.get_submodule(stage)
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    matting.network(recorded["main/input"])
    handle.remove()
    flat = seen[0].flatten()
    samples = flat[torch.linspace(0, flat.numel() - 1, 8, dtype=torch.float64).long()]
    found = torch.cat([torch.stack([flat.mean(), flat.std(correction=0), flat.abs().max()]), samples])
    torch.testing.assert_close(found, recorded[f"main/stage/{stage}"].float(), rtol=1e-4, atol=1e-4)


def test_training_gives_three_mattes_and_gradients_everywhere() -> None:
    network = MODNet().train()
    semantic, detail, matte = network(torch.zeros(2, 3, 64, 32))
    assert semantic.shape == (2, 1, 4, 2) and detail.shape == matte.shape == (2, 1, 64, 32)
    (semantic.mean() + detail.mean() + matte.mean()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_bfloat16_gives_the_matte_and_a_gradient_too(matting: Matting, recorded: Any) -> None:
    image = recorded["square/input"].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        alpha = matting(image)
    (gradient,) = torch.autograd.grad(alpha.sum(), image)
    assert alpha.dtype == image.dtype and bool(gradient.isfinite().all())
    assert (alpha - recorded["square/matte"]).abs().mean() < 0.05
