"""Procedural skin and eyes: a colour per vertex, painted by position on the template so that it fits everyone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from .body import Template

# sRGB anchors of skin tone from very fair to very dark.
TONES = np.array(
    [[246, 216, 202], [236, 196, 174], [219, 172, 145], [193, 140, 110], [153, 101, 73], [110, 70, 50], [70, 45, 36]]
)
IRISES = np.array([[62, 36, 22], [96, 62, 32], [122, 98, 58], [88, 112, 80], [92, 128, 158], [128, 142, 150]])


@dataclass(frozen=True, slots=True)
class SkinAttributes:
    tone: float  # 0 very fair .. 1 very dark
    warmth: float  # -1 pinkish .. 1 yellowish
    redness: float  # 0 .. 1 of cheeks, nose, ears
    freckles: float  # 0 none .. 1 many
    blotches: float  # 0 .. 1 uneven tone
    lips: float  # -0.5 pale .. 1 lipstick
    lip_hue: float  # -1 brown .. 1 pink
    makeup: float  # 0 .. 1 darkened lids
    shadows: float  # 0 .. 1 below the eyes
    gloss: float  # 0 matte .. 1 oily
    iris: int  # row of IRISES


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 255] -> linear light in [0, 1] (IEC 61966-2-1)."""
    value = np.asarray(srgb, dtype=np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def value_noise(points: np.ndarray, scale_m: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise about [-1, 1] at [V, 3] points, features of about `scale_m` metres."""
    lattice = rng.uniform(-1, 1, (32, 32, 32)).astype(np.float32)
    return np.asarray(map_coordinates(lattice, (points / scale_m + 16).T, order=1, mode="grid-wrap"))


def _spot(points: np.ndarray, centre: tuple[float, float, float], radius_m: float) -> np.ndarray:
    """Gaussian spot mirrored in x, in [0, 1]."""
    mirrored = np.stack([np.abs(points[:, 0]), points[:, 1], points[:, 2]], axis=1)
    return np.asarray(np.exp(-0.5 * np.sum((mirrored - np.asarray(centre)) ** 2, axis=1) / radius_m**2))


def draw_skin(rng: np.random.Generator, *, age: float, gender: float) -> SkinAttributes:
    """One person's skin; `age` in years, `gender` 0 male .. 1 female."""
    tone = float(rng.uniform(0, 1))
    painted = gender > 0.5 and rng.random() < 0.45
    return SkinAttributes(
        tone=tone,
        warmth=float(rng.normal(0, 0.5)),
        redness=float(rng.beta(2, 3)),
        freckles=float(rng.beta(1, 2)) if tone < 0.45 and rng.random() < 0.3 else 0.0,
        blotches=float(np.clip(rng.beta(2, 4) + 0.3 * (age > 55), 0, 1)),
        lips=float(rng.uniform(0.4, 1.0) if painted else rng.uniform(-0.3, 0.35)),
        lip_hue=float(rng.uniform(-1, 1)),
        makeup=float(rng.beta(2, 2) if painted else 0.0),
        shadows=float(np.clip(rng.beta(2, 4) + 0.01 * (age - 40), 0, 1)),
        gloss=float(rng.beta(2, 3)),
        iris=int(rng.choice(6, p=[0.45, 0.3, 0.25, 0, 0, 0] if tone > 0.5 else [0.12, 0.2, 0.2, 0.16, 0.2, 0.12])),
    )


def tone_colour(skin: SkinAttributes) -> np.ndarray:
    """Mean linear RGB of the skin, [3]."""
    place = skin.tone * (len(TONES) - 1)
    low = min(int(place), len(TONES) - 2)
    colour = linear(TONES[low] * (low + 1 - place) + TONES[low + 1] * (place - low))
    return np.asarray(colour * np.array([1 - 0.02 * skin.warmth, 1 + 0.02 * skin.warmth, 1 - 0.09 * skin.warmth]))


def paint_skin(template: Template, skin: SkinAttributes, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB albedo [V, 3] of bare skin."""
    at, masks = template.positions, template.masks
    base = tone_colour(skin)
    colour = np.tile(base, (len(at), 1))

    # Uneven tone: broad blotches, fine grain; the neck and body a little darker than the face.
    blotches = 0.6 * value_noise(at, 0.025, rng) + 0.4 * value_noise(at, 0.008, rng)
    colour *= 1 + (0.03 + 0.09 * skin.blotches) * blotches[:, None]
    colour *= 1 + 0.03 * value_noise(at, 0.0022, rng)[:, None]

    # Blood: cheeks, nose, ears and chin are redder, which lowers green and blue.
    blood = 0.9 * _spot(at, (0.038, -0.045, 0.015), 0.016) + 0.8 * _spot(at, (0.0, -0.043, 0.045), 0.011)
    blood += 0.8 * masks["ears"] + 0.3 * _spot(at, (0.0, -0.098, 0.03), 0.012) + 0.15 * value_noise(at, 0.012, rng)
    strength = np.clip(blood, 0, 1.2) * (0.12 + 0.30 * skin.redness) * (1 - 0.55 * skin.tone)
    colour *= 1 - strength[:, None] * np.array([0.1, 0.75, 0.7])

    # Below the eyes, and the lids.
    hollow = _spot(at, (0.030, -0.020, 0.012), 0.009) * (0.08 + 0.25 * skin.shadows)
    colour *= 1 - hollow[:, None] * np.array([0.7, 1.0, 0.8])
    lids = masks["eyelids"] * (0.12 + 0.5 * skin.makeup)
    colour *= 1 - lids[:, None] * np.array([0.6, 0.9, 0.75])

    if skin.freckles > 0:
        dots = value_noise(at, 0.0028, rng) * np.clip(0.5 + value_noise(at, 0.02, rng), 0, 1)
        where = np.clip((dots - 0.35) * 4, 0, 1) * masks["face"]
        colour *= 1 - 0.45 * skin.freckles * where[:, None] * np.array([0.6, 1.0, 1.1])

    # Lips: natural ones are the skin with more blood, lipstick a colour of its own.
    natural = base * np.array([0.82, 0.50, 0.52])
    stick = linear(np.array([150, 40, 50]) + skin.lip_hue * np.array([10, 25, 45]))
    lips = natural * (1 - max(skin.lips, 0)) + stick * max(skin.lips, 0)
    amount = (0.75 + 0.25 * min(skin.lips, 0)) * np.clip(masks["lips"], 0, 1)[:, None]
    colour = colour * (1 - amount) + lips * amount

    inside = np.clip(masks["inside-mouth"] * 1.5 - 0.5, 0, 1)[:, None] * (1 - np.clip(masks["lips"], 0, 1))[:, None]
    colour = colour * (1 - inside) + np.array([0.10, 0.025, 0.02]) * inside
    return np.asarray(np.clip(colour, 0.004, 0.95), np.float32)


def paint_eyes(template: Template, skin: SkinAttributes, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB [E, 3]: white, limbal ring, iris, pupil, by the angle from the optical axis."""
    at = template.eye_positions
    centre = np.where(at[:, :1] > 0, at[at[:, 0] > 0].mean(axis=0), at[at[:, 0] < 0].mean(axis=0))
    toward = (at - centre) / np.linalg.norm(at - centre, axis=1, keepdims=True)
    angle = np.degrees(np.arccos(np.clip(toward[:, 2], -1, 1)))
    turn = np.arctan2(toward[:, 1], toward[:, 0])

    white = linear(np.array([192, 184, 179])) * np.array([1, 1 - 0.06 * skin.redness, 1 - 0.08 * skin.redness])
    iris = linear(IRISES[skin.iris] * rng.uniform(0.6, 0.95))
    fibres = 1 + 0.25 * np.sin(turn * 19 + 3 * np.sin(turn * 7)) * np.clip((angle - 10) / 10, 0, 1)
    iris_colour = iris * fibres[:, None] * (0.75 + 0.5 * np.clip((24 - angle) / 14, 0, 1))[:, None]
    veins = np.clip((angle - 45) / 40, 0, 1)[:, None]
    colour = white * (1 - veins * np.array([0.1, 0.4, 0.4]))
    inside = np.clip((29.5 - angle) / 2, 0, 1)[:, None]
    colour = colour * (1 - inside) + iris_colour * inside
    ring = np.exp(-0.5 * ((angle - 28) / 2.2) ** 2)[:, None]
    colour *= 1 - 0.6 * ring
    pupil = np.clip((10.5 - angle) / 1.5, 0, 1)[:, None]
    return np.asarray(colour * (1 - pupil) + 0.003 * pupil, np.float32)
