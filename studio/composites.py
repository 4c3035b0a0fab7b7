"""Portraits with exact alpha over new backgrounds: what the studio's networks are trained on.

The renders are read once, brought to the training size and kept in memory as bytes. A batch is then a gather, an
optional warp and one blend in linear light, so that the networks never wait for it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..enhance.light import LINEAR, blend, linear, linear_from_srgb, srgb_from_linear
from ..shards.augment import degraded, graded, jitter, softened

WHOLE = 0.6  # share of the people that keep their pixels, see `warped`


@dataclass(frozen=True, slots=True, eq=False)
class Portraits:
    """Renders at one size, in memory."""

    keys: tuple[str, ...]  # names of the renders, sorted
    stamps: NDArray[np.int64]  # [N] when each was written, ns
    foreground: NDArray[np.uint8]  # [N, S, S, 3] straight sRGB, colour extended where alpha = 0
    alpha: NDArray[np.uint8]  # [N, S, S]
    hair: NDArray[np.uint8]  # [N, S, S] coverage by hair

    def __len__(self) -> int:
        return len(self.keys)

    def half(self, parity: int) -> "Portraits":
        """Every second portrait by name, so that two networks learn from nobody in common."""
        chosen = np.array([int(key) % 2 == parity for key in self.keys], bool)
        if not chosen.any():
            kind = ("even", "odd")[parity]
            raise ValueError(f"no render of an {kind} number among {len(self)}; render more people, `studio render`")
        return Portraits(
            tuple(key for key, one in zip(self.keys, chosen, strict=True) if one),
            *(array[chosen] for array in (self.stamps, self.foreground, self.alpha, self.hair)),
        )


# Reading


def load_portraits(renders: Path, split: str, *, size: int) -> Portraits:
    """All finished renders of a split ("train", "val", "test") at `size` pixels.

    What was read before comes from `renders/SPLIT-SIZE.npz`; new and changed renders are read and added to it. A render
    is finished once its JSON file is there, which is written last.
    """
    written = {path.stem: path.stat().st_mtime_ns for path in sorted((renders / split).glob("*.json"))}
    if not written:
        raise FileNotFoundError(f"no renders in {renders / split}: run `studio render` first")
    cache = renders / f"{split}-{size}.npz"
    known = read_cache(cache)
    kept = [(key, i) for i, key in enumerate(known.keys) if written.get(key) == known.stamps[i]] if known else []
    fresh = sorted(written.keys() - {key for key, _ in kept})
    if known and not fresh and len(kept) == len(known):
        return known

    # Old ones keep their place in the arrays until everything is sorted by name.
    old = [i for _, i in kept]
    new = [read_render(renders / split, key, size=size) for key in fresh]
    keys = [key for key, _ in kept] + fresh
    order = np.argsort(np.array(keys))
    planes = []
    for plane, name in enumerate(("foreground", "alpha", "hair")):
        parts = [getattr(known, name)[old]] if known and old else []
        parts += [np.stack([one[plane] for one in new])] if new else []
        planes.append(np.concatenate(parts)[order])
    sorted_keys = tuple(keys[i] for i in order)
    portraits = Portraits(sorted_keys, np.array([written[key] for key in sorted_keys], np.int64), *planes)
    write_cache(cache, portraits)
    return portraits


def read_render(folder: Path, key: str, *, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """One render's foreground [S, S, 3], alpha and hair [S, S], averaged in linear light and weighted by alpha."""
    pictures = {}
    for name, mode in (("foreground", "RGB"), ("alpha", "L"), ("hair", "L")):
        with Image.open(folder / f"{key}.{name}.png") as picture:
            pictures[name] = np.asarray(picture.convert(mode))
    alpha, hair = (pictures[name].astype(np.float32) / np.float32(255) for name in ("alpha", "hair"))
    if len(alpha) < size:
        raise ValueError(f"render {key} is {len(alpha)} px wide, training needs {size}: render larger or train smaller")
    if len(alpha) == size:
        return pictures["foreground"], pictures["alpha"], pictures["hair"]
    # A little weight everywhere keeps the extended colour where nothing is covered.
    weight = alpha + np.float32(1e-3)
    light = linear_from_srgb(pictures["foreground"].astype(np.float32) / np.float32(255)) * weight[..., None]
    small_weight = shrink(weight, size)
    small_light = np.stack([shrink(light[..., c], size) / small_weight for c in range(3)], -1)
    planes = srgb_from_linear(np.clip(small_light, 0, 1)), shrink(alpha, size), shrink(hair, size)
    foreground, small_alpha, small_hair = ((plane * 255 + 0.5).astype(np.uint8) for plane in planes)
    return foreground, small_alpha, small_hair


def shrink(plane: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """[H, W] to [size, size] by area means."""
    return np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BOX))


def read_cache(path: Path) -> Portraits | None:
    """What `write_cache` wrote, or None where there is nothing to be read."""
    try:
        with np.load(path) as arrays:
            planes = (arrays[name] for name in ("stamps", "foreground", "alpha", "hair"))
            return Portraits(tuple(arrays["keys"].tolist()), *planes)
    except (FileNotFoundError, BadZipFile, EOFError, KeyError, ValueError):
        return None  # it is only a cache: the renders themselves are read again


def write_cache(path: Path, portraits: Portraits) -> None:
    """Writes beside and renames, so that another process training on the same renders never reads half a file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, keys=np.array(portraits.keys), stamps=portraits.stamps, foreground=portraits.foreground,
                 alpha=portraits.alpha, hair=portraits.hair)  # fmt: skip
    partial.replace(path)


# Composing


def planes(arrays: NDArray[np.uint8], index: NDArray[np.int64]) -> Tensor:
    """Rows [N, H, W] or [N, H, W, C] of bytes as [N, 1 or C, H, W] uint8."""
    chosen = torch.from_numpy(arrays[index])
    return chosen[:, None] if chosen.ndim == 3 else chosen.permute(0, 3, 1, 2)


def mirror(rng: np.random.Generator, num: int) -> Tensor:
    """[N] bool, half of them true."""
    return torch.from_numpy(rng.random(num) < 0.5)


def flipped(x: Tensor, which: Tensor) -> Tensor:
    """[N, C, H, W] with the samples in `which` mirrored left to right."""
    return torch.where(which[:, None, None, None], x.flip(3), x)


def studio_portraits(
    portraits: Portraits, backgrounds: NDArray[np.uint8], rng: np.random.Generator, *, batch: int
) -> Tensor:
    """What the generator learns from: people as rendered or mirrored, lightly re-lit, over calm backgrounds.

    Returns:
        [batch, 3, S, S] in [-1, 1].
    """
    who = rng.integers(len(portraits), size=batch)
    turned = mirror(rng, batch)
    foreground = flipped(LINEAR[planes(portraits.foreground, who).long()], turned)
    alpha = flipped(planes(portraits.alpha, who).float() / 255, turned)
    background = LINEAR[planes(backgrounds, rng.integers(len(backgrounds), size=batch)).long()]
    return blend(jitter(foreground, rng, exposure=0.12, tint=0.05), alpha, background)


def matting_pairs(
    portraits: Portraits, backgrounds: NDArray[np.uint8], rng: np.random.Generator, *, batch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What the matting networks learn from: images with everything varied but the matte's truth.

    Returns:
        image [batch, 3, S, S] in [-1, 1], alpha and hair [batch, 1, S, S] in [0, 1].
    """
    who = rng.integers(len(portraits), size=batch)
    stack = [planes(array, who).float() / 255 for array in (portraits.foreground, portraits.alpha, portraits.hair)]
    foreground, alpha, hair = torch.split(warped(torch.cat(stack, 1), rng), [3, 1, 1], 1)
    foreground = jitter(linear(foreground), rng, exposure=0.4, tint=0.12)
    background = jitter(linear(behind(portraits, backgrounds, rng, batch=batch)), rng, exposure=0.5, tint=0.15)
    image, mattes = softened(blend(foreground, alpha, background), torch.cat([alpha, hair], 1), rng)
    alpha, hair = torch.split(mattes.clamp(0, 1), 1, 1)
    return degraded(graded(image, rng), rng), alpha, hair


def warped(x: Tensor, rng: np.random.Generator) -> Tensor:
    """People [N, C, S, S] mirrored and shifted by whole pixels, WHOLE of them; the others scaled and turned as well.

    A bilinear warp softens picture and matte: a network that saw nothing else blurs the mattes of sharp pictures, as a
    generator's are. Borders repeat, and bodies stay on the lower one.
    """
    num, half = len(x), x.shape[-1] / 2
    whole = rng.random(num) < WHOLE
    scale = np.where(whole, 1, np.exp2(rng.normal(0.05, 0.2, num).clip(-0.3, 0.6)))
    angle = np.where(whole, 0, rng.normal(0, 0.12, num))
    flip = np.where(rng.random(num) < 0.5, -1.0, 1.0)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    # y is 1 at the lower border. A larger shift than 1 - 1 / scale would show where the body ends.
    room = 1 - 1 / scale
    down = room + 0.05 - rng.random(num) * (0.3 + 2 * np.maximum(room, 0))
    across = rng.normal(0, 0.08, num)
    down, across = (np.where(whole, np.round(by * half) / half, by) for by in (down, across))
    theta = np.stack([np.stack([flip * cos, flip * -sin, across], 1), np.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(torch.from_numpy(theta.astype(np.float32)), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def behind(portraits: Portraits, backgrounds: NDArray[np.uint8], rng: np.random.Generator, *, batch: int) -> Tensor:
    """Backgrounds [batch, 3, S, S] in [0, 1]: mirrored, zoomed; a few hold another person's colours without a matte."""
    picture = planes(backgrounds, rng.integers(len(backgrounds), size=batch)).float() / 255
    others = torch.from_numpy(rng.random(batch) < 0.04)[:, None, None, None]
    picture = torch.where(others, planes(portraits.foreground, rng.integers(len(portraits), size=batch)) / 255, picture)
    theta = np.zeros((batch, 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = rng.uniform(0.4, 1.0, batch)
    theta[:, :, 2] = rng.uniform(-1, 1, (batch, 2)) * (1 - theta[:, 0, :1])
    theta[:, 0, 0] *= np.where(rng.random(batch) < 0.5, -1, 1)
    grid = F.affine_grid(torch.from_numpy(theta), list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
