"""Backgrounds: procedural pictures, and crops of the photographs that scikit-image brings along.

Three sets. `SOFT` is calm and muted, for training the generator, whose capacity should go to the person. `ALL` adds
edges, patterns and photographs, for training matting networks, which must not take any of those for hair. `UNSEEN` is
the same with photographs of its own, for tests.

A family is a function (rng, size) -> [size, size, 3] float32, linear light in [0, 1].
"""

import colorsys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from ..enhance.light import linear_from_srgb, srgb_from_linear

Floats = NDArray[np.float32]
Family = Callable[[np.random.Generator, int], Floats]

# Bundled with scikit-image's wheel, nobody in them: a face in a background would be a person without a matte.
PHOTOGRAPHS = ("brick.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
               "motorcycle_left.png", "motorcycle_right.png", "page.png", "rocket.jpg", "text.png")  # fmt: skip
HELD_OUT = ("cell.png", "clock_motion.png", "coins.png", "ihc.png", "moon.png", "retina.jpg")  # no training sees these


def colour(rng: np.random.Generator, *, max_saturation: float = 1.0, darkest: float = 0.08) -> Floats:
    """A random colour [3], linear light; any lightness that a wall, a sky or a shadow has."""
    hue, saturation, value = rng.random(), max_saturation * rng.beta(1.2, 2.0), rng.uniform(darkest, 0.98)
    return linear_from_srgb(np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32))


def blend(first: Floats, second: Floats, mask: Floats) -> Floats:
    """`first` where the mask [H, W] is 0, `second` where it is 1."""
    mask = mask[..., None]
    return (first * (1 - mask) + second * mask).astype(np.float32)


def ramp(rng: np.random.Generator, size: int) -> Floats:
    """A mask [H, W] in [0, 1] that grows along a random direction, or away from a random centre."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    if rng.random() < 0.4:
        centre = rng.uniform(-0.4, 0.4, 2)
        mask = np.hypot(x - centre[0], y - centre[1]) * rng.uniform(1.0, 1.6)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        mask = 0.5 + (x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0.7, 1.4)
    mask = np.clip(mask, 0, 1)
    smooth: Floats = (mask * mask * (3 - 2 * mask)).astype(np.float32)  # at both ends: no cone in the middle
    return smooth


def octaves(rng: np.random.Generator, size: int, *, num_octaves: int, falloff: float) -> Floats:
    """Value noise [H, W] in [0, 1]: random grids of 3, 6, 12 ... cells, each `falloff` times the one before."""
    noise = np.zeros((size, size), np.float32)
    for octave in range(num_octaves):
        cells = min(3 * 2**octave, size)
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
        noise += falloff**octave * zoom(grid, size / (cells + 1), order=1, grid_mode=True, mode="nearest")
    noise -= noise.min()
    return noise / max(float(noise.max()), 1e-6)


def soft_gradient(rng: np.random.Generator, size: int) -> Floats:
    """Two muted colours, one into the other."""
    first, second = (colour(rng, max_saturation=0.5, darkest=0.2) for _ in "ab")
    return blend(first, second, ramp(rng, size))


def soft_noise(rng: np.random.Generator, size: int) -> Floats:
    """A gradient with slow clouds of a third muted colour."""
    clouds = octaves(rng, size, num_octaves=2, falloff=0.4) * np.float32(rng.uniform(0.2, 0.7))
    return blend(soft_gradient(rng, size), colour(rng, max_saturation=0.5), clouds)


def soft_bokeh(rng: np.random.Generator, size: int) -> Floats:
    """Out-of-focus lights before a dim gradient."""
    return bokeh(rng, size, max_saturation=0.5, blur=(0.015, 0.03))


def bokeh(
    rng: np.random.Generator, size: int, *, max_saturation: float = 1.0, blur: tuple[float, float] = (0.003, 0.03)
) -> Floats:
    """Discs of light added to a dim gradient; blur in widths of the picture."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    dim = np.float32(rng.uniform(0.15, 0.7))
    picture = dim * blend(colour(rng, max_saturation=0.6), colour(rng, max_saturation=0.6), ramp(rng, size))
    radius = rng.uniform(0.02, 0.12)
    for _ in range(rng.integers(4, 16)):
        centre, one = rng.random(2), radius * rng.uniform(0.7, 1.3)
        disc = np.hypot(x - centre[0], y - centre[1]) < one
        light = colour(rng, max_saturation=max_saturation) * np.float32(rng.uniform(0.1, 0.6))
        picture = picture + disc[..., None] * light
    sigma = size * rng.uniform(*blur)
    return np.asarray(gaussian_filter(picture, (sigma, sigma, 0)), np.float32).clip(0, 1)


def gradient(rng: np.random.Generator, size: int) -> Floats:
    """Two colours of any saturation, one into the other."""
    return blend(colour(rng), colour(rng), ramp(rng, size))


def noise(rng: np.random.Generator, size: int) -> Floats:
    """Fine to coarse value noise between three colours."""
    picture = colour(rng)
    for _ in range(2):
        mask = octaves(rng, size, num_octaves=int(rng.integers(2, 6)), falloff=rng.uniform(0.4, 0.9))
        picture = blend(picture, colour(rng), mask)
    return picture


def stripes(rng: np.random.Generator, size: int) -> Floats:
    """Straight or wavy stripes, from hair-thin to wide, hard or soft; a second set makes a grid."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    picture = gradient(rng, size)
    for _ in range(rng.integers(1, 3)):
        angle, period = rng.uniform(0, np.pi), size * np.exp(rng.uniform(np.log(0.025), np.log(0.5)))
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle)
        along = along + rng.uniform(0, 0.5) * period * np.sin(across * 2 * np.pi / (size * rng.uniform(0.2, 1.0)))
        wave = np.sin(along * 2 * np.pi / period) * np.exp(rng.uniform(0, 2.5)) - rng.uniform(-1, 1)
        picture = blend(picture, colour(rng), (0.5 + 0.5 * np.tanh(wave)).astype(np.float32))
    return picture


def shapes(rng: np.random.Generator, size: int) -> Floats:
    """Overlapping rectangles, ellipses and lines, each with its own colour or gradient: rooms, shelves, windows."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    picture = gradient(rng, size)
    for _ in range(rng.integers(3, 14)):
        angle = rng.choice([0.0, 0.0, rng.uniform(0, np.pi)])
        centre, radii = rng.random(2), np.exp(rng.uniform(np.log(0.01), np.log(0.5), 2))
        u = ((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) / radii[0]
        v = ((y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)) / radii[1]
        distance = np.hypot(u, v) if rng.random() < 0.4 else np.maximum(abs(u), abs(v))
        edge = np.clip((1 - distance) * radii.min() * size + 0.5, 0, 1)  # one pixel wide
        fill = gradient(rng, size) if rng.random() < 0.3 else colour(rng)
        picture = blend(picture, fill, edge.astype(np.float32))
    return defocused(rng, picture)


def photograph(rng: np.random.Generator, size: int, *, names: tuple[str, ...] = PHOTOGRAPHS) -> Floats:
    """A random crop of a bundled photograph, turned, tinted and sometimes out of focus."""
    whole = photographs(names)[rng.integers(len(names))]
    side = int(min(whole.shape[:2]) * rng.uniform(0.3, 1.0))
    top, left = (int(rng.integers(0, length - side + 1)) for length in whole.shape[:2])
    crop = Image.fromarray(whole[top : top + side, left : left + side]).resize((size, size), Image.Resampling.BOX)
    picture = linear_from_srgb(np.asarray(crop, np.float32) / np.float32(255))
    picture = np.rot90(picture, int(rng.integers(4))) * rng.uniform(0.6, 1.2, 3).astype(np.float32)
    return defocused(rng, np.clip(picture, 0, 1))


def held_out_photograph(rng: np.random.Generator, size: int) -> Floats:
    """The same of those that no training sees."""
    return photograph(rng, size, names=HELD_OUT)


def defocused(rng: np.random.Generator, picture: Floats) -> Floats:
    """The picture, in half of all cases blurred by up to 3 % of its width."""
    if rng.random() < 0.5:
        return picture
    sigma = len(picture) * rng.uniform(0.003, 0.03)
    return np.asarray(gaussian_filter(picture, (sigma, sigma, 0)), np.float32)


@cache
def photographs(names: tuple[str, ...]) -> list[NDArray[np.uint8]]:
    """Bundled photographs, [H, W, 3] sRGB, at most 512 pixels a side."""
    import skimage  # here: only this family needs it, and it comes with the extra `studio`

    pictures = []
    for name in names:
        with Image.open(Path(skimage.__file__).parent / "data" / name) as picture:
            rgb = picture.convert("RGB")
        rgb.thumbnail((512, 512))
        pictures.append(np.asarray(rgb))
    return pictures


# Each family and how often it is drawn.
SOFT: Mapping[Family, float] = {soft_gradient: 0.45, soft_noise: 0.3, soft_bokeh: 0.25}
ALL: Mapping[Family, float] = {soft_gradient: 0.1, soft_noise: 0.05, gradient: 0.05, bokeh: 0.15, noise: 0.15,
                               stripes: 0.1, shapes: 0.2, photograph: 0.2}  # fmt: skip
UNSEEN = {held_out_photograph if family is photograph else family: weight for family, weight in ALL.items()}


def drawn_family(rng: np.random.Generator, families: Mapping[Family, float]) -> Family:
    """One of the families, by their weights."""
    weights = np.array(list(families.values()))
    return list(families)[rng.choice(len(weights), p=weights / weights.sum())]


def background(rng: np.random.Generator, size: int, *, families: Mapping[Family, float] = ALL) -> NDArray[np.uint8]:
    """One background, [size, size, 3] sRGB."""
    srgb = srgb_from_linear(drawn_family(rng, families)(rng, size))
    return (srgb * 255 + rng.random(srgb.shape, dtype=np.float32)).astype(np.uint8)  # dithered: gradients have no steps


def background_pool(num: int, size: int, *, seed: int, families: Mapping[Family, float] = ALL) -> NDArray[np.uint8]:
    """`num` backgrounds, [num, size, size, 3] sRGB; the i-th depends on (seed, i) and the size alone."""
    pool = np.empty((num, size, size, 3), np.uint8)
    for i in range(num):
        pool[i] = background(np.random.default_rng((seed, i)), size, families=families)
    return pool


def family_name(seed: int, i: int, *, families: Mapping[Family, float] = ALL) -> str:
    """Which family the i-th background of `background_pool(seed=seed)` is of."""
    return drawn_family(np.random.default_rng((seed, i)), families).__name__
