"""Training the embedded generator, and the discriminator shipped with it, on the studio's portraits.

The generator learns against a projected discriminator (Sauer et al. 2021, "Projected GANs Converge Faster",
arXiv:2111.01007): small convolutional heads on the features of a frozen network, mixed by frozen random 1x1
convolutions. It starts at 64 px and then grows (`grow_from`). A portrait of 128 px is judged twice: whole at 64 px, by
the heads that have learnt there already, and through a 64 px window at full size, by new ones. The shipped
discriminator, an ordinary StyleGAN2 one, is trained afterwards against the finished generator.

Every step has random numbers of its own, named by (seed, step): a run that was stopped goes on as if it never had.
"""

import copy
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from tqdm import tqdm

from ..enhance import load_perceptual
from ..gen.checkpoints import save_network
from ..gen.networks import Discriminator, Generator, grow_from
from .backgrounds import SOFT, background_pool
from .composites import Portraits, load_portraits, studio_portraits
from .grids import save_grid
from .train_matting import Budget, append_row, card, follow, load_state, save_state

CHANNELS = {4: 256, 8: 256, 16: 256, 32: 128, 64: 64, 128: 32}
DISCRIMINATOR_CHANNELS = {128: 32, 64: 64, 32: 128, 16: 192, 8: 192, 4: 192}
DIMS = {"z_dim": 256, "w_dim": 256, "num_mapping_layers": 4}
VIEW = 64  # px at which the frozen network sees a portrait, or a window of it
FEATURES = (64, 128, 256)  # channels of the frozen network's three blocks
MIXED = (32, 64, 128)  # what random mixing leaves of them
SNAPSHOT_S = 300
EMA_IMAGES = 4_000  # half-life of the averaged weights
RANGE_WEIGHT = 5.0  # of the squared excess beyond [-1, 1], which pictures cannot show
R1_GAMMA = 1.0
NUM_BACKGROUNDS = 1000
NUM_MEASURED = 384  # portraits on each side of a Fréchet distance

Trunk = Callable[[Tensor], Sequence[Tensor]]


# The projected discriminator


class Projection(nn.Module):
    """Frozen random mixing of feature maps: across channels at each scale, then from coarse scales into fine ones.

    The weights also bring each block's features to a root mean square of 1, which `calibrate` measures on portraits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(c, m, 1, bias=False) for c, m in zip(FEATURES, MIXED, strict=True))
        self.upward = nn.ModuleList(nn.Conv2d(m, n, 1, bias=False) for n, m in itertools.pairwise(MIXED))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=conv.in_channels**-0.5)
        self.requires_grad_(False)

    def calibrate(self, features: Sequence[Tensor]) -> None:
        """Takes the scales from the features [N, C, H, W] of a batch of portraits; once, on new weights."""
        for conv, feature in zip(self.across, features, strict=True):
            conv.get_parameter("weight").mul_(feature.float().square().mean().rsqrt())

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Three feature maps, fine to coarse, [N, FEATURES[i], r, r] -> [N, MIXED[i], r, r]."""
        mixed = [conv(f) for conv, f in zip(self.across, features, strict=True)]
        for i in (1, 0):
            mixed[i] = mixed[i] + F.interpolate(self.upward[i](mixed[i + 1]), scale_factor=2, mode="bilinear")
        return mixed


def head(channels: int, size: int, *, last: int) -> nn.Sequential:
    """Strided convolutions from `size` down to `last` pixels, then one logit for every 4 x 4 of those."""
    layers: list[nn.Module] = []
    while size > last:
        wide = min(2 * channels, MIXED[-1])
        conv = spectral_norm(nn.Conv2d(channels, wide, 4, 2, 1, bias=False))
        layers += [conv, nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
        channels, size = wide, size // 2
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 4)))


class Heads(nn.Module):
    """One head a scale. Those on fine maps judge patches, the one on the coarsest map judges the view as a whole."""

    def __init__(self, view: int) -> None:
        super().__init__()
        lasts = (8, 8, 4)
        self.scales = nn.ModuleList(head(c, view >> i, last=lasts[i]) for i, c in enumerate(MIXED))

    def forward(self, mixed: Sequence[Tensor]) -> list[Tensor]:
        """Three mixed maps -> three maps of logits."""
        return [scale(x).float() for scale, x in zip(self.scales, mixed, strict=True)]


class ProjectedDiscriminator(nn.Module):
    """Frozen features, frozen mixing, trained heads; a set of heads for the whole portrait, one for the window."""

    def __init__(self, trunk: Trunk, *, size: int, view: int) -> None:
        super().__init__()
        self.trunk = [trunk]  # in a list: frozen, shared, and no part of this network's state
        self.size, self.view = size, view
        self.projection = Projection()
        self.heads = nn.ModuleList(Heads(view) for _ in range(2 if size > view else 1))

    def features(self, image: Tensor, draws: torch.Generator) -> list[list[Tensor]]:
        """Mixed features of each view of augmented images [N, 3, size, size] in [-1, 1]: first whole, then a window."""
        image = recoloured(image, draws)
        views = [shifted(F.adaptive_avg_pool2d(image, self.view), self.view // 10, draws)]
        if self.size > self.view:
            views.append(windows(image, self.view, draws))
        stacked = torch.cat(views).contiguous(memory_format=torch.channels_last)
        mixed = self.projection(self.trunk[0](stacked))
        return [list(one) for one in zip(*(torch.split(x, len(image)) for x in mixed), strict=True)]

    def forward(self, features: list[list[Tensor]]) -> list[Tensor]:
        """Logits of every head; portraits and generated ones in batches of their own, as their statistics are."""
        return [logits for heads, mixed in zip(self.heads, features, strict=True) for logits in heads(mixed)]


def recoloured(image: Tensor, draws: torch.Generator) -> Tensor:
    """Random brightness, saturation and contrast, differentiable (Zhao et al. 2020, arXiv:2006.10738)."""
    brightness, saturation, contrast = torch.rand(3, len(image), 1, 1, 1, generator=draws) - 0.5
    image = image + 0.5 * brightness
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * (1 + saturation)
    mean = image.mean((1, 2, 3), keepdim=True)
    return mean + (image - mean) * (1 + 0.5 * contrast)


def shifted(image: Tensor, reach: int, draws: torch.Generator) -> Tensor:
    """Images moved by up to `reach` pixels each way, borders repeated."""
    return windows(F.pad(image, [reach] * 4, mode="replicate"), image.shape[-1], draws)


def windows(image: Tensor, size: int, draws: torch.Generator) -> Tensor:
    """A random window [size, size] of each image [N, 3, H, H]."""
    corners = torch.randint(image.shape[-1] - size + 1, (len(image), 2), generator=draws).tolist()
    return torch.stack([x[:, y : y + size, z : z + size] for x, (y, z) in zip(image, corners, strict=True)])


# The generator's training


def new_generator(size: int) -> Generator:
    """The embedded architecture at `size` pixels, untrained."""
    return Generator(resolution=size, channels=CHANNELS, **DIMS)


class Trainer:
    """Generator, its averaged copy, discriminator and optimisers: everything a snapshot holds."""

    def __init__(self, trunk: Trunk, *, size: int, view: int, seed: int, lr: float) -> None:
        torch.manual_seed(seed)  # first weights only; no draw of a step comes from here
        self.seed, self.images, self.step, self.seconds = seed, 0, 0, 0.0
        self.generator = new_generator(size).to(memory_format=torch.channels_last)
        self.discriminator = ProjectedDiscriminator(trunk, size=size, view=view).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.optimisers = [
            torch.optim.Adam(network.parameters(), lr=lr, betas=(0.0, 0.99), fused=True)
            for network in (self.generator, self.discriminator.heads)
        ]

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and numbers."""
        networks = {"generator": self.generator, "average": self.average, "discriminator": self.discriminator}
        return {
            **{name: network.state_dict() for name, network in networks.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "counts": {name: getattr(self, name) for name in ("seed", "images", "step", "seconds")},
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Takes up a state of the same size."""
        for name in ("generator", "average", "discriminator"):
            getattr(self, name).load_state_dict(state[name])
        for optimiser, own in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(own)
        for name, value in state["counts"].items():
            setattr(self, name, value)

    def grow(self, state: dict[str, Any]) -> None:
        """Takes over what a run at half the size has learnt; the new layers, heads and optimisers start afresh."""
        grow_from(self.generator, state["generator"])
        grow_from(self.average, state["average"])
        self.average.load_state_dict(
            {k: v for k, v in self.generator.state_dict().items() if k not in state["average"]}, strict=False
        )
        self.discriminator.load_state_dict(state["discriminator"], strict=False)

    def train_step(self, real: Tensor) -> tuple[float, float]:
        """One update of both networks on real portraits [N, 3, size, size]; the two losses."""
        draws = torch.Generator().manual_seed((self.seed << 32) + self.step)
        generator_optimiser, discriminator_optimiser = self.optimisers
        with torch.autocast("cpu", torch.bfloat16):
            fake = self.generate(len(real), draws)
            with torch.no_grad():
                real_features = self.discriminator.features(real, draws)
            fake_features = self.discriminator.features(fake, draws)

            # The discriminator sees the same portraits that the generator is corrected on: they are made only once.
            detached = [[x.detach() for x in one] for one in fake_features]
            pairs = zip(self.discriminator(real_features), self.discriminator(detached), strict=True)
            discriminator_loss = torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs]).sum()
        discriminator_optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(discriminator_loss)
        discriminator_optimiser.step()

        self.discriminator.heads.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            generator_loss = torch.stack([-logits.mean() for logits in self.discriminator(fake_features)]).sum()
        generator_optimiser.zero_grad(set_to_none=True)
        beyond = F.relu(fake.abs() - 1).square().mean()
        torch.autograd.backward(generator_loss + RANGE_WEIGHT * beyond)
        generator_optimiser.step()
        self.discriminator.heads.requires_grad_(True)

        self.step += 1
        self.images += len(real)
        follow(self.average, self.generator, half_life=min(EMA_IMAGES, self.images / 10) / len(real))
        return generator_loss.item(), discriminator_loss.item()

    def generate(self, batch: int, draws: torch.Generator) -> Tensor:
        """Portraits with the gradient's graph; a third of them change w at a random layer (style mixing)."""
        z = torch.randn(2, batch, self.generator.z_dim, generator=draws)
        rows = torch.arange(self.generator.num_ws)
        cut = torch.randint(1, self.generator.num_ws, (batch, 1), generator=draws)
        cut[torch.rand(batch, generator=draws) > 1 / 3] = self.generator.num_ws
        first, second = self.generator.mapping(z.flatten(0, 1)).chunk(2)
        ws = torch.where((rows < cut)[:, :, None], first, second)
        images: Tensor = self.generator.synthesis(ws, random_noise(self.generator, batch, draws))
        return images


def random_noise(generator: Generator, batch: int, draws: torch.Generator) -> list[Tensor]:
    """Standard normal maps for every layer."""
    return [torch.randn(batch, 1, r, r, generator=draws) for r in generator.noise_sizes]


@torch.no_grad()
def draw_portraits(generator: Generator, num: int, *, psi: float = 1.0, seed: int = 1, batch: int = 32) -> Tensor:
    """The same `num` latents for every call, [num, 3, size, size], not clamped."""
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(num, generator.z_dim, generator=draws)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat(
            [generator(part, psi, random_noise(generator, len(part), draws)).float() for part in torch.split(z, batch)]
        )


@torch.no_grad()
def estimate_mean_w(generator: Generator, *, num: int = 10_000) -> None:
    """Sets the mean w, from `num` latents."""
    z = torch.randn(num, generator.z_dim, generator=torch.Generator().manual_seed(0))
    generator.mean_w.copy_(generator.mapping(z)[:, 0].mean(0))


# Measuring


@torch.no_grad()
def pooled_features(images: Tensor, trunk: Trunk, *, view: int, batch: int = 32) -> NDArray[np.float64]:
    """Means and standard deviations over positions of the last block's channels, [N, 2 C], seen at `view` pixels."""
    rows = []
    for part in torch.split(images.clamp(-1, 1), batch):
        views = F.adaptive_avg_pool2d(part, view).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            last = trunk(views)[-1].float()
        rows.append(torch.cat([last.mean((2, 3)), last.std((2, 3))], 1))
    return torch.cat(rows).double().numpy()


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """|mean difference|^2 + tr(A + B - 2 (A B)^1/2) of two sets of rows (Heusel et al. 2017, arXiv:1706.08500)."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


class Yardstick:
    """Distance of a generator from held-out portraits, and the floor: that between two halves of those."""

    def __init__(self, held_out: Portraits, pool: NDArray[np.uint8], trunk: Trunk, *, view: int) -> None:
        rng = np.random.default_rng(0)
        halves = [studio_portraits(held_out.half(parity), pool, rng, batch=NUM_MEASURED) for parity in (0, 1)]
        self.trunk, self.view = trunk, view
        self.reference, other = (pooled_features(half, trunk, view=view) for half in halves)
        self.floor = frechet_distance(self.reference, other)

    def __call__(self, generator: Generator) -> float:
        images = draw_portraits(generator, NUM_MEASURED, seed=2)
        return frechet_distance(self.reference, pooled_features(images, self.trunk, view=self.view))


# Runs


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
    view: int = VIEW,
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
        trunk: frozen image -> three feature maps; None is the embedded one.
    """
    if part not in ("generator", "discriminator"):
        raise ValueError(f'part must be "generator" or "discriminator", got {part!r}')
    torch.set_num_threads(threads)
    for folder in (state, export or state):
        folder.mkdir(parents=True, exist_ok=True)
    budget = Budget(f"{part} {size} px", minutes=minutes, max_steps=max_steps, snapshot_s=snapshot_s)
    if part == "generator":
        run_generator(renders, state, size, budget, export, seed, batch, lr, trunk or embedded_trunk(), view)
    else:
        run_discriminator(renders, state, size, budget, export, seed, batch, lr)


def embedded_trunk() -> Trunk:
    """The first three blocks of the embedded perceptual network, in bfloat16."""
    return load_perceptual().trunk.bfloat16().to(memory_format=torch.channels_last)


def run_generator(
    renders: Path, state: Path, size: int, budget: Budget, export: Path | None, seed: int, batch: int, lr: float,
    trunk: Trunk, view: int,
) -> None:  # fmt: skip
    """Resumes, grows or starts; trains; measures and saves at every snapshot."""
    portraits = load_portraits(renders, "train", size=size)
    pool = background_pool(NUM_BACKGROUNDS, size, seed=seed, families=SOFT)
    distance = Yardstick(load_portraits(renders, "val", size=size), pool, trunk, view=view)
    trainer = Trainer(trunk, size=size, view=view, seed=seed, lr=lr)
    file, smaller = state / f"generator-{size}.pt", state / f"generator-{size // 2}.pt"
    if saved := load_state(file):
        trainer.resume(saved)
    else:
        calibrate(trainer.discriminator, studio_portraits(portraits, pool, np.random.default_rng(seed), batch=64))
        if saved := load_state(smaller):
            trainer.grow(saved)
        start = smaller if saved else "nothing"
        tqdm.write(f"generator {size} px: starts from {start}, {len(portraits)} portraits", file=sys.stderr)

    losses: list[tuple[float, float]] = []
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
        counts = total_counts(state, size) | {"portraits": len(portraits)}
        recipe = f"StyleGAN2 grown from 64 px, projected discriminator, hinge loss, EMA, seed {seed}"
        text = card(f"generator, {size} px", recipe, f"train-generator --size {size}", counts, measured)
        save_network(export / "generator.safetensors", trainer.average, text)


def calibrate(discriminator: ProjectedDiscriminator, portraits: Tensor) -> None:
    """Measures the scale of the frozen features on whole portraits."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        views = F.adaptive_avg_pool2d(portraits, discriminator.view)
        discriminator.projection.calibrate(discriminator.trunk[0](views))


def snapshot(
    trainer: Trainer, distance: Yardstick, state: Path, losses: Sequence[tuple[float, float]], num_portraits: int
) -> None:
    """Saves everything; logs the mean losses since the last one, the distance, and pictures of fixed latents."""
    size = trainer.generator.resolution
    estimate_mean_w(trainer.average)
    save_state(state / f"generator-{size}.pt", trainer.state())
    generator_loss, discriminator_loss = np.mean(losses, axis=0)
    append_row(state / f"generator-{size}.csv", {
        "images": trainer.images, "seconds": round(trainer.seconds, 1), "portraits": num_portraits,
        "images_per_s": round(trainer.images / max(trainer.seconds, 1e-9), 2),
        "generator_loss": round(float(generator_loss), 4), "discriminator_loss": round(float(discriminator_loss), 4),
        "frechet": round(distance(trainer.average), 4), "frechet_floor": round(distance.floor, 4),
    })  # fmt: skip
    for psi in (0.7, 1.0):
        picture = state / f"generator-{size}-{trainer.images:07d}-psi{psi:.1f}.png"
        save_grid(picture, draw_portraits(trainer.average, 32, psi=psi), columns=8)


def run_discriminator(
    renders: Path, state: Path, size: int, budget: Budget, export: Path | None, seed: int, batch: int, lr: float
) -> None:
    """Trains the shipped discriminator: logistic loss, and R1 on every 16th step (arXiv:1912.04958, section 3.1).

    Its minibatch statistics stay within one image, as the enhancement uses them.
    """
    generator = finished_generator(state, size)
    portraits = load_portraits(renders, "train", size=size)
    pool = background_pool(NUM_BACKGROUNDS, size, seed=seed, families=SOFT)
    torch.manual_seed(seed)
    network = Discriminator(resolution=size, channels=DISCRIMINATOR_CHANNELS, group=1)
    network = network.to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.Adam(network.parameters(), lr=lr, betas=(0.0, 0.99), fused=True)
    file, step, seconds = state / f"discriminator-{size}.pt", 0, 0.0
    if saved := load_state(file):
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, seconds = saved["step"], saved["seconds"]

    def save() -> None:
        networks = {"network": network.state_dict(), "average": average.state_dict()}
        save_state(file, {**networks, "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds})

    losses: list[float] = []
    for _ in budget.steps(step, seconds):
        real = studio_portraits(portraits, pool, np.random.default_rng((seed, step)), batch=batch)
        fake = draw_portraits(generator, batch, seed=(seed << 32) + step).clamp(-1, 1)
        losses.append(discriminator_step(network, optimiser, real, fake, with_r1=step % 16 == 0))
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
    with torch.autocast("cpu", torch.bfloat16):
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
    real = studio_portraits(portraits, pool, np.random.default_rng(1), batch=num)
    fake = draw_portraits(generator, num, seed=3).clamp(-1, 1)
    logits = {name: torch.cat([network(part) for part in torch.split(images, 32)]) for name, images in
              (("real", real), ("fake", fake))}  # fmt: skip
    shares = {"real_right": (logits["real"] > 0).float().mean(), "fake_right": (logits["fake"] < 0).float().mean()}
    means = {f"{name}_logit": value.mean() for name, value in logits.items()}
    return {name: round(float(value), 4) for name, value in (shares | means).items()}


def total_counts(state: Path, size: int) -> dict[str, float]:
    """Minutes of training, and portraits seen, at this size and at those it grew from."""
    files = (state / f"generator-{2**k}.pt" for k in range(2, size.bit_length()))
    counts = [saved["counts"] for file in files if (saved := load_state(file))]
    return {
        "minutes": round(sum(count["seconds"] for count in counts) / 60, 1),
        "images": sum(count["images"] for count in counts),
    }
