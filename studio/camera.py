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


FRAME_M = 0.38  # height of the picture at the face: head, hair and the shoulders' line
EYES_DOWN = 0.46  # where the eyes are, as a share of the height from the top


def draw_camera(rng: np.random.Generator, eyes: np.ndarray) -> Camera:
    """Draw a view like a portrait photograph's, aligned: the eyes always at the same place, faces of the same scale.

    Aligned faces are what StyleGAN2 was made for (FFHQ is cropped by its eyes and mouths); the matting networks' warps
    bring back every other framing. A 50 to 105 mm lens (24 mm of sensor height), a few degrees beside and above the
    face. What is taller than the picture (an afro, a bun) is cropped by it.

    Args:
        eyes: [3], the point between the eyes.
    """
    fov_deg = float(np.rad2deg(2 * np.arctan(12 / rng.uniform(50, 105))))
    height = FRAME_M * float(np.exp(rng.normal(0, 0.025)))
    yaw, pitch, roll = np.deg2rad(rng.normal(0, (7, 4, 1)))
    off = rng.normal(0, 0.006, 2)
    target = eyes + np.array([off[0] * height, (EYES_DOWN - 0.5 + off[1]) * height, -0.02])
    towards = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    origin = target + towards * (height / 2 / np.tan(np.deg2rad(fov_deg) / 2))
    up = (float(np.sin(roll)), float(np.cos(roll)), 0.0)
    x, y, z = map(float, origin)
    return Camera((x, y, z), (float(target[0]), float(target[1]), float(target[2])), up, fov_deg)
