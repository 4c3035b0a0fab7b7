"""A portrait's way into a slot and out of it: its targets before, its image, matte and foreground after.

One portrait at a time and in float32, so that nothing of a neighbour gets in.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gen import Sample
from .closed_form import foreground_method
from .losses import outside_band, perceptual_features
from .matting import Matting
from .objective import Background, Networks, Preset, Targets, matte, measure, objective, recomposed_matte, within_bounds

TAIL = 0.005  # what a sigmoid leaves of 0 and 1


@dataclass(frozen=True, slots=True, eq=False)
class Enhanced:
    """One portrait after enhancement, with its final matte."""

    sample: Sample
    ws: Tensor  # [L, w_dim]
    noise: tuple[Tensor, ...]  # each [1, r, r]
    image: Tensor  # [3, H, W] in [-1, 1]
    alpha: Tensor  # [1, H, W] in [0, 1], averaged with the mirror image's, settled
    foreground: Tensor  # [3, H, W] in [-1, 1], straight
    losses: dict[str, float]  # before and after, always the same keys, always finite
    steps: int  # updates between the original and the kept portrait; 0: the original was kept


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A portrait that waits in a slot."""

    order: int
    sample: Sample
    targets: Targets  # N = 1
    before: dict[str, Tensor]  # the terms of the original, each [1]


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """What a slot found."""

    ws: Tensor  # [1, L, w_dim]
    noise: tuple[Tensor, ...]  # each [1, 1, r, r]
    steps: int  # updates that led to it
    diverged: bool


@torch.no_grad()
def enter(sample: Sample, networks: Networks, preset: Preset, background: Background, *, order: int) -> Entry:
    """Everything a sample is compared with, and its terms as it came."""
    device = next(networks.generator.parameters()).device
    image = sample.image[None].to(device)
    direct, entropy = matte(image, networks)
    alpha = direct.clamp(0, 1)
    targets = Targets(
        image=image,
        alpha=alpha,
        entropy=entropy,
        averaged=averaged_matte(networks.matting, image, direct=direct) if preset.needs_averaged else alpha,
        again=alpha.clone(),
        outside=outside_band(alpha),
        foreground=foreground_method(preset.foreground)(image, alpha)[0],
        background=background(sample.latents, image.shape[-1])[None].to(device),
        features=tuple(perceptual_features(networks.perceptual, image, max_side=preset.perceptual_px)),
        ws=sample.ws[None].to(device),
        noise=tuple(map_[None].to(device) for map_ in sample.noise),
        detail=torch.zeros_like(image),
    )
    if sample.is_photo:
        targets.detail.copy_(image - networks.generator.synthesis(targets.ws, targets.noise).float())
    if preset.recomposition:
        targets.again.copy_(recomposed_matte(image, targets, networks))
    own = (targets.ws, targets.noise, targets)
    before = measure(image, alpha, entropy, *own, networks, preset, again=targets.again)
    return Entry(order, sample, targets, before)


@torch.no_grad()
def finish(entry: Entry, best: Best, networks: Networks, preset: Preset) -> Enhanced:
    """The kept step in float32, or the original where that is no worse by the same measure."""
    if best.steps == 0:
        return unchanged(entry, networks, preset, diverged=best.diverged)
    image, direct, after = remade(entry, best, networks, preset)
    better = objective(after, preset) < objective(entry.before, preset)
    if not bool(better & within_bounds(after, preset)):
        return unchanged(entry, networks, preset, diverged=best.diverged)
    alpha = final_matte(networks.matting, image, direct=direct)
    return with_matte(entry, best, image, alpha, after, preset)


def remade(entry: Entry, best: Best, networks: Networks, preset: Preset) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The portrait of a step [1, 3, H, W] in [-1, 1], made again in float32, its plain matte, and its terms."""
    made = networks.generator.synthesis(best.ws, best.noise).float()
    image = (made + entry.targets.detail).clamp(-1, 1)
    direct, entropy = matte(image, networks)
    own = (best.ws, best.noise, entry.targets)
    return image, direct, measure(image, direct.clamp(0, 1), entropy, *own, networks, preset)


@torch.no_grad()
def unchanged(
    entry: Entry, networks: Networks, preset: Preset, *, rejected: bool = False, diverged: bool = False
) -> Enhanced:
    """The original with its matte: nothing better was found, or nothing was looked for."""
    targets = entry.targets
    best = Best(targets.ws, targets.noise, 0, diverged)
    alpha = settled(targets.averaged) if preset.needs_averaged else final_matte(networks.matting, targets.image)
    return with_matte(entry, best, targets.image, alpha, entry.before, preset, rejected=rejected)


def with_matte(
    entry: Entry,
    best: Best,
    image: Tensor,
    alpha: Tensor,
    after: dict[str, Tensor],
    preset: Preset,
    *,
    rejected: bool = False,
) -> Enhanced:
    """The record of an image [1, 3, H, W] in [-1, 1] with its final matte [1, 1, H, W], and its foreground."""
    foreground = foreground_method(preset.foreground)(image, alpha)[0]
    finite = all(bool(value.isfinite().all()) for value in (image, alpha, foreground, *after.values()))
    return Enhanced(
        sample=entry.sample,
        ws=best.ws[0].clone(),
        noise=tuple(map_[0].clone() for map_ in best.noise),
        image=image[0],
        alpha=alpha[0],
        foreground=foreground[0],
        losses=_report(entry.before, after, preset)
        | {"diverged": float(best.diverged or not finite), "rejected": float(rejected)},
        steps=best.steps,
    )


def _report(before: dict[str, Tensor], after: dict[str, Tensor], preset: Preset) -> dict[str, float]:
    """Terms before and after as floats; what is 0 for every original only after."""
    report = {"objective_before": objective(before, preset), "objective_after": objective(after, preset)}
    judged = ("entropy", "outside", "consistency", "recomposition", "adversarial")
    for name in [name for name in judged if name in before]:
        report |= {f"{name}_before": before[name], f"{name}_after": after[name]}
    report |= {name: value for name, value in after.items() if f"{name}_after" not in report}
    # JSON has no NaN; a portrait that is not finite says so in `diverged`.
    return {name: float(value.nan_to_num(0.0, 0.0, 0.0)) for name, value in report.items()}


def averaged_matte(matting: Matting, image: Tensor, *, direct: Tensor | None = None) -> Tensor:
    """The mean matte of an image and its mirror image: [N, 3, H, W] in [-1, 1] -> [N, 1, H, W] in [0, 1].

    No larger or smaller copies: bringing their mattes back blurs them, and the enhancement, held to a blurred mean,
    blurred the portraits; docs/decisions.md, 2026-11-30.

    Args:
        direct: what the network makes of the image itself [N, 1, H, W], if that is known; saves one pass of two.
    """
    if direct is None:
        plain, mirrored = matting(torch.cat([image, image.flip(-1)])).float().chunk(2)
    else:
        plain, mirrored = direct.float(), matting(image.flip(-1)).float()
    mean: Tensor = (plain + mirrored.flip(-1)) / 2
    return mean.clamp(0, 1)


def final_matte(matting: Matting, image: Tensor, *, direct: Tensor | None = None) -> Tensor:
    """What is stored of an image: its averaged matte, settled; [N, 3, H, W] in [-1, 1] -> [N, 1, H, W] in [0, 1].

    Args:
        direct: as in `averaged_matte`.
    """
    return settled(averaged_matte(matting, image, direct=direct))


def settled(alpha: Tensor) -> Tensor:
    """What lies within TAIL of 0 or 1 becomes that, the rest is stretched between; [N, 1, H, W] in [0, 1] -> same.

    A sigmoid reaches neither: inside a person the reference network says 0.997. Measured on held-out people with exact
    mattes this lowers the error of the whole picture by a tenth; docs/decisions.md, 2026-11-30.
    """
    return ((alpha - TAIL) / (1 - 2 * TAIL)).clamp(0, 1)
