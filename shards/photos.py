"""The files of one enhanced photo, each written whole or not at all; the JSON comes last and stands for all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..enhance import EnhancedPhoto, foreground_method
from .encode import gray_from_alpha, png, rgb_from_image
from .sheet import matte_tile
from .writer import publish_bytes, publish_json


def write_photo(out: Path, photo: EnhancedPhoto, facts: Mapping[str, Any]) -> Path:
    """KEY.image.png, .alpha_before.png, .alpha.png, .photo_alpha.png, .compare.png and .json below `out`.

    Args:
        out: an existing folder.
        photo: KEY is its file's name without the ending.
        facts: what the JSON says.

    Returns:
        The comparison: rows photo and enhanced, each as image | alpha | over a checkerboard | over green.
    """
    key = photo.portrait.path.stem
    contents = {
        "image.png": png(rgb_from_image(photo.images["enhanced"])),
        "alpha_before.png": png(gray_from_alpha(photo.mattes["photo"])),
        "alpha.png": png(gray_from_alpha(photo.mattes["enhanced"])),
        "photo_alpha.png": png(gray_from_alpha(photo.in_photo["enhanced"])),
        "compare.png": png(comparison(photo)),
    }
    (out / f"{key}.json").unlink(missing_ok=True)  # of an earlier run: it must not stand for a mixture
    for name, content in contents.items():
        publish_bytes(out / f"{key}.{name}", content)
    publish_json(out / f"{key}.json", facts)
    return out / f"{key}.compare.png"


def comparison(photo: EnhancedPhoto) -> np.ndarray:
    """Photo above, enhanced portrait below: [2 R, 4 R, 3] uint8."""
    rows = []
    for state in ("photo", "enhanced"):
        rows.append(estimated_tile(photo.images[state], photo.mattes[state]))
    return np.concatenate(rows)


def estimated_tile(image: Tensor, alpha: Tensor) -> np.ndarray:
    """`matte_tile` of an image [3, H, W] in [-1, 1] and its matte [1, H, W], the foreground estimated from both."""
    foreground, _ = foreground_method("fast")(image[None], alpha[None])
    return matte_tile(rgb_from_image(image), gray_from_alpha(alpha), rgb_from_image(foreground[0]))
