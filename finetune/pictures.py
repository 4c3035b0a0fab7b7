"""Pictures with known mattes to measure a network on: from shards, or from plain folders."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ..enhance.light import LINEAR, blend
from ..gen import random_stream
from ..shards import config_hash, read_config, read_shards, samples_of
from ..shards.backgrounds import drawn
from ..shards.read import member

PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One picture with its known matte."""

    key: str
    image: Tensor  # [3, H, W] in [-1, 1]
    alpha: NDArray[np.float32]  # [H, W] in [0, 1]
    hair: NDArray[np.float32] | None  # [H, W], coverage by hair, where it is known


def count_items(folder: Path) -> int:
    """Pictures that `items` will give, or one line that says what is missing."""
    if is_dataset(folder):
        shards, problems = read_shards(folder)
        if problems:
            raise ValueError(f"{folder} is damaged: {problems[0]}; see `verify`")
        count = sum(int(fields["count"]) for fields in shards.values())
    else:
        count = len(pairs(folder))
    if not count:
        raise ValueError(f"{folder} holds no pictures to measure on")
    return count


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds shards of ours."""
    return (folder / "config.json").is_file()


def items(folder: Path, *, originals: bool = False, seed: int = 0) -> Iterator[Item]:
    """Pictures with known mattes, in order.

    Args:
        folder: a dataset of ours; or a folder with image/ and alpha/ of the same names, and hair/ where it is known.
        originals: of a dataset, the portraits as they are stored (their mattes are a network's estimates); else each
            foreground over a drawn background (then the matte is exact).
        seed: of the backgrounds.
    """
    yield from dataset_items(folder, originals=originals, seed=seed) if is_dataset(folder) else folder_items(folder)


def dataset_items(folder: Path, *, originals: bool, seed: int) -> Iterator[Item]:
    """Portraits of the shards."""
    for fields in read_shards(folder)[0].values():
        tar = folder / fields["tar"]["name"]
        for key, files in samples_of(tar):
            sample = {"__key__": key, "__url__": str(tar)} | files
            matte, colours = member(sample, "alpha"), member(sample, "image" if originals else "fg")
            if colours.shape[:2] != matte.shape:
                raise ValueError(f"{tar}: sample {key} has an alpha of another size than its colours; see `verify`")
            levels = torch.from_numpy(colours).permute(2, 0, 1)
            alpha = matte.astype(np.float32) / np.float32(255)
            if originals:
                yield Item(key, levels.float() / 127.5 - 1, alpha, None)
                continue
            background = drawn(random_stream(seed, 0, 0, f"evaluate/{key}"), *alpha.shape)
            image = blend(LINEAR[levels.long()][None], torch.from_numpy(alpha)[None, None], background[None])
            yield Item(key, image[0], alpha, None)


def pairs(folder: Path) -> list[tuple[Path, Path, Path | None]]:
    """Image, alpha and hair (or None) of every picture in a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if missing := [name for name in ("image", "alpha") if not (folder / name).is_dir()]:
        raise ValueError(
            f"{folder} is neither a dataset nor a folder of pictures: it has no {' and no '.join(missing)} "
            "(needed: image/ and alpha/ with the same names, hair/ if it is known)"
        )
    named = {name: files_of(folder / name) for name in ("image", "alpha", "hair")}
    lonely = sorted(named["image"].keys() ^ named["alpha"].keys())
    if lonely:
        lacking = "alpha" if lonely[0] in named["image"] else "image"
        raise ValueError(f"{folder}: {lonely[0]} has no {lacking} ({len(lonely)} such names); names must agree")
    return [(named["image"][key], named["alpha"][key], named["hair"].get(key)) for key in sorted(named["image"])]


def folder_sum(folder: Path) -> str:
    """SHA-256 that tells a folder from another of the same name, wherever it lies.

    Of a dataset's configuration, else of the names and bytes of its pictures' files, which need not be read for it.
    """
    if is_dataset(folder):
        return config_hash(read_config(folder))
    files = [file for name in ("image", "alpha", "fg") for file in files_of(folder / name).values()]
    return config_hash({f"{file.parent.name}/{file.name}": file.stat().st_size for file in files})


def files_of(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by their name without its ending; none where there is no folder."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES}


def folder_items(folder: Path) -> Iterator[Item]:
    """Pictures of a folder."""
    for image_file, alpha_file, hair_file in pairs(folder):
        rgb = torch.from_numpy(np.array(read_picture(image_file, "RGB"))).permute(2, 0, 1)
        alpha = read_matte(alpha_file)
        hair = read_matte(hair_file) if hair_file else None
        for name, plane in (("image", rgb[0]), ("hair", hair)):
            if plane is not None and tuple(plane.shape) != alpha.shape:
                size = f"{plane.shape[1]} x {plane.shape[0]}, its alpha {alpha.shape[1]} x {alpha.shape[0]}"
                raise ValueError(f"{folder}: {name} of {image_file.stem} is {size}; sizes must agree")
        yield Item(image_file.stem, rgb.float() / 127.5 - 1, alpha, hair)


def upright(file: Path, what: str) -> Image.Image:
    """A picture the way up that its EXIF tag says, as viewers show it; `what` it should be is for the message."""
    try:
        with Image.open(file) as picture:
            return ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as a {what}: {error}") from error


def is_deep(picture: Image.Image) -> bool:
    """Whether a picture is grey with 16 bits, which would saturate if they were converted like 8."""
    return picture.mode.startswith("I")


def read_picture(file: Path, mode: str) -> NDArray[np.uint8]:
    """Pixels in a mode of Pillow's."""
    picture = upright(file, "picture")
    if is_deep(picture):
        picture = Image.fromarray(np.rint(np.asarray(picture, np.float64).clip(0, 65535) / 257).astype(np.uint8))
    return np.asarray(picture.convert(mode))


def read_matte(file: Path) -> NDArray[np.float32]:
    """[H, W] in [0, 1] of an 8-bit or 16-bit matte, or of a cut-out: its alpha channel, unless that says nothing."""
    matte = upright(file, "matte")
    highest = 65535 if is_deep(matte) else 255
    if "A" in matte.getbands() and np.ptp(matte.getchannel("A").getextrema()):
        matte = matte.getchannel("A")
    elif not is_deep(matte):
        matte = matte.convert("L")
    levels = np.asarray(matte, np.float64).clip(0, highest)
    if levels.max() == 1:
        raise ValueError(f"{file} has levels 0 and 1, expected 0 to {highest}; multiply them by {highest}")
    return (levels / highest).astype(np.float32)
