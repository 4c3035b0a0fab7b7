"""Training the shipped discriminator, an ordinary StyleGAN2 one, against the finished generator."""

import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..enhance import autocast
from ..gen import sum_of
from ..gen.checkpoints import save_network
from ..gen.networks import Discriminator, Generator
from .backgrounds import SOFT, background_pool
from .composites import Portraits, load_portraits, studio_portraits
from .embedded import draw_portraits, new_generator
from .snapshots import Budget, append_row, card, check_settings, follow, load_state, save_state

CHANNELS = {256: 16, 128: 32, 64: 64, 32: 128, 16: 192, 8: 192, 4: 192}
R1_GAMMA = 1.0
EMA_IMAGES = 4_000  # half-life of the averaged weights
NUM_BACKGROUNDS = 1000


def run_discriminator(
    renders: Path, state: Path, size: int, budget: Budget, export: Path | None, seed: int, batch: int, lr: float,
    device: str,
) -> None:  # fmt: skip
    """Trains the shipped discriminator: logistic loss, and R1 on every 16th step (arXiv:1912.04958, section 3.1).

    Its minibatch statistics stay within one image, as the enhancement uses them.
    """
    generator = finished_generator(state, size).to(device)
    portraits = load_portraits(renders, "train", size=size)
    pool = background_pool(NUM_BACKGROUNDS, size, seed=seed, families=SOFT)
    torch.manual_seed(seed)
    network = Discriminator(resolution=size, channels=CHANNELS, group=1)
    network = network.to(device).to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.Adam(network.parameters(), lr=lr, betas=(0.0, 0.99), fused=True)
    file, step, seconds = state / f"discriminator-{size}.pt", 0, 0.0
    settings = {
        "part": "discriminator", "size": size, "seed": seed, "batch": batch,
        "generator": sum_of(state / f"generator-{size}.pt"),
    }  # fmt: skip
    if saved := load_state(file):
        check_settings(file, saved.get("settings", {}), settings, otherwise="remove it to start anew")
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, seconds = saved["step"], saved["seconds"]

    def save() -> None:
        networks = {"network": network.state_dict(), "average": average.state_dict()}
        counts = {"step": step, "seconds": seconds, "settings": settings}
        save_state(file, {**networks, "optimiser": optimiser.state_dict(), **counts})

    losses: list[float] = []
    for _ in budget.steps(step, seconds):
        real = studio_portraits(portraits, pool, np.random.default_rng((seed, step)), batch=batch)
        fake = draw_portraits(generator, batch, seed=(seed << 32) + step).clamp(-1, 1)
        losses.append(discriminator_step(network, optimiser, real.to(device), fake, with_r1=step % 16 == 0))
        step, seconds = step + 1, budget.seconds()
        follow(average, network, half_life=min(EMA_IMAGES / batch, step / 10))
        if budget.due():
            save()
            row = {"images": step * batch, "seconds": round(seconds, 1), "loss": round(float(np.mean(losses)), 4)}
            append_row(state / f"discriminator-{size}.csv", row | told_apart(average, generator, portraits, pool))
            losses.clear()
    save()
    if export:
        measured = told_apart(average, generator, load_portraits(renders, "val", size=size), pool)
        counts = {"minutes": round(seconds / 60, 1), "images": step * batch, "portraits": len(portraits)}
        recipe = f"StyleGAN2 discriminator against the finished generator, logistic loss, R1, EMA, seed {seed}"
        command = f"train-generator --part discriminator --size {size}"
        text = card(f"discriminator, {size} px", recipe, command, counts, measured)
        save_network(export / "discriminator.safetensors", average, text)


def finished_generator(state: Path, size: int) -> Generator:
    """The averaged generator of the last snapshot, frozen."""
    file = state / f"generator-{size}.pt"
    saved = load_state(file)
    if saved is None:
        raise FileNotFoundError(f'{file}: no generator to learn from; train part "generator" at {size} px first')
    generator = new_generator(size).to(memory_format=torch.channels_last).requires_grad_(False)
    generator.load_state_dict(saved["average"])
    return generator


def discriminator_step(
    network: Discriminator, optimiser: torch.optim.Optimizer, real: Tensor, fake: Tensor, *, with_r1: bool
) -> float:
    """One update; returns the logistic loss."""
    with autocast(real.device.type):
        loss = F.softplus(-network(real)).mean() + F.softplus(network(fake)).mean()
    total = loss
    if with_r1:
        # In float32, since the gradient of a gradient is small; weighted by 16 because it comes every 16th step.
        images = real.detach().requires_grad_()
        (slope,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        total = loss + 16 * R1_GAMMA / 2 * slope.square().sum((1, 2, 3)).mean()
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(total)
    optimiser.step()
    return loss.item()


@torch.no_grad()
def told_apart(
    network: Discriminator, generator: Generator, portraits: Portraits, pool: NDArray[np.uint8], *, num: int = 128
) -> dict[str, float]:
    """Share of portraits with a logit above 0 and of generated ones with one below, and the mean logits of both."""
    real = studio_portraits(portraits, pool, np.random.default_rng(1), batch=num).to(generator.mean_w.device)
    fake = draw_portraits(generator, num, seed=3).clamp(-1, 1)
    logits = {name: torch.cat([network(part) for part in torch.split(images, 32)]) for name, images in
              (("real", real), ("fake", fake))}  # fmt: skip
    shares = {"real_right": (logits["real"] > 0).float().mean(), "fake_right": (logits["fake"] < 0).float().mean()}
    means = {f"{name}_logit": value.mean() for name, value in logits.items()}
    return {name: round(float(value), 4) for name, value in (shares | means).items()}
