"""Alignment: squares whose place is known, crops and pastes that undo each other."""

from math import cos, hypot, pi, sin

import pytest
import torch
from torch import Tensor

from mattesmith.enhance import FRAMINGS, Face, Square, framing_of
from mattesmith.enhance.align import crop, inverted, paste, square_of, whole

LEVEL = Face((40.0, 50.0), (60.0, 50.0), (43.0, 72.0), (57.0, 72.0))


def turned(face: Face, angle: float) -> Face:
    """The face, turned clockwise about the photo's corner."""

    def turn(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return x * cos(angle) - y * sin(angle), x * sin(angle) + y * cos(angle)

    return Face(turn(face.eye_left), turn(face.eye_right), turn(face.mouth_left), turn(face.mouth_right))


def in_crop(square: Square, point: tuple[float, float]) -> tuple[float, float]:
    """Where a point of the photo lies in the crop, in sides of the crop."""
    back = inverted(square.matrix(1))
    u, v = (back @ torch.tensor([*point, 1.0], dtype=torch.float64)).tolist()
    return u, v


def ramp(side: int) -> Tensor:
    """A smooth picture [1, side, side] in [0, 1], other in every corner."""
    axis = (torch.arange(side) + 0.5) / side
    return (0.2 + 0.5 * axis[:, None] + 0.3 * axis[None])[None]


# Squares


def test_a_level_face_gets_ffhqs_square() -> None:
    square = square_of(LEVEL, FRAMINGS["ffhq"])
    assert square.centre == pytest.approx((50.0, 52.2)) and square.right == pytest.approx((40.0, 0.0))


def test_a_turned_head_is_measured_by_its_mouth() -> None:
    profile = Face((48.0, 50.0), (52.0, 50.0), (48.0, 72.0), (52.0, 72.0))
    assert square_of(profile, FRAMINGS["ffhq"]).side == pytest.approx(2 * 1.8 * 22)


@pytest.mark.parametrize("name", FRAMINGS)
def test_the_square_turns_with_the_face(name: str) -> None:
    straight = square_of(LEVEL, FRAMINGS[name])
    slanted = square_of(turned(LEVEL, 0.3), FRAMINGS[name])
    assert slanted.side == pytest.approx(straight.side)
    assert slanted.right == pytest.approx((straight.side / 2 * cos(0.3), straight.side / 2 * sin(0.3)))
    for point in ("eye_left", "eye_right", "mouth_left"):
        there = in_crop(slanted, getattr(turned(LEVEL, 0.3), point))
        assert there == pytest.approx(in_crop(straight, getattr(LEVEL, point)))


def test_in_the_studios_framing_the_eyes_are_46_percent_down_and_a_sixth_of_the_width_apart() -> None:
    face = Face((40.0, 50.0), (60.0, 50.0), (43.0, 73.0), (57.0, 73.0))  # 63 mm between the eyes: 72 mm to the mouth
    square = square_of(face, FRAMINGS["studio"])
    left, right = in_crop(square, face.eye_left), in_crop(square, face.eye_right)
    assert left[1] == pytest.approx(0.46) and right[1] == pytest.approx(0.46)
    assert right[0] - left[0] == pytest.approx(0.166, abs=0.005) and left[0] + right[0] == pytest.approx(1)


def test_the_framing_belongs_to_the_generator() -> None:
    assert framing_of({"source": "mattesmith studio"}) is FRAMINGS["studio"]
    assert framing_of({"source": "somewhere"}) is framing_of({}) is FRAMINGS["ffhq"]
    assert framing_of({"source": "somewhere", "framing": "studio"}) is FRAMINGS["studio"]
    with pytest.raises(ValueError, match="'passport'; known: ffhq, studio"):
        framing_of({"framing": "passport"})


# Crops


def test_a_whole_photo_of_the_right_size_is_its_own_crop_and_a_large_one_is_block_averaged() -> None:
    photo = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(crop(photo, whole(32), 32), photo, atol=1e-5)
    means = photo.view(3, 16, 2, 16, 2).mean((2, 4))
    assert torch.allclose(crop(photo, whole(32), 16), means, atol=1e-5)


def test_a_quarter_turn_turns_the_crop() -> None:
    photo = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    upside = Square((8.0, 8.0), (0.0, 8.0))  # the crop's right is the photo's down
    assert torch.allclose(crop(photo, upside, 16), torch.rot90(photo, 1, (1, 2)), atol=1e-5)


def test_beyond_its_border_a_photo_is_reflected() -> None:
    photo = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1))
    half_out = crop(photo, Square((0.0, 8.0), (8.0, 0.0)), 16)
    assert torch.allclose(half_out[..., 8:], photo[..., :8], atol=1e-5)
    assert torch.allclose(half_out[..., :8], photo[..., :8].flip(-1), atol=1e-5)


# Pastes


@pytest.mark.parametrize("angle", [0.0, 0.4, pi / 2])
def test_a_pasted_matte_is_found_where_it_was_cut(angle: float) -> None:
    square = Square((52.0, 47.0), (24 * cos(angle), 24 * sin(angle)))
    matte = ramp(24)
    back = crop(paste(matte, square, (100, 110)), square, 24)
    assert (back - matte)[:, 1:-1, 1:-1].abs().max() < 0.01


def test_beyond_the_crop_the_matte_is_zero_or_what_was_given() -> None:
    square, ones = Square((50.0, 40.0), (20.0, 0.0)), torch.ones(1, 16, 16)
    alone = paste(ones, square, (80, 100))
    assert alone.shape == (1, 80, 100) and alone.sum() == 40 * 40
    within = paste(ones, square, (80, 100), torch.full((1, 80, 100), 0.75))
    assert within[0, 0, 0] == within[0, 40, 29] == 0.75 and within[0, 40, 50] == 1
    edge = within[0, 40, 30:34]
    assert 0.75 < edge[0] < edge[1] < edge[2] == edge[3] == 1  # 6 % of 40 px is 2.4 px


def test_beyond_the_crop_only_what_is_connected_with_its_person_stays() -> None:
    square, matte = Square((100.0, 100.0), (50.0, 0.0)), torch.zeros(1, 100, 100)
    matte[:, 40:, 30:70] = 1  # a bust in the crop's middle, on its lower border ...
    matte[:, 10:20, 90:] = 1  # ... and a part of something else, at its right border
    outside = torch.zeros(1, 300, 400)
    outside[:, 140:250, 70:130] = 1  # the bust goes on
    outside[:, 140:250, 130:132] = outside[:, 250:252, 70:132] = 0.3  # softly at its edges
    outside[:, 20:280, 200:390] = 1  # a larger thing beside it, and its soft edge
    outside[:, 20:280, 196:200] = outside[:, 5, 5] = 0.3
    outside[:, 60:70, 145:200] = 1  # reaches into the crop
    out = paste(matte, square, (300, 400), outside)[0]
    assert torch.equal(out[152:, :160], outside[0, 152:, :160]) and out[200, 100] == 1 and out[251, 100] > 0.29
    assert (out[:, 170:] == 0).all() and out[5, 5] == 0
    assert out[65, 140] == matte[0, 15, 90] == 1  # within the crop its own matte stays
    assert (paste(torch.zeros(1, 100, 100), square, (300, 400), outside) == 0).all()


def test_a_squares_corners_lie_where_its_matrix_says() -> None:
    square = Square((50.0, 40.0), (3.0, 4.0))
    corner = square.matrix(10) @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert corner.tolist() == pytest.approx([50 - 3 + 4, 40 - 4 - 3]) and square.side == 2 * hypot(3, 4)
