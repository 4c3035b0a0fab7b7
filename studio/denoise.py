"""Few samples to a clean picture: smooth the light, not the paint."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

B_SPLINE = (1 / 16, 1 / 4, 3 / 8, 1 / 4, 1 / 16)
FLOOR = 0.08  # added to the albedo, so that reflections on black paint are not divided by nothing


def denoise(
    colour: np.ndarray, own_alpha: np.ndarray, albedo: np.ndarray, normal: np.ndarray, hair: np.ndarray,
    direction: np.ndarray, *, levels: int = 2, light_tolerance: float = 0.6, normal_tolerance: float = 0.35,
    hair_tolerance: float = 0.25, albedo_tolerance: float = 0.12,
) -> np.ndarray:  # fmt: skip
    """Edge-avoiding a-trous wavelet filter of colour divided by albedo (Dammertz et al. 2010); hair along its strands.

    Args:
        colour: [H, W, 3] premultiplied.
        own_alpha: [H, W], of the samples that made the colour.
        albedo, normal: [H, W, 3], means over what is covered; surfaces keep every detail of their albedo.
        hair: [H, W], exact share of hair in what is covered.
        direction: [H, W, 2] unit (x, y) of the strands.

    Returns:
        [H, W, 3] premultiplied by own_alpha again.
    """
    strand = (np.clip(2 * hair - 0.2, 0, 1))[..., None]
    albedo = albedo + (_along(albedo, hair, direction, reach_px=2) - albedo) * strand
    paint = albedo + FLOOR
    light = colour / np.maximum(own_alpha, 1e-3)[..., None] / paint
    guide = np.concatenate(
        [normal * (1 - hair[..., None]) / normal_tolerance,  # a strand's own normals are noise
         albedo / (albedo_tolerance + 0.5 * hair[..., None]), hair[..., None] / hair_tolerance], -1
    ).astype(np.float32)  # fmt: skip  # [H, W, 7]
    surface = light
    for level in range(levels):
        surface = _smooth(surface, own_alpha, guide, step=2**level, tolerance=light_tolerance)
    strands = _along(_along(light, own_alpha * hair, direction), own_alpha * hair, direction)
    light = surface + (strands - surface) * strand
    return np.asarray(light * paint * own_alpha[..., None], np.float32)


def _along(light: np.ndarray, weight: np.ndarray, direction: np.ndarray, *, reach_px: int = 3) -> np.ndarray:
    """Mean [H, W, 3] over the pixels within reach along `direction`, weighted and falling off."""
    height, width = weight.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    total, mass = np.zeros_like(light), np.full((height, width, 1), 1e-6, np.float32)
    for offset in range(-reach_px, reach_px + 1):
        row = np.clip(np.rint(rows + offset * direction[..., 1]).astype(np.int32), 0, height - 1)
        column = np.clip(np.rint(columns + offset * direction[..., 0]).astype(np.int32), 0, width - 1)
        share = (weight[row, column] * np.exp(-0.5 * (offset / (0.6 * reach_px)) ** 2))[..., None]
        total += share * light[row, column]
        mass += share
    return total / mass


def _smooth(light: np.ndarray, own_alpha: np.ndarray, guide: np.ndarray, *, step: int, tolerance: float) -> np.ndarray:
    height, width = own_alpha.shape
    margin = 2 * step
    # The tone that guides is a 3 x 3 mean: one sample's glint must not vote itself an edge.
    mass = ndimage.uniform_filter(own_alpha, 3) + 1e-4
    tone = np.log(ndimage.uniform_filter(light.mean(-1) * own_alpha, 3) / mass + 0.05) / tolerance
    stack = np.concatenate([light, own_alpha[..., None], tone[..., None], guide], -1).astype(np.float32)
    padded = np.pad(stack, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    total, mass = np.zeros_like(light, dtype=np.float32), np.full((height, width, 1), 1e-6, np.float32)
    for row, row_weight in enumerate(B_SPLINE):
        for column, column_weight in enumerate(B_SPLINE):
            other = padded[row * step : row * step + height, column * step : column * step + width]
            distance = np.square(other[..., 4:] - stack[..., 4:]).sum(-1)
            weight = (row_weight * column_weight * other[..., 3] * np.exp(-distance))[..., None]
            total += weight * other[..., :3]
            mass += weight
    return np.asarray(total / mass)
