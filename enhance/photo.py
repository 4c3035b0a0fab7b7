"""A photo file becomes a portrait as a generator knows it: read in whatever form it was stored, aligned, cut out.

Everything ends as 8-bit sRGB, upright and opaque. A colour profile is followed (CMYK without one by the plain formula
(255 - C)(255 - K) / 255); 16-bit levels keep their upper half; what is transparent lies over white, as on paper; what
the camera noted about its orientation is applied. A file that cannot be shown rightly is refused, never guessed at.
"""

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ..gen import Latents
from .align import Framing, Square, crop, square_of, whole
from .faces import Detector

MIN_SIDE_PX = 64  # of a photo; a face in anything smaller has no hair to matte
MAX_MAGNIFICATION = 4.0  # a crop may have a quarter of the generator's pixels a side, not less


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """One photo's aligned crop, and the way back into the photo."""

    path: Path
    latents: Latents  # named after the file's content; z is 0, since nobody drew it
    size: tuple[int, int]  # height and width of the photo in pixels, upright
    square: Square  # what of the photo the crop shows
    num_faces: int  # found in the photo, 0 if none was looked for
    crop: Tensor  # [3, R, R] in [-1, 1]
    content: bytes  # of the file, which may be gone, or another, when the photo is needed again


def portrait_of(
    path: Path, *, resolution: int, framing: Framing, detector: Detector | None, z_dim: int = 512
) -> Portrait:
    """The portrait in a photo: around its largest face, or all of it.

    Args:
        resolution: R, side of the crop in pixels.
        framing: how much around a face the generator shows.
        detector: finds the faces; None takes the photo as an aligned crop, which must be square.
        z_dim: the generator's.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    content = _content(path)
    photo = read_photo(path, content)
    height, width = photo.shape[1:]
    if detector is None:
        if height != width:
            raise ValueError(f"{path}: an aligned crop must be square, got {width} x {height}; align it or crop it")
        square, num_faces = whole(height), 0
    else:
        faces = detector(photo)
        if not faces:
            raise ValueError(f"{path}: no face was found; give a photo of a face, or an aligned crop with --no-align")
        square, num_faces = square_of(max(faces, key=lambda face: face.extent), framing), len(faces)
    if square.side * MAX_MAGNIFICATION < resolution:
        raise ValueError(
            f"{path}: the crop around the face is {square.side:.0f} px wide, too small for a generator of "
            f"{resolution} px; needed are {resolution / MAX_MAGNIFICATION:.0f} px or more"
        )
    latents = content_latents(content, z_dim=z_dim)
    return Portrait(path, latents, (height, width), square, num_faces, crop(photo, square, resolution), content)


def content_latents(content: bytes, *, z_dim: int) -> Latents:
    """Names every random stream of a photo after its bytes, so that neither its name nor its neighbours enter."""
    seed = int.from_bytes(hashlib.sha256(content).digest()[:6], "big")  # 48 bits: exact in every reader of JSON
    return Latents(seed, 0, 0, torch.zeros(z_dim))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_photo(path: Path, content: bytes | None = None) -> Tensor:
    """A photo as [3, H, W] in [-1, 1].

    Args:
        content: the file's bytes, where they are in memory already.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    stream = io.BytesIO(_content(path) if content is None else content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream) as opened:
                _check(opened)
                picture = opaque_srgb(ImageOps.exif_transpose(opened))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = round((Image.MAX_IMAGE_PIXELS or 0) / 1e6)
        raise ValueError(f"{path}: more than {limit} million pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: is no picture; needed is a JPEG, PNG, WebP, TIFF or the like") from error
    except Exception as error:  # whatever broken bytes raise: this file is named, the others go on
        raise ValueError(f"{path}: {str(error) or type(error).__name__}") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def reduced(image: Tensor, *, max_side_px: int) -> Tensor:
    """A photo [3, H, W] in [-1, 1] made so small that its longer side fits; one that does is left as it is."""
    scale = max_side_px / max(image.shape)
    if scale >= 1:
        return image
    size = [round(side * scale) for side in image.shape[1:]]
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(-1, 1)


def _check(opened: Image.Image) -> None:
    """Refuses what is no photo, before its pixels are decoded."""
    num_frames = getattr(opened, "n_frames", 1)
    if num_frames > 1 and opened.format != "MPO":  # a phone's JPEG with a second picture for depth or preview
        raise ValueError(f"is animated ({num_frames} frames); save one frame as a picture")
    if min(opened.size) < MIN_SIDE_PX:
        raise ValueError(f"is {opened.width} x {opened.height} px; needed are {MIN_SIDE_PX} px or more a side")


def opaque_srgb(picture: Image.Image) -> Image.Image:
    """Any picture as RGB: transparent parts over white, colours through the picture's own profile.

    Raises:
        ValueError: 32-bit levels, whose range nobody states, or a profile that is broken or of other colours.
    """
    profile = picture.info.get("icc_profile")
    if picture.mode in ("I", "F"):
        raise ValueError("has 32-bit levels, whose range is unknown; save it with 8 or 16 bits")
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture).astype(np.float32) / 257
        picture = Image.fromarray(np.rint(levels).astype(np.uint8))
    if picture.has_transparency_data:
        straight = picture.convert("RGBA")
        picture = Image.new("RGBA", straight.size, "white")
        picture.alpha_composite(straight)
    if picture.mode not in ("L", "CMYK"):
        picture = picture.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError) as error:
            raise ValueError(f"its colour profile does not fit ({error}); remove or replace the profile") from error
        assert converted is not None  # it is None only where the picture is changed in place
        return converted
    return picture.convert("RGB")


@torch.no_grad()
def matte_of_photo(photo: Tensor, portrait: Portrait, matting: Callable[[Tensor], Tensor]) -> Tensor:
    """The matte of a whole photo, seen at the scale at which the network sees the crop.

    Args:
        photo: [3, H, W] in [-1, 1], on the network's device.
        portrait: of this photo.
        matting: image [1, 3, h, w] in [-1, 1] -> alpha [1, 1, h, w].

    Returns:
        [1, H, W] in [0, 1], float32, on the CPU. The network sees at most four crops' sides: a face may be small.
    """
    resolution = portrait.crop.shape[-1]
    scale = min(1.0, resolution / portrait.square.side, 4 * resolution / max(portrait.size))
    size = (max(32, round(portrait.size[0] * scale)), max(32, round(portrait.size[1] * scale)))
    seen = F.interpolate(photo[None], size=size, mode="bilinear", align_corners=False, antialias=True)
    alpha = matting(seen).float().cpu().clamp(0, 1)
    return F.interpolate(alpha, size=portrait.size, mode="bilinear", align_corners=False)[0]
