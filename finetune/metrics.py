"""How far a matte is from the truth: SAD, MSE, MAD, Grad and Conn, each by region.

The definitions are those of the deep-image-matting evaluation kit (Xu et al. 2017, arXiv:1703.03872; Grad and Conn
after Rhemann et al. 2009), equal to its MATLAB files to 2e-5. A region chooses among the finished errors of all pixels:
gradients and connected parts are those of the whole pictures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..enhance.trimap import dilate, trimap_from_alpha
from ..filters.connected import largest_part

Floats = NDArray[np.float64]
Matte = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

PER_THOUSAND = 1000.0  # what the field divides sums by
SIGMA = 1.4  # px, of the derivative of a Gaussian
HALF_WIDTH = 4  # px: ceil(sigma sqrt(-2 log(sqrt(2 pi) sigma 0.01)))
NUM_LEVELS = 10  # of connectivity, in steps of 0.1
THETA = 0.15  # a pixel less above its level than this is fully connected
ROUNDING = 1e-5  # how far outside [0, 1] a float may lie, and how far below a threshold it still passes (levels of
# 8 bits lie 4e-3 apart; 51, 102, 153, 204 and 255 must pass theirs, in float32 and float64 alike)
SOFT = (0.02, 0.98)  # a pixel between is neither inside nor outside
HAIR_BAND_PX = 2  # around soft hair


@dataclass(frozen=True, slots=True)
class Measured:
    """One number, with what it is of: without region and divisor it means nothing."""

    metric: str  # sad, mse, mad, grad or conn
    region: str  # whole, unknown or hair
    value: float
    divisor: float  # the sum of the errors was divided by this: 1000, or the pixels of the region
    num_pixels: int  # of the region


# The five numbers


def sad(pred: Any, true: Any, mask: Any = None) -> float:
    """Sum of absolute differences, divided by 1000.

    Args:
        pred, true: [H, W] in [0, 1], floats; the same for all five.
        mask: [H, W] bool, the region; None for the whole picture.
    """
    return _total(difference(*_mattes(pred, true)), mask) / PER_THOUSAND


def mse(pred: Any, true: Any, mask: Any = None) -> float:
    """Mean squared difference (tables print it x1000); NaN for an empty region."""
    return _mean(difference(*_mattes(pred, true)) ** 2, mask)


def mad(pred: Any, true: Any, mask: Any = None) -> float:
    """Mean absolute difference (tables print it x1000); NaN for an empty region."""
    return _mean(difference(*_mattes(pred, true)), mask)


def grad(pred: Any, true: Any, mask: Any = None) -> float:
    """Squared differences of gradient magnitudes, summed, divided by 1000."""
    return _total(gradient_error(*_mattes(pred, true)), mask) / PER_THOUSAND


def conn(pred: Any, true: Any, mask: Any = None) -> float:
    """Differences of connectivity, summed, divided by 1000."""
    return _total(connectivity_error(*_mattes(pred, true)), mask) / PER_THOUSAND


def measure(pred: Any, true: Any, regions: Mapping[str, Mask | None]) -> list[Measured]:
    """All five in every region; empty regions are left out.

    Args:
        pred, true: [H, W] in [0, 1].
        regions: masks by name, see `regions_of`.
    """
    pred, true = _mattes(pred, true)
    off = difference(pred, true)
    errors = {"sad": off, "mse": off**2, "mad": off, "grad": gradient_error(pred, true)}
    errors["conn"] = connectivity_error(pred, true)
    found = []
    for region, mask in regions.items():
        num_pixels = int(true.size if mask is None else mask.sum())
        for metric, error in errors.items() if num_pixels else ():
            divisor = float(num_pixels) if metric in ("mse", "mad") else PER_THOUSAND
            found.append(Measured(metric, region, _total(error, mask) / divisor, divisor, num_pixels))
    return found


def _mattes(pred: Any, true: Any) -> tuple[Floats, Floats]:
    """Both as float64 in [0, 1], or one line that says what they are instead."""
    named = {"pred": np.asarray(pred), "true": np.asarray(true)}
    for name, matte in named.items():
        if matte.ndim != 2 or not matte.size:
            raise ValueError(f"{name} must be [H, W], got {list(matte.shape)}")
        if not np.issubdtype(matte.dtype, np.floating):
            # Differences of uint8 wrap around: one level too low would count as 255.
            raise ValueError(f"{name} must be floats in [0, 1], got {matte.dtype}; divide levels by 255")
        if not (matte.min() >= -ROUNDING and matte.max() <= 1 + ROUNDING):  # not (...): NaN is refused, too
            raise ValueError(f"{name} must lie in [0, 1], got {matte.min():.6g} to {matte.max():.6g}")
    if named["pred"].shape != named["true"].shape:
        raise ValueError(f"pred is {list(named['pred'].shape)}, true is {list(named['true'].shape)}; sizes must agree")
    first, second = (np.clip(matte.astype(np.float64), 0, 1) for matte in named.values())
    return first, second


def _total(error: Floats, mask: Any) -> float:
    if mask is None:
        return float(error.sum())
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ or mask.shape != error.shape:
        raise ValueError(f"mask must be bool {list(error.shape)}, got {mask.dtype} {list(mask.shape)}")
    return float(error[mask].sum())


def _mean(error: Floats, mask: Any) -> float:
    total = _total(error, mask)
    num_pixels = error.size if mask is None else int(np.asarray(mask).sum())
    return total / num_pixels if num_pixels else float("nan")


# Errors a pixel


def difference(pred: Floats, true: Floats) -> Floats:
    """|pred - true|, [H, W]."""
    return np.abs(pred - true)


def gradient_error(pred: Floats, true: Floats) -> Floats:
    """(|grad pred| - |grad true|)^2, [H, W], each stretched to [0, 1] first."""
    return np.square(gradient_magnitude(stretched(pred)) - gradient_magnitude(stretched(true)))


def stretched(matte: Floats) -> Floats:
    """The matte scaled so that it spans [0, 1]; a constant one as it is."""
    low, high = matte.min(), matte.max()
    return (matte - low) / (high - low) if high > low else matte


@cache
def _taps() -> tuple[Floats, Floats]:
    """A Gaussian and its derivative, [9] each; the energy of their outer product is 1."""
    x = np.arange(-HALF_WIDTH, HALF_WIDTH + 1, dtype=np.float64)
    gaussian = np.exp(-(x**2) / (2 * SIGMA**2))
    derivative = -x * gaussian
    return gaussian / np.linalg.norm(gaussian), derivative / np.linalg.norm(derivative)


def gradient_magnitude(matte: Floats) -> Floats:
    """Length of the Gaussian gradient, [H, W]; pixels outside repeat the nearest one."""
    gaussian, derivative = _taps()
    padded = np.pad(matte, HALF_WIDTH, mode="edge")
    along_x = _filtered(_filtered(padded, gaussian, axis=0), derivative, axis=1)
    along_y = _filtered(_filtered(padded, derivative, axis=0), gaussian, axis=1)
    return np.hypot(along_x, along_y)


def _filtered(padded: Floats, taps: Floats, *, axis: int) -> Floats:
    """One-dimensional filter along an axis, without the ends that it cannot reach."""
    length = padded.shape[axis] - 2 * HALF_WIDTH
    shifted = (padded.take(np.arange(i, i + length), axis) * tap for i, tap in enumerate(taps))
    total: Floats = sum(shifted, start=np.zeros(1))
    return total


def connectivity_error(pred: Floats, true: Floats) -> Floats:
    """|phi(pred) - phi(true)|, [H, W], where phi falls with the distance to the level of connection."""
    level = connection_level(pred, true)
    return np.abs(_connectivity(pred, level) - _connectivity(true, level))


def connection_level(pred: Floats, true: Floats) -> Floats:
    """The highest threshold up to which a pixel stays in the largest part that both mattes share, [H, W].

    A pixel once dropped stays dropped, even if a later part holds it; where nothing passes a threshold, all are.
    """
    shared = np.minimum(pred, true)
    level = np.ones_like(shared)
    connected = np.ones(shared.shape, np.bool_)
    for k in range(1, NUM_LEVELS + 1):
        now = largest_part(shared >= k / NUM_LEVELS - ROUNDING)
        level[connected & ~now] = (k - 1) / NUM_LEVELS
        connected &= now
    return level


def _connectivity(matte: Floats, level: Floats) -> Floats:
    above = matte - level
    return np.where(above >= THETA, 1 - above, 1.0)


# Regions


def regions_of(true: Matte, *, trimap_width: int, hair: Matte | None = None) -> dict[str, Mask | None]:
    """The regions that numbers are given for: "whole", "unknown", and "hair" where it is known.

    Args:
        true: [H, W] in [0, 1].
        trimap_width: pixels that the unknown region reaches beyond soft pixels, see `trimap_from_alpha`.
        hair: [H, W] coverage by hair in [0, 1].
    """
    alpha = torch.from_numpy(np.asarray(true, np.float32))[None, None]
    found: dict[str, Mask | None] = {"whole": None}
    found["unknown"] = (trimap_from_alpha(alpha, width=trimap_width)[0, 0] == 0.5).numpy()
    if hair is not None:
        found["hair"] = hair_band(true, hair)
    return found


def hair_band(true: Matte, hair: Matte) -> Mask:
    """[H, W]: soft pixels with hair, and two pixels around them."""
    soft = (true > SOFT[0]) & (true < SOFT[1]) & (hair > SOFT[0])
    band: Mask = (dilate(torch.from_numpy(soft).float()[None, None], width=HAIR_BAND_PX)[0, 0] > 0).numpy()
    return band


Metric = Callable[..., float]
METRICS: Mapping[str, Metric] = {"sad": sad, "mse": mse, "mad": mad, "grad": grad, "conn": conn}
