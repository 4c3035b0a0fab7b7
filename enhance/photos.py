"""Real portraits through the whole of enhancement: inverted, enhanced, matted, and the matte back in the photo."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..gen import Discriminator, Generator, Latents, Sample
from .align import paste
from .invert import Inverted, invert
from .matting import Matting
from .optimize import enhance
from .perceptual import Perceptual
from .photo import Portrait, matte_of_photo, read_photo
from .portrait import Enhanced, final_matte

STATES = ("photo", "inverted", "enhanced")


@dataclass(frozen=True, slots=True, eq=False)
class EnhancedPhoto:
    """A photo in its three states, with the reference network's matte of each."""

    portrait: Portrait
    inverted: Inverted
    enhanced: Enhanced
    images: dict[str, Tensor]  # by state, [3, R, R] in [-1, 1]
    mattes: dict[str, Tensor]  # by state, [1, R, R] in [0, 1], averaged with the mirror image's
    in_photo: dict[str, Tensor]  # the mattes in the photo's frame, [1, H, W], on the CPU


def enhance_photos(
    portraits: Iterable[Portrait],
    generator: Generator,
    discriminator: Discriminator | None,
    matting: Matting,
    perceptual: Perceptual,
    *,
    invert_steps: int = 300,
    slots: int = 1,
    precision: str = "auto",
    **knobs: Any,
) -> Iterator[EnhancedPhoto]:
    """Inverts and enhances portraits, in the order in which they come.

    The enhancement starts from the photo: what the inversion cannot bring back of it stays added to what the generator
    makes, so that only the enhancement's own change reaches the picture, and the guards hold against the photo.

    Args:
        portraits: taken a batch at a time.
        invert_steps: updates of the inversion.
        slots, precision: of both loops. A photo's result follows from them and the photo, not from the other photos.
        knobs: further ones of `enhance`.
    """
    waiting: deque[Portrait] = deque()
    found: deque[Inverted] = deque()

    def targets() -> Iterator[tuple[Latents, Tensor]]:
        for portrait in portraits:
            waiting.append(portrait)
            yield portrait.latents, portrait.crop

    def samples() -> Iterator[Sample]:
        both: dict[str, Any] = {"slots": slots, "precision": precision}
        for inverted in invert(targets(), generator, perceptual, steps=invert_steps, **both):
            found.append(inverted)
            yield replace(inverted.sample, image=inverted.target, is_photo=True)

    loop = enhance(samples(), generator, discriminator, matting, perceptual, slots=slots, precision=precision, **knobs)
    for enhanced in loop:
        yield with_mattes(waiting.popleft(), found.popleft(), enhanced, matting)


@torch.no_grad()
def with_mattes(portrait: Portrait, inverted: Inverted, enhanced: Enhanced, matting: Matting) -> EnhancedPhoto:
    """The record of one photo; the photo is decoded again for the part of its matte that lies beyond the crop."""
    images = {"photo": inverted.target, "inverted": inverted.sample.image, "enhanced": enhanced.image}
    mattes = {name: final_matte(matting, images[name][None])[0] for name in ("photo", "inverted")}
    mattes["enhanced"] = enhanced.alpha
    outside = None
    if portrait.num_faces:
        photo = read_photo(portrait.path, portrait.content).to(enhanced.image.device)
        outside = matte_of_photo(photo, portrait, lambda image: final_matte(matting, image))
    in_photo = {name: paste(matte.cpu(), portrait.square, portrait.size, outside) for name, matte in mattes.items()}
    return EnhancedPhoto(portrait, inverted, enhanced, images, mattes, in_photo)
