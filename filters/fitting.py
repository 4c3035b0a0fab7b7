"""Portraits with a known error -> a calibration, and how good it is.

An additive model, fitted by backfitting (Hastie and Tibshirani 1990, chapter 4): each score's part in turn is the
isotonic regression of what the others leave of the log error on the log score, over the means of quantile bins, joined
by straight lines and level outside. The bias makes the mean over the fit set come out right, which the mean of a
logarithm would not. Nothing is random.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .calibration import Calibration, Term, logarithm

# Scores that grow with the matte's error; realism and drift are of the portrait, not of its matte.
SCORES = ("certainty", "stability", "agreement", "recomposition", "components", "holes", "soft_share")
ERROR_FLOOR = 0.05  # MAD x1000, added before the logarithm: far below what rounding to 8 bits leaves
NUM_BINS = 20
MIN_BIN = 5  # samples
NUM_ROUNDS = 100  # through all scores, at most
MIN_REACH = 1e-6  # from a curve's lowest value to its highest; below it a score is left out
Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]  # knots, values


def fit_calibration(
    scores: Sequence[Mapping[str, float]],
    errors: Sequence[float],
    *,
    networks: Mapping[str, str],
    version: str,
    names: Sequence[str] = SCORES,
) -> Calibration:
    """A calibration from portraits whose true error is known; the same input gives the same bits.

    Args:
        scores: of each portrait, as `score` makes them.
        errors: the true mean absolute error x1000 of each.
        networks: sha256 by name.
        names: the scores to use.

    Raises:
        ValueError: fewer portraits than two bins hold, or values that are not finite.
    """
    table = np.array([[one[name] for name in names] for one in scores], np.float64).reshape(len(scores), len(names))
    true = np.asarray(errors, np.float64)
    if len(true) != len(table) or len(true) < 2 * MIN_BIN:
        raise ValueError(f"a calibration needs {2 * MIN_BIN} portraits or more, an error each, got {len(true)}")
    if not (np.isfinite(table).all() and np.isfinite(true).all()):
        raise ValueError("scores and errors must be finite")
    target = np.log(true + ERROR_FLOOR)
    mean = float(target.mean())
    curves = additive_curves(logarithm(table), target - mean)
    raw = np.exp(mean + added(curves, logarithm(table)))
    bias = mean + float(np.log(true.mean() / raw.mean())) if true.mean() > 0 else mean
    terms = tuple(
        Term(name, tuple(knots.tolist()), tuple(values.tolist()))
        for name, (knots, values) in zip(names, curves, strict=True)
        if np.ptp(values) > MIN_REACH
    )
    return Calibration(bias, terms, dict(networks), {"num_fitted": float(len(true))}, version)


def additive_curves(x: Floats, y: Floats) -> list[Curve]:
    """Never falling curves, one a column of x [N, K], each with mean 0, whose sum is near to y [N]."""
    curves: list[Curve] = [(np.zeros(1), np.zeros(1))] * x.shape[1]
    parts = np.zeros_like(x)
    for _ in range(NUM_ROUNDS):
        before = parts.copy()
        for index, column in enumerate(x.T):
            knots, values = monotone_curve(column, y - np.delete(parts, index, 1).sum(1))
            values = values - np.interp(column, knots, values).mean()
            curves[index], parts[:, index] = (knots, values), np.interp(column, knots, values)
        if np.abs(parts - before).max(initial=0) < 1e-6:
            break
    return curves


def added(curves: Sequence[Curve], x: Floats) -> Floats:
    """The sum of curves, each at its column of x [N, K] -> [N]."""
    parts = [np.interp(column, *curve) for column, curve in zip(x.T, curves, strict=True)]
    total: Floats = np.array(parts).sum(0)
    return total


def monotone_curve(x: Floats, y: Floats) -> Curve:
    """The never falling curve through the means of quantile bins of x: knots and values; one knot if x is constant."""
    order = np.argsort(x, kind="stable")
    num_bins = max(1, min(NUM_BINS, len(x) // MIN_BIN))
    knots: list[float] = []
    values: list[float] = []
    counts: list[int] = []
    for part in np.array_split(order, num_bins):
        knot, value, count = float(x[part].mean()), float(y[part].mean()), len(part)
        if knots and knot <= knots[-1] + 1e-9:  # equal scores fill more than one bin
            values[-1] += (value - values[-1]) * count / (counts[-1] + count)
            counts[-1] += count
        else:
            knots.append(knot)
            values.append(value)
            counts.append(count)
    return np.array(knots), isotonic(np.array(values), np.array(counts, np.float64))


def isotonic(values: Floats, weights: Floats) -> Floats:
    """The never falling sequence nearest to the values in weighted least squares (pool adjacent violators).

    >>> isotonic(np.array([1.0, 3.0, 2.0]), np.ones(3)).tolist()
    [1.0, 2.5, 2.5]
    """
    blocks: list[list[float]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, mass, length = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * mass) / (last[1] + mass)
            last[1] += mass
            last[2] += length
    return np.concatenate([np.full(int(length), mean) for mean, _, length in blocks])


# Measuring


def fit_error(expected: Floats, true: Floats) -> dict[str, float]:
    """How well expected errors tell true ones, [N] each.

    Returns:
        relative_error: mean |expected - true| / mean true; spearman; best_half: mean true error of the half with the
        lowest expected one, as a share of the mean of all.
    """
    best = np.argsort(expected, kind="stable")[: max(1, len(true) // 2)]
    return {
        "mean_true": float(true.mean()),
        "relative_error": float(np.abs(expected - true).mean() / true.mean()),
        "spearman": spearman(expected, true),
        "best_half": float(true[best].mean() / true.mean()),
    }


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation in [-1, 1], equal values sharing their mean rank; 0 where one of them is constant."""
    ranks = [mean_ranks(values) - (len(a) - 1) / 2 for values in (a, b)]
    size = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum() / size) if size else 0.0


def mean_ranks(values: Floats) -> Floats:
    """Ranks from 0 on, equal values sharing the mean of theirs.

    >>> mean_ranks(np.array([5.0, 1.0, 5.0])).tolist()
    [1.5, 0.0, 1.5]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = ((last - counts + last - 1) / 2)[place]
    return ranks


def risk_coverage(expected: Floats, true: Floats) -> tuple[Floats, Floats]:
    """Share kept, lowest expected error first, and the mean true error of what is kept: [N] each."""
    ordered = true[np.argsort(expected, kind="stable")]
    count = np.arange(1, len(true) + 1)
    return count / len(true), np.cumsum(ordered) / count
