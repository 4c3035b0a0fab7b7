"""What is known about an enhanced photo: losses, scores, and how its three states compare with what is known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..enhance import EnhancedPhoto
from ..filters import decide, score
from ..filters.scores import disagreement
from .metrics import METRICS
from .pictures import read_matte

MEASURED = ("sad", "mse", "grad", "conn")


def true_alpha(file: Path, photo: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """A photo's known matte, [H, W] in [0, 1].

    Args:
        photo: its file, for the message.
        size: H and W of the photo, upright.
    """
    true = read_matte(file)
    if true.shape != size:
        raise ValueError(f"{file} is {true.shape[1]} x {true.shape[0]}, its photo {photo} {size[1]} x {size[0]}")
    return true


@torch.no_grad()
def photo_facts(
    photo: EnhancedPhoto, networks: Mapping[str, Any], *, true: NDArray[np.float32] | None
) -> dict[str, Any]:
    """What the JSON of a photo says.

    Args:
        networks: generator, matting, second, perceptual, and discriminator if there is one; on their device.
        true: the photo's known matte, [H, W] in [0, 1].

    Returns:
        Among them "agreement", how far the second network is from the reference network in each state, and "measured",
        the errors of the mattes in the photo (None without a known one).
    """
    portrait, enhanced, matting, second = photo.portrait, photo.enhanced, networks["matting"], networks["second"]
    scores = score(enhanced, matting, second, networks["perceptual"], networks.get("discriminator"))
    states = {name: image[None] for name, image in photo.images.items()}
    agreement = {
        name: float(disagreement(matting(image).float(), [second(image).float()])) for name, image in states.items()
    }
    measured = None
    if true is not None:
        mattes = {name: matte[0].numpy() for name, matte in photo.in_photo.items()}
        measured = {
            name: {metric: METRICS[metric](matte, true) for metric in MEASURED} for name, matte in mattes.items()
        }
    return {
        "photo": portrait.path.name,
        "seed": portrait.latents.seed,
        "width": portrait.size[1],
        "height": portrait.size[0],
        "faces": portrait.num_faces,
        "square": {"centre": portrait.square.centre, "right": portrait.square.right},
        "inversion": photo.inverted.losses,
        "steps": enhanced.steps,
        "losses": enhanced.losses,
        "scores": scores,
        "dropped_by": decide(enhanced, scores).dropped_by,
        "agreement": agreement,
        "measured": measured,
        "networks": {name: network.card.get("sha256") for name, network in networks.items()},
    }
