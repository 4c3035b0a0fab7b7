"""Pictures of portraits with their mattes: composites in linear light, and contact sheets."""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from ..enhance.light import linear_from_srgb, srgb_from_linear
from .manifest import read_shards
from .members import Problem, decode, samples_of
from .writer import publish_bytes

CHECKER_PX = 8
COLOURS = {"green": (0, 177, 64), "white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}
LIGHT = linear_from_srgb(np.arange(256) / 255)  # [256], of the levels of an image


def checkerboard(height: int, width: int, *, square_px: int = CHECKER_PX) -> np.ndarray:
    """[H, W, 3] uint8, light and dark gray squares."""
    rows, columns = np.mgrid[:height, :width] // square_px
    gray = np.where((rows + columns) % 2 == 0, 204, 153).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def composite(foreground: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Foreground over background as light adds up.

    Args:
        foreground: [H, W, 3] uint8 sRGB, straight.
        alpha: [H, W] uint8.
        background: [H, W, 3] uint8 sRGB.

    Returns:
        [H, W, 3] uint8 sRGB.
    """
    share = alpha[:, :, None].astype(np.float32) / 255
    light = share * LIGHT[foreground] + (1 - share) * LIGHT[background]
    return np.rint(srgb_from_linear(light.clip(0, 1)) * 255).astype(np.uint8)


def tile(files: dict[str, bytes], *, colour: tuple[int, int, int] = COLOURS["green"]) -> np.ndarray:
    """One portrait as image | alpha | over a checkerboard | over a colour: [H, 4 W, 3] uint8."""
    image = decode("image.jpg", files["image.jpg"]) if "image.jpg" in files else decode("image.png", files["image.png"])
    return matte_tile(image, decode("alpha.png", files["alpha.png"]), decode("fg.png", files["fg.png"]), colour=colour)


def matte_tile(
    image: np.ndarray, alpha: np.ndarray, foreground: np.ndarray, *, colour: tuple[int, int, int] = COLOURS["green"]
) -> np.ndarray:
    """Image | alpha | over a checkerboard | over a colour, [H, 4 W, 3] uint8, of [H, W, 3], [H, W] and [H, W, 3]."""
    height, width = alpha.shape
    flat = np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))
    gray = np.repeat(alpha[:, :, None], 3, axis=2)
    over_checkers = composite(foreground, alpha, checkerboard(height, width))
    return np.concatenate([image, gray, over_checkers, composite(foreground, alpha, flat)], axis=1)


def contact_sheet(out: Path, path: Path, *, num_portraits: int = 24, num_columns: int = 3) -> list[Problem]:
    """Write a PNG of the first kept portraits of a dataset, unpicked.

    Returns:
        Shards whose portraits could not be shown.
    """
    problems: list[Problem] = []
    tiles = list(islice(tiles_of(out, problems), num_portraits))
    save_sheet(path, tiles, num_columns=num_columns)
    return problems


def save_sheet(path: Path, tiles: list[np.ndarray], *, num_columns: int = 3, max_side_px: int = 192) -> None:
    """Write tiles as one PNG; as `arrange`."""
    save_picture(path, arrange(tiles, num_columns=num_columns, max_side_px=max_side_px))


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG, whole or not at all."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    publish_bytes(path, stream.getvalue())


def arrange(tiles: list[np.ndarray], *, num_columns: int = 3, max_side_px: int = 192) -> Image.Image:
    """Tiles in reading order, in rows and columns on gray.

    Args:
        tiles: [H, W, 3] uint8 each, all of one size.
        num_columns: portraits in a row.
        max_side_px: larger portraits are made smaller.
    """
    tiles = [smaller(picture, max_side_px) for picture in tiles]
    if not tiles:
        raise ValueError("there are no portraits to put on a contact sheet")
    height, width, gap = *tiles[0].shape[:2], 4
    columns = min(num_columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 64, np.uint8)
    for index, picture in enumerate(tiles):
        top, left = (gap + index // columns * (height + gap), gap + index % columns * (width + gap))
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet)


def smaller(picture: np.ndarray, max_side_px: int) -> np.ndarray:
    """The picture [H, W, 3] uint8 at most `max_side_px` high."""
    height, width = picture.shape[:2]
    if height <= max_side_px:
        return picture
    size = (round(width * max_side_px / height), max_side_px)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def tiles_of(out: Path, problems: list[Problem]) -> Iterator[np.ndarray]:
    """Tiles of all samples of a dataset, shard by shard; a shard that breaks off is added to the problems."""
    for number in read_shards(out)[0]:
        try:
            for _, files in samples_of(out / f"{number:05d}.tar"):
                yield tile(files)
        except Exception as error:  # whatever broken bytes raise: this shard is named, the others are shown
            problems.append(Problem(f"{number:05d}.tar", "", f"its pictures cannot be shown: {error}"))
