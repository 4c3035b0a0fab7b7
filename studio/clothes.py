"""Clothes: shells over the torso; the neck line is a threshold on a value interpolated over the mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from .body import Template
from .skin import linear, value_noise
from .subdivision import triangles, vertex_normals

NECKS = ("crew", "vneck", "scoop", "boat", "tank")
PATTERNS = ("plain", "plain", "heather", "stripes", "pinstripes", "plaid", "dots")
FEATHER_M = 0.02  # opacity falls from 1 to 0 over twice this distance around the neck line


@dataclass(frozen=True, slots=True)
class ClothesAttributes:
    neck: str  # one of NECKS
    pattern: str  # one of PATTERNS
    colour: tuple[float, float, float]  # linear RGB
    second: tuple[float, float, float]  # linear RGB of the pattern and of the rib
    rib: bool  # a band of the second colour along the neck line
    jacket: bool
    jacket_colour: tuple[float, float, float]
    depth: float  # 0 .. 1 how deep the neck line is
    roughness: float
    folds: float  # 0 .. 1


def _fabric(rng: np.random.Generator) -> tuple[float, float, float]:
    """A fabric colour in linear RGB; greys, muted and saturated ones."""
    import colorsys

    kind = rng.random()
    if kind < 0.3:
        grey = rng.choice([22, 40, 70, 120, 185, 225]) * np.ones(3) + rng.normal(0, 4, 3)
        return tuple(float(v) for v in linear(np.clip(grey, 10, 240)))  # type: ignore[return-value]
    saturation = rng.uniform(0.15, 0.45) if kind < 0.75 else rng.uniform(0.45, 0.85)
    rgb = np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.25, 0.92))) * 255
    return tuple(float(v) for v in linear(rgb))  # type: ignore[return-value]


def draw_clothes(rng: np.random.Generator, *, gender: float) -> ClothesAttributes:
    """One person's clothes."""
    odds = [0.34, 0.24, 0.2, 0.1, 0.12] if gender > 0.5 else [0.5, 0.28, 0.08, 0.04, 0.1]
    neck = str(rng.choice(NECKS, p=odds))
    return ClothesAttributes(
        neck=neck,
        pattern=str(rng.choice(PATTERNS)),
        colour=_fabric(rng),
        second=_fabric(rng),
        rib=bool(rng.random() < 0.35),
        jacket=bool(neck != "tank" and rng.random() < 0.35),
        jacket_colour=_fabric(rng),
        depth=float(rng.random()),
        roughness=float(rng.uniform(0.6, 1.0)),
        folds=float(rng.beta(2, 2)),
    )


def _head(at: np.ndarray) -> np.ndarray:
    """Positive in metres on the head and the chin's underside, where no garment ever is."""
    return np.maximum(at[:, 1] + 0.105, np.minimum(at[:, 1] + 0.155, at[:, 2] + 0.058))


def _hole(at: np.ndarray, neck: str, depth: float) -> np.ndarray:
    """Signed distance in metres, positive where there is no cloth, at template positions [V, 3]."""
    x, y, z = np.abs(at[:, 0]), at[:, 1], at[:, 2]
    half_width = {"crew": 0.064, "vneck": 0.068, "scoop": 0.085, "boat": 0.115, "tank": 0.095}[neck]
    half_width += 0.012 * depth
    half_depth = 0.060 + (0.045 * depth if neck in ("scoop", "tank") else 0.006 * depth)
    around = np.sqrt((x / half_width) ** 2 + ((z + 0.105) / half_depth) ** 2)
    hole = np.where(y > -0.32, (1 - around) * min(half_width, half_depth), -1.0)
    front = z > -0.09
    if neck == "vneck":
        point = -0.21 - 0.09 * depth
        hole = np.where(front, np.maximum(hole, 0.9 * (0.42 * (y - point) - x)), hole)
    if neck in ("scoop", "tank"):
        low = -0.20 - 0.06 * depth
        hole = np.where(front, np.maximum(hole, 0.09 - np.hypot(x, (y - low - 0.09) * 1.0)), hole)
    if neck == "tank":
        hole = np.maximum(hole, np.where(y > -0.33, x - 0.125, -1.0))
    return np.asarray(np.maximum(hole, _head(at)))


def _jacket_hole(at: np.ndarray, depth: float) -> np.ndarray:
    x, y, z = np.abs(at[:, 0]), at[:, 1], at[:, 2]
    around = np.sqrt((x / 0.085) ** 2 + ((z + 0.115) / 0.065) ** 2)
    hole = np.where(y > -0.30, (1 - around) * 0.065, -1.0)
    opening = 0.30 * (y + 0.36 + 0.25 * depth) - x
    return np.asarray(np.maximum(np.where(z > -0.10, np.maximum(hole, 0.95 * opening), hole), _head(at)))


def _paint(at: np.ndarray, clothes: ClothesAttributes, hole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB [V, 3] of the shirt."""
    x, y = at[:, 0], at[:, 1]
    amount = np.zeros(len(at))
    if clothes.pattern == "stripes":
        amount = np.clip(6 * np.sin(y * 2 * np.pi / rng.uniform(0.02, 0.06)) + 0.5, 0, 1)
    elif clothes.pattern == "pinstripes":
        amount = np.clip(6 * (np.sin(x * 2 * np.pi / rng.uniform(0.012, 0.03)) - 0.7), 0, 1)
    elif clothes.pattern == "plaid":
        period = rng.uniform(0.03, 0.07)
        amount = 0.5 * (np.sin(x * 2 * np.pi / period) > 0.2) + 0.5 * (np.sin(y * 2 * np.pi / period) > 0.2)
    elif clothes.pattern == "dots":
        period = rng.uniform(0.02, 0.04)
        amount = np.clip(5 * (np.cos(x * 2 * np.pi / period) * np.cos(y * 2 * np.pi / period) - 0.5), 0, 1)
    elif clothes.pattern == "heather":
        amount = 0.25 + 0.25 * value_noise(at, 0.004, rng)
    if clothes.rib:
        amount = np.where(hole > -0.016, 1.0, amount)
    first, second = np.asarray(clothes.colour), np.asarray(clothes.second)
    colour = first * (1 - amount[:, None]) + second * amount[:, None]
    return np.clip(colour * (1 + 0.05 * value_noise(at, 0.006, rng)[:, None]), 0.004, 0.9).astype(np.float32)


def _smooth(points: np.ndarray, quads: np.ndarray, rounds: int) -> np.ndarray:
    """Uniform Laplacian smoothing of a coarse mesh, boundary included."""
    ring = np.concatenate([quads[:, [k, (k + 1) % 4]] for k in range(4)])
    links = sp.coo_matrix((np.ones(len(ring)), (ring[:, 0], ring[:, 1])), (len(points), len(points)))
    links = ((links + links.T) > 0).astype(float)
    mean = sp.diags(1 / np.maximum(np.asarray(links.sum(axis=1)).ravel(), 1)) @ links
    for _ in range(rounds):
        points = 0.4 * points + 0.6 * (mean @ points)
    return points


def _shell(
    template: Template, coarse: np.ndarray, hole: np.ndarray, *, offset_m: float, folds: float, rng: np.random.Generator
) -> np.ndarray:
    """[V, 3] skin positions pushed out and smoothed: a garment without the body's small relief.

    Near its neck line (`hole` [V], signed distance) it lies close on the skin, so that nobody looks into it.
    """
    smooth = _smooth(coarse, template.coarse_faces, 5)
    normals = vertex_normals(smooth, triangles(template.coarse_faces))
    # Where smoothing pulled the surface inside the body, the offset grows by what it lost.
    lost = np.maximum(np.sum((coarse - smooth) * normals, axis=1), 0)
    loose = template.refine @ (smooth + normals * (offset_m + lost)[:, None])
    skin = template.refine @ coarse
    close = skin + vertex_normals(skin, template.faces) * (0.55 * offset_m)
    free = np.clip(-hole / 0.06, 0, 1)[:, None]
    fine = close * (1 - free) + loose * free
    stretched = template.positions * np.array([1.0, 0.45, 1.0])
    waves = value_noise(stretched, 0.03, rng) + 0.4 * value_noise(stretched, 0.014, rng)
    moved = vertex_normals(fine, template.faces) * (0.0035 * folds * (waves + 0.6))[:, None] * free
    return np.asarray(fine + moved)


def dress(
    template: Template, coarse: np.ndarray, clothes: ClothesAttributes, rng: np.random.Generator
) -> tuple[list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]], np.ndarray]:
    """The garments of one posed person.

    Args:
        coarse: [V0, 3] posed skin.

    Returns:
        (list of (vertices [V, 3], faces [F, 3], colour [V, 3], opacity [V], roughness), covered [V] bool: skin that
        lies well below cloth and need not be drawn).
    """
    at = template.positions
    hole = _hole(at, clothes.neck, clothes.depth)
    layers = [(hole, 0.006, _paint(at, clothes, hole, rng))]
    if clothes.jacket:
        plain = np.asarray(clothes.jacket_colour) * (1 + 0.05 * value_noise(at, 0.005, rng)[:, None])
        layers.append((_jacket_hole(at, clothes.depth), 0.014, np.clip(plain, 0.004, 0.9).astype(np.float32)))
    garments = []
    for signed, offset, colour in layers:
        near = signed < FEATHER_M
        faces = template.faces[near[template.faces].all(axis=1)]
        vertices = _shell(template, coarse, signed, offset_m=offset, folds=clothes.folds, rng=rng)
        opacity = np.clip(0.5 - signed / (2 * FEATHER_M), 0, 1).astype(np.float32)
        garments.append((vertices.astype(np.float32), faces, colour, opacity, clothes.roughness))
    return garments, hole < -1.5 * FEATHER_M
