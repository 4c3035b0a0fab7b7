"""Trimaps: what a matting network is told about where the boundary may lie."""

import torch.nn.functional as F
from torch import Tensor


def trimap_from_alpha(alpha: Tensor, *, width: int, low: float = 0.05, high: float = 0.95) -> Tensor:
    """Trimap of an alpha: thresholds, then both sure regions drawn back by `width`.

    So the unknown region holds every soft pixel and everything within `width` of a boundary, also of a hard one
    that has no soft pixel. The picture's border is no boundary. No gradient goes through.

    Args:
        alpha: [N, 1, H, W] in [0, 1].
        width: pixels, measured along rows and columns; 0 only thresholds.
        low: alpha at or below this is sure background.
        high: alpha at or above this is sure foreground.

    Returns:
        [N, 1, H, W]; 0 background, 0.5 unknown, 1 foreground.
    """
    if width < 0:
        raise ValueError(f"width must be 0 or more pixels, got {width}")
    if not 0 <= low < high <= 1:
        raise ValueError(f"thresholds must be 0 <= low < high <= 1, got low {low}, high {high}")
    near_other = dilate((alpha.detach() < high).float(), width=width)
    near_person = dilate((alpha.detach() > low).float(), width=width)
    return (1 + near_person - near_other) / 2


def trimap_from_logits(logits: Tensor) -> Tensor:
    """The likeliest class of each pixel; no gradient goes through.

    Args:
        logits: [N, 3, H, W] of background, unknown, foreground.

    Returns:
        [N, 1, H, W]; 0 background, 0.5 unknown, 1 foreground.
    """
    return logits.detach().argmax(1, keepdim=True).float() / 2


def dilate(mask: Tensor, *, width: int) -> Tensor:
    """Largest value within `width` pixels along rows and columns (a square window), [N, 1, H, W]."""
    size = 2 * width + 1
    return F.max_pool2d(F.max_pool2d(mask, (size, 1), 1, (width, 0)), (1, size), 1, (0, width))
