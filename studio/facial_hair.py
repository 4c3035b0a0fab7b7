"""Brows, lashes and beards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from .growth import DOWN, Ground, clump_and_curl, scatter, settle, unit
from .styles import BEARDS, Array, HairAttributes, Style, beard_weight, brow_weight, smoothstep, taper, tint
from .surfaces import Strands

BEARD_STRANDS = {"stubble": 7000, "moustache": 1500, "short": 7000, "full": 6500}


def comb_skin(
    name: str, ground: Ground, weight: Array, num: int, style: Style, way: Array, reach: Array,
    hair: HairAttributes, rng: np.random.Generator,
) -> Strands:  # fmt: skip
    """`num` short strands where the skin's weight [V] is, combed along `way` [V, 3], template frame.

    `reach` [V] scales the style's length.
    """
    roots = scatter(ground, weight, num, rng)
    near = cKDTree(ground.body.template[::4]).query(roots.template)[1] * 4
    combed = way[near] @ ground.head.turn.T + 0.25 * rng.normal(size=(len(near), 3))
    direction = unit(style.lift * roots.normal + (1 - style.lift) * combed)
    segment = (style.top * reach[near] * rng.uniform(0.6, 1.0, len(near)) / (style.points - 1))[:, None]
    line = [roots.at]
    for _ in range(1, style.points):
        direction = unit(direction + style.gravity * DOWN * segment / 0.01)
        line.append((line[-1] + direction * segment).astype(np.float32))
    points, clump = clump_and_curl(np.stack(line, axis=1), roots.template, style, rng)
    side = np.where(roots.template[:, 0] > 0, 1.0, -1.0).astype(np.float32)
    points = settle(points, side, np.ones(len(points), bool), ground)
    return Strands(name, points, taper(points, 4.5e-5, rng), tint(hair, clump, rng), 0.3)


def brows(hair: HairAttributes, ground: Ground, rng: np.random.Generator) -> Strands:
    """Combed outward, upright at the nose and falling towards the temple."""
    x = ground.body.template[:, 0]
    way = np.stack([np.sign(x), np.interp(np.abs(x), [0.012, 0.020, 0.040], [1.2, 0.35, -0.25]), 0 * x], axis=1)
    style = Style("back", 0.0085, 0.0085, lift=0.22, gravity=0.0, clump=0.25, frizz=0.0003, points=4)
    weight = brow_weight(ground.body.template, hair)
    return comb_skin("brows", ground, weight, int(800 * hair.brows), style, way, np.ones_like(x), hair, rng)


def lashes(hair: HairAttributes, ground: Ground, rng: np.random.Generator) -> Strands:
    """From the rim of the upper lids, the part of the skin round the eyes that faces down."""
    x, y, z = ground.body.template.T
    from_eye = np.sqrt((np.abs(x) - 0.0296) ** 2 + y**2 + z**2)
    rim = (np.abs(from_eye - 0.0170) < 0.0016) & (z > 0.006) & (y > -0.004)
    facing = -(ground.normals @ ground.head.turn)[:, 1]
    weight = (rim * smoothstep(0.25, 0.7, facing)).astype(np.float32)
    way = np.stack([30 * np.sign(x) * (np.abs(x) - 0.028), np.full_like(x, 0.25), np.ones_like(x)], axis=1)
    style = Style("back", 0.0075, 0.0075, lift=0.0, gravity=-0.25, clump=0.2, frizz=0.0002, points=4)
    return comb_skin("lashes", ground, weight, 260, style, unit(way), np.ones_like(x), hair, rng)


def beard(hair: HairAttributes, ground: Ground, rng: np.random.Generator) -> Strands:
    """Combed down, on the upper lip aside."""
    x, y, _ = ground.body.template.T
    length = BEARDS[hair.beard]
    if length > 0.02:
        style = Style("back", length, length, lift=0.25, gravity=0.7, clump=0.5, frizz=0.1 * length, points=8)
    else:
        style = Style("back", length, length, lift=0.45, gravity=0.35, clump=0.5, frizz=0.1 * length, points=5)
    lip = smoothstep(-0.078, -0.066, y)
    aside = np.sign(x) * (0.5 * lip - 0.25 * (1 - lip) * smoothstep(0.01, 0.05, np.abs(x)))
    way = np.stack([aside, -np.ones_like(y), 0.2 + 0 * y], axis=1)
    reach = 0.35 + 0.65 * smoothstep(0.060, 0.025, np.abs(x))  # short at the cheeks, full at the chin
    weight = beard_weight(ground.body.template, hair)
    return comb_skin("beard", ground, weight, BEARD_STRANDS[hair.beard], style, way, reach, hair, rng)


def facial_hair(hair: HairAttributes, ground: Ground, rng: np.random.Generator) -> list[Strands]:
    """Brows and lashes, and the beard if there is one; darker and less grey than the scalp's hair."""
    red, green, blue = hair.colour
    dark = replace(hair, highlights=0.0, grey=0.5 * hair.grey, colour=(0.75 * red, 0.75 * green, 0.75 * blue))
    black = replace(dark, grey=0.0, colour=(0.4 * red, 0.4 * green, 0.4 * blue))
    kinds = [brows(dark, ground, rng), lashes(black, ground, rng)]
    return kinds if hair.beard == "none" else [*kinds, beard(dark, ground, rng)]
