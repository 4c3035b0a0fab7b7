"""Photos as people store them: read rightly, or refused in one line that names the file."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from mattesmith.enhance import FRAMINGS, Face, portrait_of, read_photo, reduced
from mattesmith.enhance.photo import MIN_SIDE_PX, matte_of_photo

SIDE = MIN_SIDE_PX


def saved(path: Path, picture: Image.Image, **knobs: Any) -> Path:
    picture.save(path, **knobs)
    return path


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)


def levels(path: Path) -> list[float]:
    """The middle pixel as 0..255."""
    photo = read_photo(path)
    assert photo.shape == (3, SIDE, SIDE) and photo.dtype == torch.float32
    return ((photo[:, SIDE // 2, SIDE // 2] + 1) * 127.5).tolist()


def face_at(x: float, y: float, eye_to_eye: float) -> Face:
    half = eye_to_eye / 2
    return Face((x - half, y), (x + half, y), (x - half, y + 2 * half), (x + half, y + 2 * half))


# Forms that are converted


@pytest.mark.parametrize(
    ("mode", "colour", "ending", "wanted"),
    [
        ("RGB", (10, 20, 30), "png", (10, 20, 30)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("RGBA", (255, 0, 0, 102), "png", (255, 153, 153)),
        ("LA", (0, 51), "png", (204, 204, 204)),
        ("CMYK", (0, 255, 255, 51), "tif", (204, 0, 0)),
    ],
)
def test_every_form_comes_out_as_opaque_rgb(
    mode: str, colour: Any, ending: str, wanted: tuple[int, int, int], tmp_path: Path
) -> None:
    assert levels(saved(tmp_path / f"photo.{ending}", flat(mode, colour))) == pytest.approx(wanted, abs=0.6)


def test_a_palette_with_a_transparent_colour_lies_over_white(tmp_path: Path) -> None:
    picture = flat("P", 1)
    picture.putpalette([0, 0, 0, 200, 10, 10])
    assert levels(saved(tmp_path / "a.png", picture)) == pytest.approx([200, 10, 10])
    assert levels(saved(tmp_path / "b.png", picture, transparency=1)) == pytest.approx([255, 255, 255])


@pytest.mark.parametrize(("level", "wanted"), [(65535, 255), (128 * 257, 128), (300, 1)])
def test_sixteen_bit_gray_is_scaled_and_does_not_saturate(level: int, wanted: int, tmp_path: Path) -> None:
    picture = Image.fromarray(np.full((SIDE, SIDE), level, np.uint16))
    assert levels(saved(tmp_path / "photo.png", picture)) == pytest.approx([wanted] * 3, abs=0.01)


def test_the_cameras_orientation_is_applied(tmp_path: Path) -> None:
    picture = flat("RGB", "black")
    picture.paste("white", (0, 0, SIDE, 8))  # a bar along the top of what is stored
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: its top is the right side
    photo = read_photo(saved(tmp_path / "photo.png", picture, exif=exif))
    assert (photo[:, :, -8:] == 1).all() and (photo[:, :, :-8] == -1).all()


def test_an_srgb_profile_changes_nothing_and_one_of_other_colours_is_refused(tmp_path: Path) -> None:
    srgb, lab = (ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes() for kind in ("sRGB", "LAB"))
    picture = flat("RGB", (10, 120, 230))
    good = saved(tmp_path / "good.png", picture, icc_profile=srgb)
    assert levels(good) == pytest.approx([10, 120, 230], abs=1.1)
    for name, profile in (("lab.png", lab), ("broken.png", b"no profile")):
        with pytest.raises(ValueError, match=rf"{name}: its colour profile does not fit"):
            read_photo(saved(tmp_path / name, picture, icc_profile=profile))


# Files that are refused


def truncated(path: Path) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("cut.jpg", truncated, "truncated"),
        ("cut.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), r"cut\.png: "),
        ("text.jpg", lambda path: path.write_text("<html>"), "is no picture"),
        ("empty.jpg", lambda path: path.write_bytes(b""), "is no picture"),
        ("tiny.png", lambda path: flat("RGB", 0).resize((SIDE - 1, 300)).save(path), "63 x 300 px; needed are 64"),
        ("deep.tif", lambda path: Image.new("F", (SIDE, SIDE)).save(path), "32-bit levels"),
        (
            "moving.gif",
            lambda path: flat("L", 0).save(path, save_all=True, append_images=[flat("L", 99)]),
            "animated \\(2 frames\\)",
        ),
        (
            "moving.png",
            lambda path: flat("RGB", 0).save(path, save_all=True, append_images=[flat("RGB", (9, 9, 9))]),
            "animated \\(2 frames\\)",
        ),
        ("folder.png", lambda path: path.mkdir(), "cannot be read: Is a directory"),
        ("missing.png", lambda path: None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_whole_photo_is_refused_in_one_line(name: str, make: Any, reason: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(ValueError, match=reason) as caught:
        read_photo(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [SIDE * SIDE - 1, SIDE * SIDE // 2 - 1])
def test_a_decompression_bomb_is_refused_also_where_pillow_only_warns(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "huge.png", flat("RGB", 0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=r"huge\.png: more than 0 million pixels"):
        read_photo(path)


# Portraits


def portrait(path: Path, faces: list[Face] | None, resolution: int = 16) -> Any:
    detector = None if faces is None else (lambda photo: faces)
    return portrait_of(path, resolution=resolution, framing=FRAMINGS["ffhq"], detector=detector, z_dim=8)


def test_a_large_photo_is_reduced_to_its_longer_side_and_a_small_one_left() -> None:
    large, small = torch.full((3, 100, 300), 0.5), torch.zeros(3, 40, 60)
    assert reduced(large, max_side_px=60).shape == (3, 20, 60) and reduced(small, max_side_px=60) is small
    torch.testing.assert_close(reduced(large, max_side_px=60), torch.full((3, 20, 60), 0.5))


def test_the_largest_of_several_faces_is_taken_and_counted(tmp_path: Path) -> None:
    path = saved(tmp_path / "two.png", flat("RGB", 0).resize((200, 100)))
    one = portrait(path, [face_at(40, 40, 8), face_at(140, 50, 16), face_at(90, 40, 12)])
    assert one.num_faces == 3 and one.size == (100, 200)
    assert one.square.centre[0] == 140 and one.square.side == 64
    assert one.crop.shape == (3, 16, 16) and (one.crop == -1).all()


def test_an_aligned_crop_is_taken_whole(tmp_path: Path) -> None:
    one = portrait(saved(tmp_path / "crop.png", flat("RGB", (255, 255, 255))), None)
    assert one.num_faces == 0 and one.square.side == SIDE and (one.crop == 1).all()


@pytest.mark.parametrize(
    ("faces", "resolution", "reason"),
    [
        ([], 16, "no face was found"),
        ([face_at(50, 50, 3)], 64, "12 px wide, too small for a generator of 64 px; needed are 16 px"),
        (None, 16, "must be square, got 200 x 100"),
    ],
)
def test_a_photo_without_a_usable_portrait_is_refused(
    faces: list[Face] | None, resolution: int, reason: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "photo.png", flat("RGB", 0).resize((200, 100)))
    with pytest.raises(ValueError, match=rf"photo\.png: .*{reason}"):
        portrait(path, faces, resolution)


def test_a_portraits_streams_are_named_after_its_bytes_alone(tmp_path: Path) -> None:
    first, other = (saved(tmp_path / f"{grey}.png", flat("L", grey)) for grey in (10, 20))
    copy = tmp_path / "copy.png"
    copy.write_bytes(first.read_bytes())
    seeds = [portrait(path, None).latents.seed for path in (first, copy, other)]
    assert seeds[0] == seeds[1] != seeds[2] and portrait(first, None).latents.z.tolist() == [0.0] * 8


def test_beyond_the_crop_a_photo_is_matted_at_the_crops_scale(tmp_path: Path) -> None:
    path = saved(tmp_path / "wide.png", flat("RGB", (255, 255, 255)).resize((200, 100)))
    one = portrait(path, [face_at(100, 50, 16)], resolution=32)  # a side of 64 px is seen as 32 px
    seen: list[Tensor] = []

    def matting(image: Tensor) -> Tensor:
        seen.append(image)
        return torch.full_like(image[:, :1], 0.75)

    alpha = matte_of_photo(read_photo(path), one, matting)
    assert seen[0].shape == (1, 3, 50, 100) and alpha.shape == (1, 100, 200) and (alpha == 0.75).all()
