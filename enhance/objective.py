"""What one enhancement minimises and what it may never do: presets, a sample's targets, terms and guards."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gen import Discriminator, Generator, Latents, random_stream
from . import losses
from .matting import Matting
from .perceptual import Perceptual
from .trimap import trimap_from_logits

Background = Callable[[Latents, int], Tensor]  # (latents, resolution) -> [3, H, W] in [-1, 1]


class Networks(NamedTuple):
    """The frozen networks of an enhancement; a second matting network is never among them."""

    generator: Generator
    discriminator: Discriminator | None  # None: there is no adversarial term
    matting: Matting
    perceptual: Perceptual
    trimap: Matting | None = None  # what makes the trimaps that `matting` needs; None where it needs none


@dataclass(frozen=True, slots=True)
class Preset:
    """How an enhancement goes: steps and rates, weights of the terms, bounds of the guards."""

    steps: int  # evaluations of the objective, the original's included
    patience: int  # stop after so many without a better one
    lr_ws: float
    lr_noise: float
    variables: str = "both"  # "both", "noise" or "latent"
    mode: str = "boundary"  # entropy is charged outside the boundary's band; "all": everywhere
    entropy: float = 1.0
    consistency: float = 0.0  # weight of the matte's distance, in the boundary's band, from the original's averaged one
    recomposition: float = 0.0  # the same of its matte in a mirror and over another background, everywhere
    adversarial: float = 1.0
    pixel: float = 10.0
    perceptual: float = 100.0
    perceptual_px: int = 256  # the longest side at which the perceptual distance looks
    foreground: str = "fast"  # how colours are estimated, see `foreground_method`
    trimap_every: int = 5  # steps between two derivations of a portrait's trimap from an alpha
    guard: float = 0.0  # weight of every guard's excess, in units of its bound
    max_area_change: float = inf  # share of the original's area
    min_soft_ratio: float = 0.0  # softness inside the band, as a share of the original's
    max_drift_ws: float = inf  # share of the original's size
    max_drift_noise: float = inf  # in standard deviations
    max_perceptual: float = inf
    max_outside_growth: float = inf  # of the entropy outside the band, in nats; 0: a kept step is surer there
    max_recomposition_growth: float = inf  # of that term

    @property
    def needs_averaged(self) -> bool:
        """Whether a term holds mattes to the averaged matte of the original."""
        return self.consistency != 0 or self.recomposition != 0


PRESETS = {
    # The table of arXiv:2208.06601; only the best step is kept here instead of the last.
    "paper": Preset(steps=500, patience=500, lr_ws=1e-4, lr_noise=1e-4, mode="all", trimap_every=1),
    "default": Preset(
        steps=20,
        patience=10,
        lr_ws=3e-3,
        lr_noise=2e-2,
        # A trained network's entropy outside the band is about 0.004 nats: weighted by the paper's 1, or by 100, it
        # would not count beside the other terms, whose own noise in bfloat16 is larger (docs/decisions.md).
        entropy=3000.0,
        consistency=2000.0,
        recomposition=2000.0,
        adversarial=0.0,  # the two terms above do its work, at less cost
        perceptual=10.0,
        perceptual_px=32,  # as honest as 64, and a quarter of the cost; without the term portraits drift twice as far
        guard=1.0,
        max_area_change=0.03,
        min_soft_ratio=0.9,
        max_drift_ws=0.15,
        max_drift_noise=0.25,
        max_perceptual=0.1,
        max_outside_growth=2e-4,
        max_recomposition_growth=0.0,
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What enhanced portraits are compared with: computed once, from the originals, when they enter their slots."""

    image: Tensor  # [N, 3, H, W] in [-1, 1]
    alpha: Tensor  # [N, 1, H, W] in [0, 1], without test-time averaging
    entropy: Tensor  # [N, 1, H, W] in nats, see `matte`
    averaged: Tensor  # [N, 1, H, W] in [0, 1], the best matte of the original: see `averaged_matte`
    again: Tensor  # [N, 1, H, W] in [0, 1], its matte over another background, see `recomposed_matte`
    outside: Tensor  # [N, 1, H, W], 1 outside the boundary's band
    foreground: Tensor  # [N, 3, H, W] in [-1, 1]
    background: Tensor  # [N, 3, H, W] in [-1, 1]
    features: tuple[Tensor, ...]  # of the perceptual trunk, each [N, ...]
    ws: Tensor  # [N, L, w_dim]
    noise: tuple[Tensor, ...]  # each [N, 1, r, r]
    detail: Tensor  # [N, 3, H, W], what is added to the generator's image: 0, or what that lacks of a photo

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in a fixed order."""
        mattes = (self.alpha, self.entropy, self.averaged, self.again, self.outside)
        colours = (self.image, self.foreground, self.background, self.detail)
        return (*mattes, *colours, *self.features, self.ws, *self.noise)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same targets with every tensor changed."""
        return type(self)(
            image=change(self.image),
            alpha=change(self.alpha),
            entropy=change(self.entropy),
            averaged=change(self.averaged),
            again=change(self.again),
            outside=change(self.outside),
            foreground=change(self.foreground),
            background=change(self.background),
            features=tuple(change(feature) for feature in self.features),
            ws=change(self.ws),
            noise=tuple(change(map_) for map_ in self.noise),
            detail=change(self.detail),
        )


def colour_gradient(latents: Latents, resolution: int) -> Tensor:
    """A candidate's own smooth background [3, resolution, resolution] in [-1, 1]: nine random colours, interpolated."""
    stream = random_stream(latents.seed, latents.shard, latents.candidate, "background")
    colours = torch.from_numpy(stream.uniform(-1, 1, size=(1, 3, 3, 3)).astype("float32"))
    size = (resolution, resolution)
    return F.interpolate(colours, size=size, mode="bilinear", align_corners=True)[0]


def matte(image: Tensor, networks: Networks, trimap: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Alpha in [0, 1] and each pixel's entropy in nats, both [N, 1, H, W], differentiable in the image.

    A trimap network that says how probable background, unknown and foreground are is asked for every image: its
    likeliest classes are the trimap, without a gradient, and the entropy is that of its classes, as in the paper.
    Elsewhere the entropy is alpha's own.

    Args:
        image: [N, 3, H, W] in [-1, 1].
        trimap: [N, 1, H, W] in {0, 0.5, 1} for a network that needs one, if there is one already.
    """
    if networks.trimap is not None and networks.trimap.makes_trimap:
        logits = networks.trimap.network(image).float()
        alpha = networks.matting(image, trimap_from_logits(logits)).float()
        return alpha, losses.class_entropy_map(logits)
    alpha = (networks.matting(image) if trimap is None else networks.matting(image, trimap)).float()
    return alpha, losses.entropy_map(alpha)


def recomposed_matte(image: Tensor, targets: Targets, networks: Networks, trimap: Tensor | None = None) -> Tensor:
    """What the matting network sees in the portrait's mirror image over another background, [N, 1, H, W] in [0, 1].

    The portrait is cut out with the averaged matte of its original, and its foreground is the original's, moved as the
    image moved: the slope goes through the image, never through the matte that cuts. Mirrored, because a change that
    helps in both views is less likely to be an attack on the network in one.
    """
    foreground = targets.foreground + image - targets.image
    moved = losses.composite(targets.averaged, foreground, targets.background)
    trimap = None if trimap is None else trimap.flip(-1)
    return matte(moved.flip(-1), networks, trimap)[0].flip(-1)


def measure(
    image: Tensor,
    alpha: Tensor,
    entropy: Tensor,
    ws: Tensor,
    noise: tuple[Tensor, ...],
    targets: Targets,
    networks: Networks,
    preset: Preset,
    trimap: Tensor | None = None,
    *,
    again: Tensor | None = None,
) -> dict[str, Tensor]:
    """Every term and every guarded measure of N portraits, each [N]; of the costly terms those that have a weight.

    Args:
        image: [N, 3, H, W], what the generator makes of `ws` [N, L, w_dim] and `noise` [N, 1, r, r] each.
        alpha, entropy: [N, 1, H, W] each, what `matte` makes of the image.
        trimap: [N, 1, H, W], as for `matte`.
        again: [N, 1, H, W], what `recomposed_matte` makes of the image, if it is known.
    """
    inside = 1 - targets.outside
    soft_before = losses.softness(targets.alpha, inside)
    outside = losses.weighted_mean(entropy, targets.outside)
    weighted = {}
    if preset.consistency:
        weighted["consistency"] = losses.weighted_mean((alpha - targets.averaged).abs(), inside)
    if preset.recomposition:
        again = recomposed_matte(image, targets, networks, trimap) if again is None else again
        weighted["recomposition"] = losses.weighted_mean((again - targets.averaged).abs(), None)
        before = losses.weighted_mean((targets.again - targets.averaged).abs(), None)
        weighted["recomposition_growth"] = weighted["recomposition"] - before
    if preset.adversarial and networks.discriminator is not None:
        mixed = losses.composite(alpha, targets.foreground, targets.background)
        weighted["adversarial"] = losses.adversarial(networks.discriminator, mixed)
    return {
        "entropy": losses.weighted_mean(entropy, None),
        "outside": outside,
        "outside_growth": outside - losses.weighted_mean(targets.entropy, targets.outside),
        **weighted,
        "pixel": losses.pixel(image, targets.image),
        "perceptual": losses.perceptual(
            networks.perceptual, image, targets.features, max_side=preset.perceptual_px
        ).float(),
        "area_change": losses.area_change(alpha, targets.alpha),
        "soft_loss": 1 - (losses.softness(alpha, inside) + 1e-4) / (soft_before + 1e-4),
        "drift_ws": losses.latent_drift(ws, targets.ws),
        "drift_noise": losses.noise_drift(noise, targets.noise),
    }


def objective(terms: dict[str, Tensor], preset: Preset) -> Tensor:
    """The weighted sum of `measure`'s terms, with the slope of every guard that is passed -> [N]."""
    total = preset.entropy * terms["outside" if preset.mode == "boundary" else "entropy"]
    for name in ("consistency", "recomposition", "adversarial", "pixel", "perceptual"):
        if name in terms:
            total = total + getattr(preset, name) * terms[name]
    for name, bound in _bounds(preset).items():
        if preset.guard and bound < inf:
            total = total + preset.guard * losses.excess(terms[name], bound) / max(bound, 0.01)
    return total


def within_bounds(terms: dict[str, Tensor], preset: Preset) -> Tensor:
    """Whether a portrait passes no guard -> [N] bool; only such a step may be kept."""
    allowed = ~(terms["outside_growth"] > preset.max_outside_growth)
    if "recomposition_growth" in terms:
        allowed &= ~(terms["recomposition_growth"] > preset.max_recomposition_growth)
    for name, bound in _bounds(preset).items():
        allowed &= ~(terms[name] > bound)
    return allowed


def _bounds(preset: Preset) -> dict[str, float]:
    return {
        "area_change": preset.max_area_change,
        "soft_loss": 1 - preset.min_soft_ratio if preset.min_soft_ratio > 0 else inf,
        "drift_ws": preset.max_drift_ws,
        "drift_noise": preset.max_drift_noise,
        "perceptual": preset.max_perceptual,
    }
