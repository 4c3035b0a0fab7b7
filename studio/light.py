"""Light around a portrait: one small environment picture with the lamps painted into it.

A lamp a metre or more away is, for something as small as a head, a patch of the sky; painted into the environment it
is importance-sampled together with everything else, so a pixel needs few samples and the renderer one emitter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
HEIGHT, WIDTH = 64, 128


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """The light of one portrait."""

    name: str
    environment: (
        Array  # [64, 128, 3] linear radiance, rows from the zenith down, columns from -z over +x to +z and back
    )
    exposure: float  # mean luminance of the lit face to aim at, in (0, 1)


def directions() -> Array:
    """Unit direction of every environment pixel [64, 128, 3], in the renderer's equirectangular convention."""
    theta = (np.arange(HEIGHT, dtype=np.float32) + 0.5)[:, None] / HEIGHT * np.pi
    phi = (np.arange(WIDTH, dtype=np.float32) + 0.5)[None, :] / WIDTH * 2 * np.pi
    stacked = np.stack(
        np.broadcast_arrays(np.sin(phi) * np.sin(theta), np.cos(theta), -np.cos(phi) * np.sin(theta)), -1
    )
    return stacked.astype(np.float32)


def temperature(kelvin: float) -> Array:
    """Linear RGB [3] of a black body between 2,500 and 12,000 K, scaled to luminance 1 and white at 6,500 K.

    A power law in the mired shift: red rises and blue falls about exponentially with 1 / T.
    """
    shift = 1e6 / kelvin - 1e6 / 6500
    rgb = np.exp(np.array([2.2, 0.0, -4.4]) * shift / 1000)
    return (rgb / (rgb @ (0.2126, 0.7152, 0.0722))).astype(np.float32)


def lamp(azimuth_deg: float, elevation_deg: float, width_deg: float, power: float, colour: Array) -> Array:
    """A soft-edged round lamp as an environment [64, 128, 3]; azimuth 0 is the camera's side (+z), 90 the right (+x).

    Args:
        width_deg: the radius at which the lamp has half its radiance.
        power: irradiance at a surface that faces it, before `colour`.
    """
    azimuth, elevation = np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg)
    towards = np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], np.float32
    )
    cosine = directions() @ towards
    angle = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
    disc = 0.5 - 0.5 * np.tanh((angle - width_deg) / (0.24 * width_deg + 1.2))
    solid_angle = np.sin((np.arange(HEIGHT) + 0.5) / HEIGHT * np.pi)[:, None] * (np.pi / HEIGHT) * (2 * np.pi / WIDTH)
    irradiance = (disc * np.clip(cosine, 0, 1) * solid_angle).sum()
    return np.asarray((disc * (power / irradiance))[..., None].astype(np.float32) * colour)


def gradient(rng: np.random.Generator) -> Array:
    """A smooth surround [64, 128, 3]: sky, horizon and ground of different tint, brighter to one side."""
    up = directions() @ np.array([0, 1, 0], np.float32)
    side = rng.uniform(0, 2 * np.pi)
    lateral = directions() @ np.array([np.sin(side), 0, np.cos(side)], np.float32)
    sky, horizon, ground = (
        temperature(rng.uniform(3200, 10000)) * rng.uniform(*span) for span in ((0.4, 1.4), (0.3, 1.0), (0.1, 0.6))
    )
    above = np.clip(up, 0, 1)[..., None] ** 0.6
    below = np.clip(-up, 0, 1)[..., None] ** 0.6
    surround = horizon * (1 - above - below).clip(0) + sky * above + ground * below
    return np.asarray(surround * (1 + rng.uniform(0, 0.8) * lateral[..., None]), np.float32)


@cache
def captured() -> dict[str, Array]:
    """The measured environments beside this module, [32, 64, 3] each; CC0 panoramas of Poly Haven, see the notice."""
    file = resources.files(__package__) / "environments.npz"
    with file.open("rb") as stream, np.load(stream) as archive:
        return {name: archive[name].astype(np.float32) for name in archive.files}


def panorama(rng: np.random.Generator) -> tuple[str, Array]:
    """A captured environment [64, 128, 3] turned about the vertical, at mean radiance 1, its sun softened."""
    names = sorted(captured())
    name = names[rng.integers(len(names))]
    picture = np.repeat(np.repeat(captured()[name], 2, 0), 2, 1)
    picture = np.roll(picture, rng.integers(WIDTH), axis=1) / picture.mean()
    return name, np.minimum(picture, 120).astype(np.float32)


def draw_light(rng: np.random.Generator) -> Light:
    """Draw a light: a surround (captured or a gradient) and up to three lamps, soft to hard, warm to cool.

    The kinds: "soft" a large frontal key; "side" a key from one side with a weak fill; "rim" light from behind on the
    hair with a fill; "low" a small key in a dark room; "high" an even bright surround; "found" a panorama alone.
    """
    kind = str(rng.choice(["soft", "side", "rim", "low", "high", "found"], p=[0.25, 0.2, 0.17, 0.08, 0.12, 0.18]))
    place, surround = panorama(rng) if kind == "found" or rng.random() < 0.5 else ("gradient", gradient(rng))
    surround = surround / surround.mean()
    side = rng.choice([-1.0, 1.0])
    tint = temperature(rng.uniform(3000, 9500))
    counter = temperature(rng.uniform(2800, 12000))
    # ambient share, then key (azimuth, elevation, width, power) and rim power
    ambient = {"soft": 0.25, "side": 0.14, "rim": 0.22, "low": 0.07, "high": 0.5, "found": 0.6}[kind] * rng.uniform(
        0.7, 1.4
    )
    key = {
        "soft": (rng.uniform(-35, 35), rng.uniform(10, 45), rng.uniform(16, 32), 1.6),
        "side": (side * rng.uniform(45, 85), rng.uniform(5, 45), rng.uniform(6, 22), 1.7),
        "rim": (side * rng.uniform(15, 60), rng.uniform(5, 40), rng.uniform(14, 28), 0.8),
        "low": (side * rng.uniform(25, 75), rng.uniform(15, 55), rng.uniform(5, 10), 1.8),
        "high": (rng.uniform(-50, 50), rng.uniform(15, 60), rng.uniform(20, 35), 0.8),
        "found": (rng.uniform(-60, 60), rng.uniform(5, 50), rng.uniform(15, 30), rng.uniform(0, 0.8)),
    }[kind]
    environment = surround * ambient + lamp(*key, tint)
    rim_power = {"rim": rng.uniform(1.5, 3.5), "high": 0.3, "found": 0.0}.get(kind, rng.uniform(0, 1.2))
    if rim_power > 0.1:
        azimuth = -side * rng.uniform(125, 170)
        environment = environment + lamp(azimuth, rng.uniform(10, 50), rng.uniform(8, 18), rim_power, counter)
    exposure = {"low": rng.uniform(0.07, 0.2), "high": rng.uniform(0.3, 0.45)}.get(kind, rng.uniform(0.14, 0.36))
    return Light(f"{kind}-{place}", environment.astype(np.float32), float(exposure))
