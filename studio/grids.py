"""Pictures in rows and columns, to look at while a network trains."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def to_rgb(image: Tensor) -> NDArray[np.uint8]:
    """[N, 3, H, W] in [-1, 1] (clamped) to [N, H, W, 3] uint8."""
    levels = (image.detach().float().clamp(-1, 1) + 1) * 127.5
    rgb: NDArray[np.uint8] = levels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return rgb


def checkerboard(size: int, *, cells: int = 8) -> Tensor:
    """[1, 3, size, size] in [-1, 1]: light and dark grey, `cells` squares a side."""
    index = torch.arange(size) * cells // size
    dark = (index[:, None] + index[None, :]) % 2
    return (0.6 - 0.7 * dark.float()).expand(1, 3, size, size)


def alternate(columns: Sequence[Tensor]) -> Tensor:
    """Columns of [N, 1 or 3, H, W] to one [N * len(columns), 3, H, W], row by row."""
    return torch.stack([column.expand(-1, 3, -1, -1) for column in columns], 1).flatten(0, 1)


def save_grid(path: Path, image: Tensor, *, columns: int) -> None:
    """Writes [N, 3, H, W] in [-1, 1] as one PNG, row by row; the last row is filled up with black."""
    rgb = to_rgb(image)
    rows = -(-len(rgb) // columns)
    cells = np.zeros((rows * columns, *rgb.shape[1:]), np.uint8)
    cells[: len(rgb)] = rgb
    _, height, width, _ = cells.shape
    grid = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    Image.fromarray(grid).save(partial, format="PNG")
    partial.replace(path)
