"""A real portrait is found again in a generator: image -> ws and noise maps that give it back.

The start is the mean w with fresh noise, and all rows of W+ and all noise maps move together, as one batch of slots
that never changes its shape. Loss: mean square and perceptual distance, and what keeps noise maps noise, Karras et al.
2020 (arXiv:1912.04958), appendix D: for a map n of r x r and each of its halvings down to 8 x 8 (means of 2 x 2, times
2, which keeps white noise's variance),

    L = (1/r^2 sum n(x, y) n(x - 1, y))^2 + (1/r^2 sum n(x, y) n(x, y - 1))^2        with wrap-around,

summed, with weight 1e5; after every step each map is brought back to mean 0 and variance 1. The learning rate goes up
linearly over the first 5 % of the steps and down a cosine over the last 25 %, as there. The losses see the image as it
comes, beyond [-1, 1] too: with a clamp nothing holds what is too bright, and every third portrait ran away.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import cos, pi

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gen import Generator, Latents, Sample, draw_noise
from .losses import perceptual, perceptual_features, pixel
from .perceptual import MAX_SIDE, Perceptual
from .precision import autocast, chosen_precision
from .slots import adam_step

SMALLEST_PX = 8  # of a noise map's pyramid
RISE, FALL = 0.05, 0.25  # shares of the steps


@dataclass(frozen=True, slots=True, eq=False)
class Inverted:
    """One portrait with what the generator makes of it."""

    sample: Sample  # its image is the generator's: close to the target, not equal
    target: Tensor  # [3, R, R] in [-1, 1], the portrait as it came
    losses: dict[str, float]  # pixel, perceptual, noise: before (the mean w) and after


def invert(
    targets: Iterable[tuple[Latents, Tensor]],
    generator: Generator,
    perceptual: Perceptual,
    *,
    steps: int = 300,
    lr: float = 0.1,
    pixel_weight: float = 1.0,
    perceptual_weight: float = 1.0,
    noise_weight: float = 1e5,
    perceptual_px: int = MAX_SIDE,
    slots: int = 8,
    precision: str = "auto",
) -> Iterator[Inverted]:
    """The latents of real portraits, in the order in which these come.

    Args:
        targets: the name of each portrait's random streams (its z is not used) with its image [3, R, R] in [-1, 1];
            taken a batch at a time.
        generator, perceptual: frozen, on one device.
        steps: updates; 0 gives the mean portrait.
        lr: Adam's rate between rise and fall, for ws and noise alike. 0.1 is Karras et al.'s; of 0.02, 0.05 and 0.1
            it came closest in 50 steps (mean square 0.0338, 0.0266, 0.0194 on a studio portrait).
        pixel_weight, perceptual_weight, noise_weight: of the three losses.
        perceptual_px: the longest side at which the perceptual distance looks.
        slots: portraits in one batch, the last one repeated where fewer are left, so that neighbours change nothing.
            Their number does: it enters the last bits of a step, and the steps amplify it to 5 levels of 255.
        precision: "bf16", "float32", or "auto" for the faster one here; of the loop alone, the final image is float32
            always.
    """
    if steps < 0 or slots < 1:
        raise ValueError(f"steps must be 0 or more and slots 1 or more, got {steps} and {slots}")
    precision = chosen_precision(precision, next(generator.parameters()).device.type)
    weights = (pixel_weight, perceptual_weight, noise_weight)
    stream = iter(targets)
    while group := list(islice(stream, slots)):
        for _, image in group:
            if image.shape != (3, generator.resolution, generator.resolution):
                wanted = [3, generator.resolution, generator.resolution]
                raise ValueError(f"a portrait to invert must be {wanted}, got {list(image.shape)}")
        batch = Batch(group + [group[-1]] * (slots - len(group)), generator, perceptual, weights, perceptual_px)
        before = [batch.measured(slot) for slot in range(len(group))]
        for step in range(steps):
            batch.step(lr * rate_at(step, steps), precision=precision)
        yield from (batch.result(slot, before[slot]) for slot in range(len(group)))


class Batch:
    """Portraits that are inverted together: each with variables, Adam's state and targets of its own."""

    @torch.no_grad()
    def __init__(
        self,
        group: Sequence[tuple[Latents, Tensor]],
        generator: Generator,
        network: Perceptual,
        weights: tuple[float, float, float],
        perceptual_px: int,
    ) -> None:
        self.generator, self.network, self.weights, self.perceptual_px = generator, network, weights, perceptual_px
        device = generator.mean_w.device
        self.latents = [latents for latents, _ in group]
        self.images = torch.stack([image for _, image in group]).to(device)  # [S, 3, R, R]
        one_by_one = [perceptual_features(network, image[None], max_side=perceptual_px) for image in self.images]
        self.features = [torch.cat(layer) for layer in zip(*one_by_one, strict=True)]
        ws = generator.mean_w.float().expand(len(group), generator.num_ws, -1).clone()  # [S, L, w_dim]
        maps = [draw_noise(latents, generator.noise_sizes) for latents in self.latents]
        noise = [whitened(torch.stack(layer).to(device)) for layer in zip(*maps, strict=True)]  # each [S, 1, r, r]
        self.values = [ws, *noise]
        self.first, self.second = ([torch.zeros_like(value) for value in self.values] for _ in range(2))
        self.count = torch.zeros(len(group), dtype=torch.long, device=device)
        self.active = torch.ones(len(group), dtype=torch.bool, device=device)

    def step(self, lr: float, *, precision: str) -> None:
        """Moves every slot once; one whose losses or gradients are not finite stays where it is from here on."""
        values = [value.detach().requires_grad_() for value in self.values]
        with torch.enable_grad():
            with autocast(values[0].device.type, precision):
                image = self.generator.synthesis(values[0], values[1:]).float()
                distance = perceptual(self.network, image, self.features, max_side=self.perceptual_px).float()
            terms = (pixel(image, self.images), distance, noise_correlation(values[1:]))
            total = sum(weight * term for weight, term in zip(self.weights, terms, strict=True))
            assert isinstance(total, Tensor)
            gradients = torch.autograd.grad(total.sum(), values)
        finite = total.detach().isfinite()
        for gradient in gradients:
            finite &= gradient.flatten(1).abs().sum(1).isfinite()
        self.active &= finite
        self.count += self.active
        for index, gradient in enumerate(gradients):
            state = (self.values[index], gradient, self.first[index], self.second[index])
            adam_step(*state, self.count, active=self.active, lr=lr)
            if index > 0:
                self.values[index] = whitened(self.values[index])

    @torch.no_grad()
    def remade(self, slot: int) -> Tensor:
        """What the generator makes of one slot, alone and in float32: [1, 3, R, R] in [-1, 1]."""
        ws, *noise = (value[slot : slot + 1] for value in self.values)
        return self.generator.synthesis(ws, noise).float().clamp(-1, 1)

    @torch.no_grad()
    def measured(self, slot: int) -> dict[str, float]:
        """The losses of one slot without their weights, in float32."""
        image, features = self.remade(slot), [layer[slot : slot + 1] for layer in self.features]
        terms = {
            "pixel": pixel(image, self.images[slot : slot + 1]),
            "perceptual": perceptual(self.network, image, features, max_side=self.perceptual_px),
            "noise": noise_correlation([value[slot : slot + 1] for value in self.values[1:]]),
        }
        return {name: float(term) for name, term in terms.items()}

    def result(self, slot: int, before: dict[str, float]) -> Inverted:
        """The record of one slot."""
        ws, *noise = (value[slot].clone() for value in self.values)
        sample = Sample(self.latents[slot], ws, tuple(noise), self.remade(slot)[0])
        losses = {f"{name}_before": value for name, value in before.items()}
        losses |= {f"{name}_after": value for name, value in self.measured(slot).items()}
        return Inverted(sample, self.images[slot].clone(), losses | {"steps": float(self.count[slot])})


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step: up linearly, level, and down a cosine.

    >>> [round(rate_at(step, 100), 2) for step in (0, 4, 50, 87, 99)]
    [0.2, 1.0, 1.0, 0.53, 0.0]
    """
    rise = min(1.0, (step + 1) / max(1.0, RISE * steps))
    fall = min(1.0, (steps - step) / max(1.0, FALL * steps))
    return rise * (0.5 - 0.5 * cos(pi * fall))


def noise_correlation(noise: Sequence[Tensor]) -> Tensor:
    """How much neighbours in noise maps [N, 1, r, r] have in common, at all scales -> [N]; the formula stands above."""
    total = noise[0].new_zeros(len(noise[0]))
    for map_ in noise:
        while True:
            for dim in (2, 3):
                total = total + (map_ * map_.roll(1, dim)).flatten(1).mean(1).square()
            if map_.shape[-1] <= SMALLEST_PX:
                break
            map_ = 2 * F.avg_pool2d(map_, 2)
    return total


def whitened(map_: Tensor) -> Tensor:
    """A noise map [N, 1, r, r] with mean 0 and variance 1 in each sample."""
    centred = map_ - map_.mean((2, 3), keepdim=True)
    return centred * torch.rsqrt(centred.square().mean((2, 3), keepdim=True) + 1e-12)
