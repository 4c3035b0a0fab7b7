"""What hair a person wears, and where on the neutral template it grows.

The template's frame: metres, y up, face along +z, the origin midway between the eyes; its crown is at y = 0.107,
the chin at -0.105, the ears near z = -0.083.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

# Linear RGB reflectances; melanin runs from black to platinum, the rest is dye.
NATURAL = np.array(
    [[0.012, 0.010, 0.009], [0.030, 0.018, 0.011], [0.065, 0.034, 0.017], [0.13, 0.068, 0.030], [0.21, 0.075, 0.024],
     [0.27, 0.165, 0.075], [0.42, 0.29, 0.14], [0.62, 0.50, 0.31]]
)  # fmt: skip
DYES = np.array(
    [[0.40, 0.02, 0.03], [0.05, 0.10, 0.42], [0.55, 0.10, 0.28], [0.04, 0.28, 0.26], [0.24, 0.07, 0.38],
     [0.10, 0.30, 0.07], [0.75, 0.72, 0.68]]
)  # fmt: skip
GREY = np.array([0.50, 0.49, 0.47])


@dataclass(frozen=True, slots=True)
class Style:
    """How a style falls. Lengths in metres, the rest unitless."""

    flow: str  # which way the roots are combed: "whorl", "part", "back", "up", "out", "tie"
    top: float  # length on the crown
    side: float  # length at the sides and the back
    fringe: float = 0.0  # length over the forehead; 0: none
    trim: float | None = None  # height under the eyes at which scissors cut, positive down
    lift: float = 0.35  # how far the root leans from the skin, 0 flat .. 1 along the normal
    gravity: float = 0.5  # how fast a strand bends down
    volume: float = 0.010  # thickness of the layer of hair
    curl: float = 0.0  # radius of the helix
    pitch: float = 0.03  # length of one turn
    clump: float = 0.45  # share by which tips gather
    frizz: float = 0.002  # wander of single strands
    points: int = 14
    strands: int = 18000
    feminine: float = 0.5  # how often women wear it, men the rest
    min_age: float = 3.0
    ties: tuple[tuple[float, float, float], ...] = ()  # template positions where the hair is bound


STYLES: dict[str, Style] = {
    "bald": Style("whorl", 0.0, 0.0, strands=0, points=4, feminine=0.03, min_age=20),
    "buzz": Style("whorl", 0.007, 0.005, lift=0.75, gravity=0.05, volume=0.0, clump=0.0, frizz=0.0006, points=4,
                  strands=22000, feminine=0.06, min_age=12),
    "short": Style("part", 0.060, 0.024, lift=0.42, gravity=0.22, volume=0.010, clump=0.40, frizz=0.0022, points=9,
                   strands=20000, feminine=0.08),
    "messy": Style("whorl", 0.060, 0.032, fringe=0.050, lift=0.48, gravity=0.30, volume=0.014, curl=0.002, pitch=0.045,
                   clump=0.75, frizz=0.005, points=10, strands=18000, feminine=0.12),
    "crew": Style("up", 0.030, 0.009, lift=0.72, gravity=0.08, volume=0.004, clump=0.30, frizz=0.0015, points=7,
                  strands=20000, feminine=0.04, min_age=8),
    "quiff": Style("up", 0.065, 0.010, lift=0.40, gravity=0.15, volume=0.006, clump=0.50, frizz=0.0012, points=10,
                   strands=18000, feminine=0.06, min_age=14),
    "slick": Style("back", 0.110, 0.032, lift=0.22, gravity=0.25, volume=0.004, clump=0.55, frizz=0.0012, points=12,
                   strands=17000, feminine=0.15, min_age=16),
    "pixie": Style("whorl", 0.075, 0.045, fringe=0.062, lift=0.35, gravity=0.45, volume=0.010, clump=0.60, frizz=0.003,
                   points=10, strands=18000, feminine=0.9, min_age=12),
    "bob": Style("part", 0.300, 0.220, trim=0.105, lift=0.35, gravity=0.75, volume=0.016, clump=0.35, frizz=0.0018,
                 feminine=0.96),
    "fringe bob": Style("part", 0.300, 0.220, fringe=0.085, trim=0.095, lift=0.35, gravity=0.75, volume=0.016,
                        clump=0.35, frizz=0.0018, feminine=0.97),
    "long": Style("part", 0.460, 0.360, lift=0.32, gravity=0.80, volume=0.012, clump=0.50, frizz=0.0025, points=18,
                  feminine=0.93),
    "fringe long": Style("part", 0.460, 0.360, fringe=0.088, lift=0.32, gravity=0.80, volume=0.013, clump=0.50,
                         frizz=0.0025, points=18, feminine=0.97),
    "wavy": Style("part", 0.420, 0.330, lift=0.30, gravity=0.75, volume=0.018, curl=0.010, pitch=0.085, clump=0.80,
                  frizz=0.003, points=22, strands=15000, feminine=0.92),
    "curly": Style("part", 0.250, 0.190, fringe=0.0, lift=0.40, gravity=0.60, volume=0.030, curl=0.0090, pitch=0.034,
                   clump=0.95, frizz=0.0025, points=34, strands=10000, feminine=0.75),
    "short curls": Style("whorl", 0.075, 0.045, fringe=0.055, lift=0.70, gravity=0.20, volume=0.018, curl=0.005,
                         pitch=0.020, clump=0.90, frizz=0.0025, points=20, strands=12000, feminine=0.3),
    "afro": Style("out", 0.080, 0.080, lift=0.98, gravity=0.0, volume=0.0, curl=0.0038, pitch=0.012, clump=0.12,
                  frizz=0.010, points=20, strands=15000, feminine=0.5),
    "ponytail": Style("tie", 0.30, 0.30, lift=0.3, volume=0.004, clump=0.3, frizz=0.0018, points=20, strands=15000,
                      feminine=0.92, ties=((0.0, 0.058, -0.172),)),
    "bun": Style("tie", 0.12, 0.12, lift=0.3, volume=0.004, clump=0.2, frizz=0.0016, points=22, strands=14000,
                 feminine=0.9, min_age=8, ties=((0.0, 0.085, -0.150),)),
    "top knot": Style("tie", 0.12, 0.12, lift=0.3, volume=0.003, clump=0.2, frizz=0.0016, points=22, strands=14000,
                      feminine=0.6, min_age=14, ties=((0.0, 0.118, -0.085),)),
    "braids": Style("tie", 0.30, 0.30, lift=0.3, volume=0.004, clump=0.2, frizz=0.0012, points=26, strands=14000,
                    feminine=0.97, ties=((0.070, -0.070, -0.090), (-0.070, -0.070, -0.090))),
}  # fmt: skip

BEARDS = {"none": 0.0, "stubble": 0.0025, "moustache": 0.012, "short": 0.010, "full": 0.045}  # length in metres


@dataclass(frozen=True, slots=True)
class HairAttributes:
    """One person's hair, brows and beard."""

    style: str  # a key of STYLES
    length: float  # times the style's lengths
    curl: float  # added helix radius, metres
    colour: tuple[float, float, float]  # linear RGB
    colour_tip: tuple[float, float, float]  # linear RGB of the highlighted strands
    highlights: float  # share of highlighted strands, in [0, 1]
    grey: float  # share of grey strands, in [0, 1]
    parting: float  # metres from the middle, positive to the picture's right
    volume: float  # times the style's volume
    density: float  # times the style's number of strands
    recession: float  # 0 full hairline .. 1 bald on top
    beard: str  # a key of BEARDS
    brows: float  # thickness of the brows, about 1


def draw_hair(rng: np.random.Generator, age: float, gender: float) -> HairAttributes:
    """A plausible head of hair.

    Args:
        age: years.
        gender: 0 male .. 1 female.
    """
    feminine = np.array([style.feminine * gender + (1 - style.feminine) * (1 - gender) for style in STYLES.values()])
    feminine *= np.array([style.min_age <= age for style in STYLES.values()])
    feminine[0] *= 0.5 if age < 50 else 1.0  # shaved heads are rarer than the other cuts
    style = str(rng.choice(list(STYLES), p=feminine / feminine.sum()))

    shade = float(np.clip(rng.beta(1.1, 1.5) * (len(NATURAL) - 1), 0, len(NATURAL) - 1.001))
    colour = NATURAL[int(shade)] * (1 - shade % 1) + NATURAL[int(shade) + 1] * (shade % 1)
    colour = colour * rng.uniform(0.85, 1.15)
    tip = np.clip(colour * rng.uniform(1.3, 2.2) + 0.01, 0, 0.8)
    if age > 14 and rng.random() < 0.09:
        tip = DYES[rng.integers(len(DYES))]
        colour = tip * rng.uniform(0.7, 1.0) if rng.random() < 0.7 else colour
    grey = float(np.clip(rng.normal((age - 38) / 42, 0.22), 0, 1)) if age > 32 else 0.0

    male = gender < 0.5
    recession = float(np.clip(rng.normal((age - 30) / 60, 0.28), 0, 1)) if male and age > 25 else 0.0
    if STYLES[style].flow == "part" and STYLES[style].side > 0.1:
        recession = min(recession, 0.25)
    beard = "none"
    if male and age > 19 and rng.random() < 0.62:
        beard = str(rng.choice(["stubble", "moustache", "short", "full"], p=[0.4, 0.1, 0.3, 0.2]))
    return HairAttributes(
        style=style,
        length=float(rng.uniform(0.75, 1.25)),
        curl=float(rng.uniform(0.0, 0.004)) if rng.random() < 0.3 else 0.0,
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
        colour_tip=(float(tip[0]), float(tip[1]), float(tip[2])),
        highlights=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.35 else 0.05,
        grey=grey,
        parting=float(rng.choice([-1, 1]) * rng.choice([0.0, rng.uniform(0.015, 0.042)])),
        volume=float(rng.uniform(0.6, 1.5)),
        density=float(rng.uniform(0.85, 1.1)),
        recession=recession,
        beard=beard,
        brows=float(np.clip(rng.normal(1.15 - 0.3 * gender, 0.15), 0.6, 1.6)),
    )


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below `low`, 1 above `high` (or the reverse when low > high), with flat ends."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def scalp_weight(template: Array, hair: HairAttributes) -> Array:
    """[V] in [0, 1]: where the scalp of `template` [V, 3] carries hair, soft along the hairline."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    azimuth = np.degrees(np.arctan2(x, z + 0.07))  # 0 in front, 180 behind
    knots = [0, 18, 34, 46, 54, 60, 66, 74, 84, 100, 112, 126, 150, 180]
    height = [0.071, 0.0715, 0.073, 0.067, 0.054, 0.034, 0.012, -0.014, -0.022, -0.020, -0.034, -0.055, -0.070, -0.073]
    front = smoothstep(75, 48, azimuth)
    depth = y - np.interp(azimuth, knots, height) + 0.6 * np.clip(0.01 - z, 0, 0.1) * front
    depth = depth - hair.recession * front * (0.018 + 0.045 * np.exp(-(((azimuth - 32) / 14) ** 2)))
    weight = smoothstep(-0.003, 0.010, depth)
    # The ear stands out of the hair; its root is hidden behind it.
    ear = ((y + 0.018) / 0.036) ** 2 + ((z + 0.082) / 0.026) ** 2
    weight *= np.where(x > 0.045, smoothstep(0.75, 1.25, ear), 1)
    # Age thins the whorl first, then the whole top.
    whorl = np.sqrt((x / 1.0) ** 2 + (y - 0.10) ** 2 + (z + 0.10) ** 2)
    weight *= 1 - np.clip(hair.recession * 1.6 - 0.6, 0, 1) * smoothstep(0.062, 0.030, whorl)
    weight *= 1 - np.clip(hair.recession * 4 - 3, 0, 1) * smoothstep(0.058, 0.078, y + 0.15 * (z + 0.06))
    return weight.astype(np.float32)


def brow_weight(template: Array, hair: HairAttributes) -> Array:
    """[V] in [0, 1]: the two brows, tapering to the temples."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    middle = np.interp(x, [0.010, 0.020, 0.034, 0.042, 0.050], [0.0185, 0.0215, 0.0250, 0.0240, 0.0195])
    half = np.interp(x, [0.010, 0.017, 0.032, 0.050], [0.0030, 0.0036, 0.0029, 0.0009]) * hair.brows
    weight = np.exp(-(((y - middle) / half) ** 2)) * smoothstep(0.009, 0.014, x) * smoothstep(0.052, 0.047, x)
    return np.asarray(weight * (z > -0.03), np.float32)


def beard_weight(template: Array, hair: HairAttributes) -> Array:
    """[V] in [0, 1]: cheeks below a line from ear to mouth, jaw, chin and upper lip."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    if hair.beard == "none":
        return np.zeros(len(template), np.float32)
    lip = smoothstep(0.033, 0.026, x) * smoothstep(-0.047, -0.051, y) * smoothstep(-0.075, -0.066, y) * (z > 0)
    mouth = np.sqrt((x / 0.027) ** 2 + ((y + 0.068) / 0.0115) ** 2)
    open_lips = np.where(z > 0, smoothstep(0.85, 1.15, mouth), 1)
    if hair.beard == "moustache":
        return np.asarray(lip * open_lips, np.float32)
    cheek = np.interp(x, [0.0, 0.026, 0.032, 0.050, 0.062, 0.069], [-0.078, -0.078, -0.058, -0.050, -0.030, -0.012])
    jaw = smoothstep(0.003, -0.006, y - cheek)
    jaw *= smoothstep(-0.080, -0.070, z) * smoothstep(-0.128, -0.112, y - 0.35 * np.clip(-z - 0.01, 0, 0.1))
    return np.asarray(np.maximum(lip, jaw) * open_lips, np.float32)


def tint(hair: HairAttributes, clump: Array, rng: np.random.Generator) -> Array:
    """[S, 3] linear RGB of strands in clumps [S]: neighbours alike, some highlighted, some grey."""
    num, groups = len(clump), int(clump.max(initial=0)) + 1
    shade = rng.lognormal(0, 0.10, groups)[clump] * rng.lognormal(0, 0.12, num)
    colour = np.asarray(hair.colour) * shade[:, None]
    often = max(hair.highlights, 1e-3)
    share = rng.beta(0.5 * often, 0.5 * (1 - often), groups)
    light = rng.random(num) < 0.9 * share[clump]
    colour = np.where(light[:, None], np.asarray(hair.colour_tip) * shade[:, None], colour)
    grey = rng.random(num) < hair.grey
    return np.asarray(np.where(grey[:, None], GREY * shade[:, None], colour).clip(0.003, 0.85), np.float32)


def taper(points: Array, radius: float, rng: np.random.Generator) -> Array:
    """[S, P] radii: constant to half-way, then thinner to the tip, strands differing by a fifth."""
    t = np.linspace(0, 1, points.shape[1])[None]
    own = radius * rng.uniform(0.8, 1.2, len(points))[:, None]
    return (own * (1 - 0.8 * smoothstep(0.45, 1.05, t))).astype(np.float32)
