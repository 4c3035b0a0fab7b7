"""sRGB and linear light, for arrays and, by tables, for tensors; light adds up where it is linear."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
LEVELS = 4096  # of linear light, in the table back to sRGB


def linear_from_srgb(srgb: NDArray[np.floating[Any]]) -> Floats:
    """Linear light of sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


def srgb_from_linear(linear: Floats) -> Floats:
    """sRGB values of linear light, both in [0, 1]; the inverse of `linear_from_srgb`."""
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    return srgb.astype(np.float32)


LINEAR = torch.from_numpy(linear_from_srgb(np.linspace(0, 1, 256, dtype=np.float32)))  # [256]
SRGB = torch.from_numpy(srgb_from_linear(np.linspace(0, 1, LEVELS, dtype=np.float32)))  # [LEVELS]


def linear(srgb: Tensor) -> Tensor:
    """Linear light of sRGB in [0, 1], by the table."""
    return LINEAR[(srgb.clamp(0, 1) * 255 + 0.5).long()]


def decoded(image: Tensor) -> Tensor:
    """Linear light of an sRGB image, both in [-1, 1], by the formula, on any device."""
    srgb = ((image.float() + 1) / 2).clamp(0, 1)
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) * 2 - 1


def encoded(image: Tensor) -> Tensor:
    """The inverse of `decoded`."""
    light = ((image + 1) / 2).clamp(0, 1)
    root = light.clamp_min(0.0031308) ** (1 / 2.4)  # at no light its slope is infinite, and 0 of it no number
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * root - 0.055) * 2 - 1


def blend(foreground: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """alpha F + (1 - alpha) B in linear light, as sRGB.

    Args:
        foreground, background: [N, 3, H, W] linear light in [0, 1].
        alpha: [N, 1, H, W] in [0, 1].

    Returns:
        [N, 3, H, W] in [-1, 1].
    """
    light = torch.lerp(background, foreground, alpha)
    return SRGB[(light.clamp(0, 1) * (LEVELS - 1) + 0.5).long()] * 2 - 1
