"""Where the faces of a photo are: eyes and corners of the mouth, by MTCNN of the package faceie (extra: photos).

Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks"
(arXiv:1604.02878). The package's wheel holds the networks; nothing is fetched.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

MAX_SIDE_PX = 640  # of what the networks see; they find faces from 12 px on
MIN_PROBABILITY = 0.9

Point = tuple[float, float]  # x, y in pixels from the photo's top left corner


@dataclass(frozen=True, slots=True)
class Face:
    """The points by which faces are aligned; left and right are the picture's."""

    eye_left: Point
    eye_right: Point
    mouth_left: Point
    mouth_right: Point

    @property
    def eyes(self) -> Point:
        """The point between the eyes."""
        return _middle(self.eye_left, self.eye_right)

    @property
    def eye_to_eye(self) -> Point:
        """From the left one to the right one."""
        return _difference(self.eye_right, self.eye_left)

    @property
    def eye_to_mouth(self) -> Point:
        """From between the eyes to the middle of the mouth."""
        return _difference(_middle(self.mouth_left, self.mouth_right), self.eyes)

    @property
    def extent(self) -> float:
        """Half the side of FFHQ's square around the face, in pixels.

        The eyes' distance shrinks where a head is turned, the eyes' distance from the mouth where it is bowed; FFHQ
        takes what is larger of 2.0 of the one and 1.8 of the other.
        """
        return max(2.0 * hypot(*self.eye_to_eye), 1.8 * hypot(*self.eye_to_mouth))


Detector = Callable[[Tensor], list[Face]]  # photo [3, H, W] in [-1, 1] -> its faces, in any order


def load_detector() -> Detector:
    """The detector.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    try:
        from faceie.mtcnn.detect_faces import detect_faces
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "finding faces needs the package faceie; install it with `pip install 'mattesmith[photos]'`, "
            "or give aligned crops with --no-align"
        ) from error
    return lambda photo: find_faces(photo, detect_faces)


def find_faces(photo: Tensor, detect: Callable[..., Any]) -> list[Face]:
    """The faces of a photo [3, H, W] in [-1, 1].

    Args:
        detect: faceie's `detect_faces`; its landmarks are x, y of left eye, right eye, nose, mouth's left and right.
    """
    levels = ((photo.cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(levels))
    scale = min(1.0, MAX_SIDE_PX / max(picture.size))
    if scale < 1:
        size = (max(12, round(picture.width * scale)), max(12, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the garbage collector
        # Upright heads only: the photo's own orientation was applied, and every further angle costs as much again.
        found = detect(
            picture, rotations=np.zeros(1), output_probability_threshold=MIN_PROBABILITY, extract_images=None
        )
    faces = []
    for landmarks in np.asarray(found.landmarks, np.float64).reshape(-1, 5, 2) / scale:
        eye_left, eye_right, _, mouth_left, mouth_right = ((float(x), float(y)) for x, y in landmarks)
        faces.append(Face(eye_left, eye_right, mouth_left, mouth_right))
    return faces


def _middle(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2


def _difference(a: Point, b: Point) -> Point:
    return a[0] - b[0], a[1] - b[1]
