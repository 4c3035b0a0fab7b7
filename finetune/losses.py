"""What matting networks are trained with: one function a recipe, network, image and true alpha -> one number."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..shards.augment import gaussian

BOUNDARY_PX = 4  # half the width of the band in which MODNet's detail counts, at 128 px
SOFT = (0.02, 0.98)  # a pixel between is neither inside nor outside

Network = Callable[[Tensor], Any]  # image [N, 3, S, S] in [-1, 1] -> MODNet's three mattes, or alpha [N, 1, S, S]


def boundary_band(alpha: Tensor, *, width: int) -> Tensor:
    """[N, 1, H, W] of 0 or 1: where alpha within `width` pixels is neither all 0 nor all 1."""
    size = 2 * width + 1
    highest, lowest = highest_around(alpha, size), -highest_around(-alpha, size)
    return ((highest > SOFT[0]) & (lowest < SOFT[1])).float()


def highest_around(x: Tensor, size: int) -> Tensor:
    """The highest of the size x size pixels around each of [N, 1, H, W]; rows first, which is faster."""
    rows = F.max_pool2d(x, (1, size), 1, (0, size // 2))
    return F.max_pool2d(rows, (size, 1), 1, (size // 2, 0))


def modnet_loss(network: Network, image: Tensor, alpha: Tensor) -> Tensor:
    """Semantic, detail and matte (Eq. 2 to 5 of arXiv:2011.11961), the matte 5 times in the band, as in its code."""
    mattes = network(image)
    band = boundary_band(alpha, width=BOUNDARY_PX * image.shape[-1] // 128)
    coarse = F.interpolate(alpha, mattes.semantic.shape[-2:], mode="bilinear", antialias=True)
    coarse = gaussian(coarse, [0.8] * len(coarse))
    semantic = 0.5 * (mattes.semantic.float() - coarse).square().mean()
    detail = (band * (mattes.detail.float() - alpha).abs()).mean()
    error = (mattes.matte.float() - alpha).abs() * (1 + 4 * band)
    composition = error * (image + 1) / 2
    total: Tensor = 10 * semantic + 10 * detail + error.mean() + composition.mean()
    return total


def pyramid_loss(network: Network, image: Tensor, alpha: Tensor) -> Tensor:
    """|alpha error| + Laplacian pyramid + composition (Hou and Liu 2019, arXiv:1909.09725)."""
    error: Tensor = network(image).float() - alpha
    composition = error.abs() * (image + 1) / 2
    return error.abs().mean() + laplacian(error, levels=4) + composition.mean()


def laplacian(error: Tensor, *, levels: int) -> Tensor:
    """Sum over levels of 2^level times the mean absolute detail; of the error, since the pyramid is linear."""
    total = error.new_zeros(())
    for level in range(levels):
        smaller = F.avg_pool2d(error, 2)
        detail = error - F.interpolate(smaller, scale_factor=2, mode="bilinear")
        total = total + 2**level * detail.abs().mean()
        error = smaller
    return total
