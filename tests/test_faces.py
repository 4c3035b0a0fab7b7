"""The detector's answer becomes faces in the photo's pixels."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mattesmith.enhance import Face, load_detector
from mattesmith.enhance.faces import MAX_SIDE_PX, find_faces

TWO_FACES = Path(__file__).parent / "data" / "two_faces.png"  # two renders of the studio, 128 px each


def test_points_come_back_in_pixels_of_the_photo_however_small_the_detector_saw_it() -> None:
    seen: list[tuple[int, int]] = []

    def detect(picture: Any, **knobs: Any) -> Any:
        seen.append(picture.size)
        return SimpleNamespace(landmarks=np.array([[10, 20, 30, 20, 20, 30, 12, 40, 28, 41]]))

    found = find_faces(torch.zeros(3, 640, 2 * MAX_SIDE_PX), detect)
    assert seen == [(MAX_SIDE_PX, 320)]
    assert found == [Face((20.0, 40.0), (60.0, 40.0), (24.0, 80.0), (56.0, 82.0))]
    assert found[0].eyes == (40.0, 40.0) and found[0].eye_to_eye == (40.0, 0.0)
    assert found[0].eye_to_mouth == (0.0, 41.0) and found[0].extent == 80.0


def test_no_face_is_an_empty_list() -> None:
    nothing: Any = SimpleNamespace(landmarks=np.zeros((0, 10)))
    assert find_faces(torch.zeros(3, 64, 64), lambda picture, **knobs: nothing) == []


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("faceie", "faceie.mtcnn.detect_faces"):  # the second may be loaded already
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"mattesmith\[photos\].*--no-align"):
        load_detector()


def test_rendered_people_are_found_with_their_eyes_where_they_look_from() -> None:
    pytest.importorskip("faceie")
    with Image.open(TWO_FACES) as opened:
        picture = np.array(opened)
    photo = torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1
    left, right = sorted(load_detector()(photo), key=lambda face: face.eyes)
    # Where they are, seen by eye.
    assert left.eyes == pytest.approx((63.5, 59.5), abs=3) and right.eyes == pytest.approx((191, 57), abs=3)
    assert left.eye_to_eye[0] == pytest.approx(22, abs=3) and right.eye_to_mouth[1] == pytest.approx(23.5, abs=3)
    assert load_detector()(torch.zeros(3, 64, 64)) == []
