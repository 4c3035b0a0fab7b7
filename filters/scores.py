"""What can be said about a portrait and its matte without knowing the truth: one function a score.

Scores of error look at the worst part, as DatasetGAN does (Zhang et al. 2021, arXiv:2104.06490): the mean of the top
10 % of a per-pixel map. A matte that is right almost everywhere and wrong in one place must not pass for good.
"""

from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..enhance import Enhanced, Matting, Perceptual, composite, entropy_map, outside_band, perceptual_features
from ..gen import Discriminator, random_stream
from .connected import regions

DRIFT_PX = 64  # drift is of what a portrait shows, not of its grain; and costs a quarter of what 128 px do
FINITE = "finite"  # 1.0, or 0.0 where some score was not a number (it is then stored as 0.0)


@torch.no_grad()
def score(
    enhanced: Enhanced, matting: Matting, second: Matting, perceptual: Perceptual, discriminator: Discriminator
) -> dict[str, float]:
    """Every score of one portrait: always the same keys in the same order, always finite.

    Args:
        matting: the reference network, which the enhancement listened to.
        second: an independent one, which it did not.
        perceptual, discriminator: as in the enhancement.

    Returns:
        certainty, stability, agreement (and agreement_before, on the original portrait), recomposition, realism and
        drift: 0 is best. coverage, soft_share, components, holes, border_contact: shares in [0, 1].
    """
    device = enhanced.ws.device
    image, original = enhanced.image[None], enhanced.sample.image[None].to(device)
    alpha = enhanced.alpha[None]
    new_images = composite(alpha, enhanced.foreground[None], new_backgrounds(enhanced).to(device))

    # One batch of every view of the same size: batch shapes are the same for every portrait.
    views = torch.cat([image, original, image.flip(-1), jittered(image), new_images])
    direct, before, mirrored, recoloured, *again = matting(views).float().split(1)
    second_direct, second_before = second(torch.cat([image, original])).float().split(1)
    variants = [mirrored.flip(-1), matte_at_scale(matting, image, 0.75), recoloured]

    scores = {
        "certainty": certainty(alpha),
        "stability": disagreement(direct, variants),
        "agreement": disagreement(direct, [second_direct]),
        "agreement_before": disagreement(before, [second_before]),
        "recomposition": disagreement(alpha, again),
        "realism": F.softplus(-discriminator(image, group=1).float()).flatten(),
        "drift": drift(perceptual, image, original),
        "coverage": coverage(alpha),
        "soft_share": soft_share(alpha),
        "components": components(alpha),
        "holes": holes(alpha),
        "border_contact": border_contact(alpha),
    }
    return _finite({name: float(value) for name, value in scores.items()})


def _finite(scores: dict[str, float]) -> dict[str, float]:
    """Zeros for what is not a number, with one more key that says whether there was any."""
    values = {name: value if isfinite(value) else 0.0 for name, value in scores.items()}
    return values | {FINITE: float(all(isfinite(value) for value in scores.values()))}


# Errors without a truth


def worst_part(error: Tensor, *, share: float = 0.1) -> Tensor:
    """Mean of the largest values of a per-pixel map.

    Args:
        error: [N, 1, H, W].
        share: of the pixels, in (0, 1].

    Returns:
        [N].

    >>> worst_part(torch.arange(10.0).view(1, 1, 2, 5), share=0.2).item()
    8.5
    """
    flat = error.flatten(1)
    return flat.topk(max(1, round(share * flat.shape[1])), dim=1).values.mean(1)


def certainty(alpha: Tensor) -> Tensor:
    """Worst entropy in nats outside the band around the boundary: [N, 1, H, W] -> [N], in [0, log 2]."""
    return worst_part(entropy_map(alpha) * outside_band(alpha))


def disagreement(alpha: Tensor, others: list[Tensor]) -> Tensor:
    """Worst mean absolute difference of a matte from some others of the same portrait, [N, 1, H, W] -> [N]."""
    return worst_part(torch.stack([(other - alpha).abs() for other in others]).mean(0))


def drift(perceptual: Perceptual, image: Tensor, original: Tensor) -> Tensor:
    """Perceptual distance of an image from its original at 64 px, both [N, 3, H, W] in [-1, 1] -> [N]."""
    features = (perceptual_features(perceptual, each, max_side=DRIFT_PX) for each in (image, original))
    return perceptual.distance(*features)


def jittered(image: Tensor) -> Tensor:
    """The image in a slightly warmer, darker light with more contrast: [N, 3, H, W] in [-1, 1] -> same.

    A fixed change: a score must not depend on luck.
    """
    gain = image.new_tensor([1.05, 0.98, 0.88]).view(3, 1, 1)
    return (((image + 1) * 0.92 * gain - 1) * 1.08).clamp(-1, 1)


def matte_at_scale(matting: Matting, image: Tensor, scale: float) -> Tensor:
    """The matte of a resized image, brought back to its size: [N, 3, H, W] -> [N, 1, H, W]."""
    size = image.shape[-2:]
    scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(matting(scaled).float(), size=size, mode="bilinear", align_corners=False)


def new_backgrounds(enhanced: Enhanced) -> Tensor:
    """Two backgrounds [2, 3, H, W] in [-1, 1] that the portrait has never been before: coarse random colours."""
    latents = enhanced.sample.latents
    stream = random_stream(latents.seed, latents.shard, latents.candidate, "recomposition")
    colours = torch.from_numpy(stream.uniform(-1, 1, size=(2, 3, 4, 4)).astype("float32"))
    return F.interpolate(colours, size=enhanced.image.shape[-2:], mode="bilinear", align_corners=True)


# Sanity of a matte


def coverage(alpha: Tensor) -> Tensor:
    """Mean of alpha: [N, 1, H, W] -> [N]."""
    return alpha.flatten(1).mean(1)


def soft_share(alpha: Tensor) -> Tensor:
    """Share of the pixels that are neither background nor foreground (5 to 95 %): [N, 1, H, W] -> [N]."""
    return ((alpha > 0.05) & (alpha < 0.95)).flatten(1).float().mean(1)


def components(alpha: Tensor) -> Tensor:
    """Share of the foreground's pixels outside its largest connected part: [N, 1, H, W] -> [N]; 0 if empty."""
    return alpha.new_tensor([_outside_largest(mask) for mask in _foreground(alpha)])


def holes(alpha: Tensor) -> Tensor:
    """Area of enclosed background as a share of the foreground's: [N, 1, H, W] -> [N], at most 1; 0 if empty."""
    return alpha.new_tensor([_enclosed(mask) for mask in _foreground(alpha)])


def border_contact(alpha: Tensor) -> Tensor:
    """Share of the top border and of the upper halves of the sides that is foreground: [N, 1, H, W] -> [N].

    A portrait leaves the picture at the bottom, and with its shoulders at the lower sides.
    """
    inside = (alpha > 0.5).float()
    half = alpha.shape[-2] // 2
    border = [inside[..., 0, :], inside[..., 1:half, 0], inside[..., 1:half, -1]]
    return torch.cat(border, dim=-1).flatten(1).mean(1)


def _foreground(alpha: Tensor) -> NDArray[np.bool_]:
    return (alpha[:, 0] > 0.5).cpu().numpy()  # [N, H, W]


def _outside_largest(mask: NDArray[np.bool_]) -> float:
    areas = [area for area, _ in regions(mask, diagonal=True)]
    return 1 - max(areas) / sum(areas) if areas else 0.0


def _enclosed(mask: NDArray[np.bool_]) -> float:
    area = int(mask.sum())
    # Four-connected where the foreground is eight-connected: a diagonal line of it closes a hole.
    enclosed = sum(area for area, at_border in regions(~mask, diagonal=False) if not at_border)
    return min(1.0, enclosed / area) if area else 0.0
