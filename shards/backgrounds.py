"""New backgrounds for portraits: drawn, or cut from a folder of pictures.

A background is a function (rng, height, width) -> [3, H, W], linear light in [0, 1]. Drawn ones have what pictures
behind people have: slow gradients, clouds, lights out of focus, stripes, and shapes with edges.
"""

import colorsys
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ..enhance.light import LINEAR, linear_from_srgb

Background = Callable[[np.random.Generator, int, int], Tensor]
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def drawn(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """A background of one of the families, every second one out of focus."""
    family = FAMILIES[int(rng.integers(len(FAMILIES)))]
    picture = family(rng, height, width)
    return defocused(picture, rng.uniform(1.5, 8)) if rng.random() < 0.5 else picture


def colour(rng: np.random.Generator) -> Tensor:
    """A random colour [3, 1, 1], linear light; any lightness that a wall, a sky or a shadow has."""
    srgb = colorsys.hsv_to_rgb(rng.random(), rng.beta(1.2, 2.0), rng.uniform(0.08, 0.98))
    return torch.from_numpy(linear_from_srgb(np.array(srgb, np.float32)))[:, None, None]


def places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows [H, 1] and columns [1, W] in shorter sides, 0 in the middle."""
    short = min(height, width)
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    return rows[:, None] / short, columns[None, :] / short


def ramp(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """[H, W] in [0, 1], growing along a random direction."""
    y, x = places(height, width)
    angle = rng.uniform(0, 2 * math.pi)
    t = (0.5 + (x * math.cos(angle) + y * math.sin(angle)) * rng.uniform(0.7, 1.4)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def gradient(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """One colour into another."""
    return torch.lerp(colour(rng), colour(rng), ramp(rng, height, width))


def clouds(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Slow to fine noise between three colours."""
    falloff, picture = rng.uniform(0.4, 0.9), colour(rng).expand(3, height, width)
    for _ in range(2):
        mask = torch.zeros(height, width)
        for octave in range(int(rng.integers(2, 6))):
            grid = torch.from_numpy(rng.random((1, 1, 3 * 2**octave, 3 * 2**octave), dtype=np.float32))
            mask += falloff**octave * F.interpolate(grid, (height, width), mode="bilinear")[0, 0]
        mask = (mask - mask.min()) / (mask.max() - mask.min()).clamp(min=1e-6)
        picture = torch.lerp(picture, colour(rng), mask)
    return picture


def lights(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Discs of light before a dim gradient."""
    y, x = places(height, width)
    picture = gradient(rng, height, width) * rng.uniform(0.15, 0.7)
    radius, softness = rng.uniform(0.02, 0.12), rng.uniform(0.01, 0.05)
    for _ in range(rng.integers(4, 16)):
        v, u, size = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), radius * rng.uniform(0.7, 1.3)
        disc = ((size - torch.hypot(x - u, y - v)) / softness + 0.5).clamp(0, 1)
        picture = picture + disc * colour(rng) * rng.uniform(0.1, 0.6)
    return picture.clamp(0, 1)


def stripes(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Stripes from hair-thin to wide, hard or soft, straight or wavy; a second set makes a grid."""
    y, x = places(height, width)
    picture = gradient(rng, height, width)
    for _ in range(rng.integers(1, 3)):
        angle, period = rng.uniform(0, math.pi), math.exp(rng.uniform(math.log(0.025), math.log(0.5)))
        across = y * math.cos(angle) - x * math.sin(angle)
        bend = rng.uniform(0, 0.5) * period * torch.sin(across * (2 * math.pi / rng.uniform(0.2, 1.0)))
        wave = torch.sin((x * math.cos(angle) + y * math.sin(angle) + bend) * (2 * math.pi / period))
        mask = torch.sigmoid(2 * (wave * math.exp(rng.uniform(0, 2.5)) - rng.uniform(-1, 1)))
        picture = torch.lerp(picture, colour(rng), mask)
    return picture


def shapes(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Overlapping rectangles and ellipses: rooms, shelves, windows."""
    y, x = places(height, width)
    picture = gradient(rng, height, width)
    for _ in range(rng.integers(3, 14)):
        angle = float(rng.choice([0.0, 0.0, rng.uniform(0, math.pi)]))
        v, u = rng.uniform(-0.6, 0.6, 2)
        radii = np.exp(rng.uniform(math.log(0.01), math.log(0.5), 2))
        along = ((x - u) * math.cos(angle) + (y - v) * math.sin(angle)) / radii[0]
        across = ((y - v) * math.cos(angle) - (x - u) * math.sin(angle)) / radii[1]
        distance = torch.hypot(along, across) if rng.random() < 0.4 else torch.maximum(along.abs(), across.abs())
        edge = ((1 - distance) * float(radii.min()) * min(height, width) + 0.5).clamp(0, 1)  # one pixel wide
        picture = torch.lerp(picture, colour(rng), edge)
    return picture


FAMILIES: tuple[Background, ...] = (gradient, clouds, lights, stripes, shapes)


def defocused(picture: Tensor, factor: float) -> Tensor:
    """The picture made smaller by a factor, and as large again."""
    height, width = picture.shape[1:]
    size = (max(2, round(height / factor)), max(2, round(width / factor)))
    small = F.interpolate(picture[None], size, mode="bilinear", antialias=True)
    return F.interpolate(small, (height, width), mode="bicubic")[0].clamp(0, 1)


class PictureFolder:
    """Backgrounds cut from the pictures of a folder (and the folders in it)."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
        if not self.files:
            raise ValueError(f"{folder} holds no pictures to use as backgrounds ({', '.join(sorted(PICTURES))})")

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Tensor:
        """A random part of a random picture, at least half as wide or high as it can be, mirrored or not."""
        file = self.files[int(rng.integers(len(self.files)))]
        try:
            with Image.open(file) as picture:
                picture.draft("RGB", (2 * width, 2 * height))  # JPEG decodes at a fraction of its size
                rgb = picture.convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"background {file} cannot be read: {error}; remove it") from error
        scale = min(rgb.width / width, rgb.height / height) * rng.uniform(0.5, 1)
        w, h = width * scale, height * scale
        left, top = rng.uniform(0, rgb.width - w), rng.uniform(0, rgb.height - h)
        part = rgb.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
        levels: NDArray[np.uint8] = np.array(part)
        light = LINEAR[torch.from_numpy(levels).long()].permute(2, 0, 1)
        return light.flip(2) if rng.random() < 0.5 else light
