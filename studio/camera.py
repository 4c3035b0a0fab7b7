"""The camera of a portrait."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A square perspective view; metres, y up."""

    origin: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float]
    fov_deg: float  # full angle of the picture's height


def project(camera: Camera, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where points [..., 3] fall: (x, y) [..., 2] in pixels from the picture's top left, and depth [...] in metres."""
    forward = np.subtract(camera.target, camera.origin)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, camera.up)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward], 1).astype(np.float32)
    local = (points - np.asarray(camera.origin, np.float32)) @ axes
    scale = size / 2 / np.tan(np.deg2rad(camera.fov_deg) / 2)
    return local[..., :2] / local[..., 2:] * np.float32(scale) + np.float32(size / 2), local[..., 2]


def draw_camera(rng: np.random.Generator, eyes: np.ndarray, *, top: float | None = None) -> Camera:
    """Draw a view like a portrait photograph's, from close-up to head and shoulders.

    A 50 to 105 mm lens (24 mm of sensor height), a few degrees beside and above the face, the eyes near 45 % of the
    height from the top.

    Args:
        eyes: [3], the point between the eyes.
        top: the highest point of head and hair; most pictures are widened to hold it, some crop it.
    """
    fov_deg = float(np.rad2deg(2 * np.arctan(12 / rng.uniform(50, 105))))
    height = rng.uniform(0.28, 0.43)
    above = 0.45 + rng.normal(0, 0.025)  # the share of the picture that lies over the eyes
    if top is not None and rng.random() < 0.88:
        above = max(above, min(0.6, (top - eyes[1] + 0.012) / height))
        height = max(height, (top - eyes[1] + 0.012) / above)
    yaw, pitch, roll = np.deg2rad(rng.normal(0, (7, 4, 2)))
    target = eyes + np.array([rng.normal(0, 0.02) * height, (above - 0.5) * height, -0.02])
    towards = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    origin = target + towards * (height / 2 / np.tan(np.deg2rad(fov_deg) / 2))
    up = (float(np.sin(roll)), float(np.cos(roll)), 0.0)
    x, y, z = map(float, origin)
    return Camera((x, y, z), (float(target[0]), float(target[1]), float(target[2])), up, fov_deg)
