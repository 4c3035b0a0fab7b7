"""The losses of an enhancement and the measures its guards bound: one function each, one value a sample.

The four losses are those of Xu, Zhou, He, "Self-supervised Matting-specific Portrait Enhancement and
Generation", IEEE TIP 2022 (arXiv:2208.06601), with the weights entropy 1, adversarial 1, pixel 10,
perceptual 100. Each returns [N], never a mean over the batch: the gradient of the sum then keeps samples apart.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gen import Discriminator
from .light import decoded, encoded
from .perceptual import Perceptual, block_mean

MIN_PROBABILITY = 1e-5  # the entropy's slope is finite (at most 11.5) from here on


def composite(alpha: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """alpha F + (1 - alpha) B in linear light, where foregrounds are estimated and shards are composited.

    alpha [N, 1, H, W] in [0, 1], sRGB colours and result [N, 3, H, W] in [-1, 1].
    """
    return encoded(torch.lerp(decoded(background), decoded(foreground), alpha))


# Losses


def entropy_map(alpha: Tensor) -> Tensor:
    """Binary entropy of each pixel of alpha in nats, in [0, log 2]; same shape.

    alpha is first squeezed into [MIN_PROBABILITY, 1 - MIN_PROBABILITY]: a clamp would kill the gradient at 0
    and 1, and the bare formula has an infinite one there. The offset makes 0 and 1 cost exactly nothing.

    >>> entropy_map(torch.tensor([0.0, 1.0])).tolist()
    [0.0, 0.0]
    """
    return _binary_entropy(alpha) - _binary_entropy(alpha.new_zeros(()))


def _binary_entropy(alpha: Tensor) -> Tensor:
    p = MIN_PROBABILITY + (1 - 2 * MIN_PROBABILITY) * alpha
    q = MIN_PROBABILITY + (1 - 2 * MIN_PROBABILITY) * (1 - alpha)
    return -(p * p.log() + q * q.log())


def entropy(alpha: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean binary entropy of a matte in nats, for a network without a trimap head.

    Args:
        alpha: [N, 1, H, W] in [0, 1].
        weight: [N, 1, H, W] in [0, 1], the pixels that are charged; None charges all, as the paper does.

    Returns:
        [N], the mean over the charged pixels; 0 where none is charged.
    """
    return weighted_mean(entropy_map(alpha), weight)


def class_entropy_map(logits: Tensor) -> Tensor:
    """Entropy in nats of each pixel's classes, -sum p log p over the channels.

    Args:
        logits: [N, C, H, W] before the softmax (log_softmax keeps p log p finite at p = 0).

    Returns:
        [N, 1, H, W], in [0, log C].
    """
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1, keepdim=True)


def trimap_entropy(logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean entropy in nats of a trimap network's classes: the paper's loss.

    Args:
        logits: [N, C, H, W] before the softmax.
        weight: as for `entropy`.

    Returns:
        [N], in [0, log C].
    """
    return weighted_mean(class_entropy_map(logits), weight)


def adversarial(discriminator: Discriminator, image: Tensor) -> Tensor:
    """softplus(-D(image)) -> [N], the non-saturating loss of Goodfellow et al. 2014 (arXiv:1406.2661)."""
    return F.softplus(-discriminator(image, group=1).float()).flatten(1).mean(1)


def pixel(image: Tensor, original: Tensor) -> Tensor:
    """Mean squared difference of [N, 3, H, W] in [-1, 1] -> [N], in [0, 4]."""
    return (image - original).square().flatten(1).mean(1)


def perceptual_features(network: Perceptual, image: Tensor, *, max_side: int) -> list[Tensor]:
    """The network's features of [N, 3, H, W] in [-1, 1], seen at `max_side` pixels at most (block means)."""
    return network.features(block_mean(image, max_side=max_side))


def perceptual(network: Perceptual, image: Tensor, original_features: Sequence[Tensor], *, max_side: int) -> Tensor:
    """Distance between an image's features and its original's, stored ones -> [N], 0 when equal."""
    return network.distance(perceptual_features(network, image, max_side=max_side), list(original_features))


# What the guards bound


def outside_band(alpha: Tensor, *, width: float = 0.07) -> Tensor:
    """Where a matte should be sure of itself: 1 away from its boundary, 0 in a band around it.

    The boundary is the 0.5 contour of the blurred matte, so that a speck or an unsure patch
    inside the body has no band of its own and stays charged.

    Args:
        alpha: [N, 1, H, W] in [0, 1].
        width: half the band's breadth, as a share of the shorter side (hair reaches that far).

    Returns:
        [N, 1, H, W], 0 or 1.
    """
    radius = max(1, round(width * min(alpha.shape[-2:])))
    blurred = F.avg_pool2d(alpha, 2 * (radius // 2) + 1, 1, radius // 2, count_include_pad=False)
    inside = (blurred >= 0.5).to(alpha.dtype)
    dilated = F.max_pool2d(inside, 2 * radius + 1, 1, radius)
    eroded = -F.max_pool2d(-inside, 2 * radius + 1, 1, radius)
    return 1 - (dilated - eroded)


def area_change(alpha: Tensor, original: Tensor) -> Tensor:
    """|area - original area| / original area of [N, 1, H, W] -> [N]; an empty original counts as 1 % of the image."""
    before = original.flatten(1).mean(1)
    return (alpha.flatten(1).mean(1) - before).abs() / before.clamp_min(0.01)


def softness(alpha: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of 4 alpha (1 - alpha) over the weighted pixels -> [N], in [0, 1]: a soft share with a gradient."""
    return weighted_mean(4 * alpha * (1 - alpha), weight)


def latent_drift(ws: Tensor, original: Tensor) -> Tensor:
    """Root mean square of ws - original as a share of the original's; both [N, L, w_dim] -> [N]."""
    size = original.square().flatten(1).mean(1).sqrt().clamp_min(1e-8)
    return _root((ws - original).square().flatten(1).mean(1)) / size


def noise_drift(noise: Sequence[Tensor], original: Sequence[Tensor]) -> Tensor:
    """Root mean square change over all values of all noise maps, each [N, 1, r, r] -> [N]; noise itself has 1."""
    squares = [(a - b).square().flatten(1) for a, b in zip(noise, original, strict=True)]
    return _root(torch.stack([square.sum(1) for square in squares]).sum(0) / sum(s.shape[1] for s in squares))


def excess(value: Tensor, bound: float) -> Tensor:
    """How far a measure lies above its bound -> same shape, 0 below it: the slope that turns an update back."""
    return F.relu(value - bound)


def _root(square: Tensor) -> Tensor:
    # The slope of a bare root is infinite at 0, where every enhancement starts.
    return (square + 1e-12).sqrt() - 1e-6


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of [N, ...] over the weighted pixels -> [N]; over all of them for None, 0 where none has a weight."""
    if weight is None:
        return values.flatten(1).mean(1)
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1)
