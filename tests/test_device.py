"""Every tensor of a step is where the networks are: shown without a GPU, by tensors of a device that hold no numbers.

torch's fake tensors know their shape and device, and refuse to be mixed. They cannot show what a GPU computes, nor the
way back through the graph: gradients are 0 here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mattesmith.enhance import PRESETS, Matting, Portrait, enhance, enhance_photos
from mattesmith.enhance.align import whole
from mattesmith.enhance.invert import invert
from mattesmith.enhance.matting.load import ARCHITECTURES, Architecture, deeplab_alpha, trimap_of
from mattesmith.enhance.matting.modnet import MODNet
from mattesmith.enhance.matting.unet import UNet
from mattesmith.enhance.perceptual import Perceptual, Trunk
from mattesmith.filters import decide, score
from mattesmith.finetune import evaluate, photo_facts
from mattesmith.finetune.networks import recipe_of
from mattesmith.finetune.pictures import Item
from mattesmith.finetune.train import Run, mean_error
from mattesmith.gen import Discriminator, Generator, draw_latents, sample
from mattesmith.shards import encode, write_photo
from mattesmith.studio import embedded, projected
from mattesmith.studio.frechet import pooled_features
from mattesmith.studio.train_discriminator import discriminator_step
from mattesmith.studio.train_generator import Trainer
from mattesmith.studio.train_matting import RECIPES, Recipe
from mattesmith.studio.train_matting import Run as TrainingRun

CUDA = torch.device("cuda", 0)
SIDE = 32
CHANNELS = {4: 8, 8: 8, 16: 8, 32: 8}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Inside, "cuda" is a device, and a fake tensor is 0 and true where Python asks."""

    def answered(name: str, answer: Callable[[Tensor], Any]) -> None:
        known = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor, name, lambda self, *a, **k: answer(self) if isinstance(self, FakeTensor) else known(self, *a, **k)
        )

    def number(one: Tensor) -> Any:
        return 0.0 if one.is_floating_point() else 0

    def as_array(one: Tensor) -> Any:
        assert one.device.type == "cpu", "numpy asks for a tensor on the device"
        return np.zeros(tuple(one.shape), str(one.dtype).removeprefix("torch."))

    def copied(one: Tensor) -> Tensor:
        copy = one.detach().clone()
        return nn.Parameter(copy, one.requires_grad) if isinstance(one, nn.Parameter) else copy

    def without_slope(_: Tensor, inputs: Any, **__: Any) -> list[Tensor]:
        return [torch.zeros_like(one) for one in ([inputs] if isinstance(inputs, Tensor) else inputs)]

    def moved(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for module in self.modules():
            for name, one in module._parameters.items():
                if one is not None:
                    module._parameters[name] = nn.Parameter(change(one.detach()), requires_grad=one.requires_grad)
            module._buffers |= {name: change(one) for name, one in module._buffers.items() if one is not None}
        return self

    answers = {"item": number, "__bool__": lambda _: True, "__float__": lambda _: 0.0,
               "numpy": as_array, "__array__": as_array, "__deepcopy__": copied}  # fmt: skip
    for name, answer in answers.items():
        answered(name, answer)
    monkeypatch.setattr(nn.Module, "_apply", moved)  # torch's own cannot exchange fake parameters
    monkeypatch.setattr(torch.autograd, "grad", without_slope)
    monkeypatch.setattr(torch.autograd, "backward", lambda _: None)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def frozen(network: Any) -> Any:
    return network.to("cuda").eval().requires_grad_(False)


def small(channels: int = 1, **kind: bool) -> Matting:
    """A network of one convolution: alpha, or with makes_trimap=True and 3 channels the logits of a trimap."""
    facts = {"needs_trimap": False, "makes_trimap": False} | kind
    alpha = deeplab_alpha if facts["makes_trimap"] else lambda network, image, trimap: network(image).sigmoid()
    known = Architecture(lambda: nn.Conv2d(3, channels, 3, padding=1), alpha, 4, licence="", source="", **facts)
    return frozen(Matting(known.build(), known, name="small", card={}))


def test_the_pretended_device_refuses_tensors_of_another(pretended: FakeTensorMode) -> None:
    there = torch.zeros(2, device="cuda")
    assert frozen(nn.Linear(2, 1))(there).device.type == "cuda"
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.zeros(2)


@pytest.mark.parametrize(("build", "architecture"), [(MODNet, "modnet"), (UNet, "unet")])
def test_finetuning(build: Callable[[], nn.Module], architecture: str, pretended: FakeTensorMode) -> None:
    matting = Matting(build(), ARCHITECTURES[architecture], name="new", card={"architecture": architecture})
    run = Run(matting, recipe_of(matting), lr=1e-3, steps=4, seed=0, device=CUDA)
    run.train_step(torch.zeros(2, 3, SIDE, SIDE, device=CUDA), torch.zeros(2, 1, SIDE, SIDE, device=CUDA), None)
    item = Item("one", torch.zeros(3, SIDE, SIDE), np.zeros((SIDE, SIDE), np.float32), None)
    assert mean_error(run.used, [item]) == 0
    assert next(evaluate(run.used, [item])).error == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(architecture: str, pretended: FakeTensorMode) -> None:
    known = ARCHITECTURES[architecture]
    matting = frozen(Matting(known.build(), known, name="new", card={}))
    image, trimap = (torch.zeros(1, channels, 2 * SIDE, 2 * SIDE, device=CUDA) for channels in (3, 1))
    assert matting(image, trimap).device == CUDA
    if known.makes_trimap:
        assert trimap_of(matting, image).device == CUDA


@pytest.mark.parametrize("preset", PRESETS)
def test_sampling_enhancing_and_scoring(preset: str, pretended: FakeTensorMode) -> None:
    generator = frozen(Generator(resolution=SIDE, channels=CHANNELS, z_dim=8, w_dim=8, num_mapping_layers=2))
    discriminator = frozen(Discriminator(resolution=SIDE, channels=CHANNELS))
    matting, second = small(), small()
    perceptual = frozen(Perceptual(Trunk(), card={}))
    samples = sample(generator, [draw_latents(0, 0, 0, z_dim=8)], batch=2)
    (one,) = enhance(samples, generator, discriminator, matting, perceptual, preset=preset, steps=2, slots=2)
    assert one.image.device == one.alpha.device == CUDA
    scored = decide(one, score(one, matting, second, perceptual, discriminator))
    assert scored.scores["agreement"] == 0 and encode(scored, key="0" * 10).files


@pytest.mark.parametrize("coarse", [{}, {"channels": 3, "makes_trimap": True}], ids=["alpha", "classes"])
def test_enhancing_with_trimaps(coarse: dict[str, Any], pretended: FakeTensorMode) -> None:
    generator = frozen(Generator(resolution=SIDE, channels=CHANNELS, z_dim=8, w_dim=8, num_mapping_layers=2))
    matting, trimap = small(needs_trimap=True), small(**coarse)
    matting.coarse_matting = trimap
    samples = sample(generator, [draw_latents(0, 0, 0, z_dim=8)], batch=2)
    perceptual = frozen(Perceptual(Trunk(), card={}))
    (one,) = enhance(samples, generator, None, matting, perceptual, trimap, steps=2, slots=2)
    assert one.alpha.device == CUDA


def test_inverting(pretended: FakeTensorMode) -> None:
    generator = frozen(Generator(resolution=SIDE, channels=CHANNELS, z_dim=8, w_dim=8, num_mapping_layers=2))
    targets = [(draw_latents(0, 0, 0, z_dim=8), torch.zeros(3, SIDE, SIDE))]
    (one,) = invert(targets, generator, frozen(Perceptual(Trunk(), card={})), steps=2, slots=2)
    assert one.sample.image.device == CUDA


def test_enhancing_photos(tmp_path: Path, pretended: FakeTensorMode) -> None:
    networks = {
        "generator": frozen(Generator(resolution=SIDE, channels=CHANNELS, z_dim=8, w_dim=8, num_mapping_layers=2)),
        "matting": small(),
        "perceptual": frozen(Perceptual(Trunk(), card={})),
    }
    latents = draw_latents(0, 0, 0, z_dim=8)
    portrait = Portrait(tmp_path / "one.png", latents, (SIDE, SIDE), whole(SIDE), 0, torch.zeros(3, SIDE, SIDE), b"")
    (photo,) = enhance_photos([portrait], discriminator=None, **networks, invert_steps=1, steps=1, slots=1)
    facts = photo_facts(photo, networks | {"second": small()}, true=np.zeros((SIDE, SIDE), np.float32))
    assert {image.device for image in photo.images.values()} == {CUDA}
    assert write_photo(tmp_path, photo, facts).is_file()


# The studio's trainings


class Features(nn.Module):
    """Frozen, at a half and a quarter of the side."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 4), (4, 6)))

    def forward(self, image: Tensor) -> list[Tensor]:
        first = self.convs[0](image)
        return [first, self.convs[1](first)]


def test_training_the_generator(monkeypatch: pytest.MonkeyPatch, pretended: FakeTensorMode) -> None:
    monkeypatch.setattr(embedded, "CHANNELS", CHANNELS)
    monkeypatch.setattr(embedded, "DIMS", {"z_dim": 8, "w_dim": 16, "num_mapping_layers": 2})
    monkeypatch.setattr(projected, "FEATURES", (4, 6))
    monkeypatch.setattr(projected, "MIXED", (4, 8))
    trunk = frozen(Features())
    trainer = Trainer(trunk, size=SIDE, view=SIDE // 2, seed=0, lr=1e-3, device="cuda")
    real = torch.zeros(2, 3, SIDE, SIDE)
    projected.calibrate(trainer.discriminator, real.to(CUDA))
    trainer.train_step(real)
    embedded.estimate_mean_w(trainer.average, num=4)
    drawn = embedded.draw_portraits(trainer.average, 2)
    assert drawn.device == CUDA and pooled_features(drawn, trunk, view=SIDE // 2).shape == (2, 8)


def test_training_the_discriminator(pretended: FakeTensorMode) -> None:
    network = Discriminator(resolution=SIDE, channels=CHANNELS, group=1).to("cuda")
    optimiser = torch.optim.Adam(network.parameters())
    real, fake = (torch.zeros(2, 3, SIDE, SIDE, device=CUDA) for _ in range(2))
    assert discriminator_step(network, optimiser, real, fake, with_r1=True) == 0


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_training_the_matting_networks(recipe: Recipe, pretended: FakeTensorMode) -> None:
    run = TrainingRun(recipe, seed=0, device="cuda")
    image, alpha = torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2, 1, SIDE, SIDE)
    assert run.train_step(image, alpha, share=0.5) == 0
    assert recipe.matte(run.average, image.to(CUDA)).device == CUDA
