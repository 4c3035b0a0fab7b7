"""The slow, classical answers, through the package pymatting: closed-form alpha and multi-level foregrounds.

Alpha: Levin, Lischinski, Weiss 2008, "A Closed-Form Solution to Natural Image Matting" (TPAMI 30), which wants a trimap
and no network. Foreground: Germer, Uelwer, Conrad, Harmeling 2020, "Fast Multi-Level Foreground Estimation" (arXiv
2006.14970), by its authors' own code: the yardstick of `estimate_foreground`, which lowers the same cost on any device.

Both run on one CPU core, in float64, one picture after the other, and give no gradient.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .foreground import estimate_foreground
from .light import decoded, encoded

FOREGROUNDS = ("fast", "pymatting")
Estimate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # image, alpha -> foreground, background


def foreground_method(name: str) -> Estimate:
    """The function (image, alpha) -> (foreground, background) of a name: "fast" (ours) or "pymatting".

    Both look at linear light, in which lenses mix colours and the shards' reader composites: so the colours in soft
    hair are the person's own (docs/decisions.md), whatever they are composited with later.

    Raises:
        ValueError: an unknown name, or pymatting is missing.
    """
    if name not in FOREGROUNDS:
        raise ValueError(f"unknown foreground method {name!r}; known: {', '.join(FOREGROUNDS)}")
    if name == "fast":
        return partial(in_linear_light, estimate_foreground)
    pymatting()
    return partial(in_linear_light, multilevel_foreground)


def in_linear_light(estimate: Estimate, image: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Foreground and background [N, 3, H, W] of sRGB images [N, 3, H, W], estimated from their linear light.

    All colours are in [-1, 1], alpha [N, 1, H, W] in [0, 1].
    """
    foreground, background = estimate(decoded(image), alpha)
    return encoded(foreground), encoded(background)


def multilevel_foreground(image: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Straight foreground and background colours, as `estimate_foreground` gives them.

    Args:
        image: [N, 3, H, W] in [-1, 1].
        alpha: [N, 1, H, W] in [0, 1].

    Returns:
        Foreground and background, both [N, 3, H, W] in [-1, 1], in float32.
    """
    check(image, alpha, name="alpha")
    estimate = pymatting().estimate_foreground_ml
    both = [estimate(*pair, return_background=True) for pair in planes(image, alpha)]
    foreground, background = (np.stack([pair[i] for pair in both]).transpose(0, 3, 1, 2) for i in (0, 1))
    return as_tensor(foreground * 2 - 1, image).clamp(-1, 1), as_tensor(background * 2 - 1, image).clamp(-1, 1)


def closed_form_alpha(image: Tensor, trimap: Tensor) -> Tensor:
    """Alpha from the trimap and the assumption that colours near each other lie on a line.

    Args:
        image: [N, 3, H, W] in [-1, 1].
        trimap: [N, 1, H, W], 0 background, 0.5 unknown, 1 foreground; both known kinds must be there.

    Returns:
        [N, 1, H, W] in [0, 1], in float32.
    """
    check(image, trimap, name="trimap")
    known = [bool((trimap == value).flatten(1).any(1).all()) for value in (0, 1)]
    if not all(known):
        raise ValueError("closed-form matting needs a trimap with background (0) and foreground (1) in every image")
    estimate = pymatting().estimate_alpha_cf
    alpha = np.stack([estimate(*pair) for pair in planes(image, trimap)])[:, None]
    return as_tensor(alpha, image).clamp(0, 1)


def pymatting() -> ModuleType:
    """The package, which compiles itself for some seconds when it is first called.

    Its import starts numba's threads, which changes the number of OpenMP's threads under torch: with two instead of
    one on a busy machine every small convolution took 40 times as long, and results may round differently.
    """
    num_threads = torch.get_num_threads()
    try:
        import pymatting as package
    except ImportError as error:
        raise ValueError(
            "closed-form matting and its foregrounds need the package pymatting; "
            "install it with `pip install 'mattesmith[pymatting]'`"
        ) from error
    finally:
        torch.set_num_threads(num_threads)
    module: ModuleType = package
    return module


def check(image: Tensor, plane: Tensor, *, name: str) -> None:
    """One plane an image, of its size."""
    wanted = [image.shape[0], 1, *image.shape[2:]]
    if list(plane.shape) != wanted:
        raise ValueError(f"{name} must be {wanted} for this image, got {list(plane.shape)}")


def planes(image: Tensor, plane: Tensor) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Each image [H, W, 3] in [0, 1] with its plane [H, W], in float64."""
    rgb = ((image.detach().double().cpu() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).contiguous().numpy()
    flat = plane.detach().double().cpu()[:, 0].contiguous().numpy()
    return list(zip(rgb, flat, strict=True))


def as_tensor(array: NDArray[Any], like: Tensor) -> Tensor:
    """The array in float32 where `like` is."""
    return torch.from_numpy(np.ascontiguousarray(array)).float().to(like.device)
