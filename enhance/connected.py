"""Connected parts of a mask, by runs: a portrait's mask has few runs, but many pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of true pixels of a mask, row by row from left to right; equal labels are connected."""

    rows: list[int]
    starts: list[int]
    ends: list[int]  # exclusive
    labels: list[int]  # number of one run of the part


def connected_runs(mask: NDArray[np.bool_], *, diagonal: bool) -> Runs:
    """Runs of a mask [H, W], joined with the runs of the row above that they touch (union-find over runs).

    Args:
        diagonal: whether pixels that share only a corner are connected.
    """
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = (each.tolist() for each in np.nonzero(steps == 1))
    ends = np.nonzero(steps == -1)[1].tolist()  # in the same order as the starts
    parent = list(range(len(starts)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    # Two pointers: `above` is the first run of the row above that may still touch the present one.
    above, reach = 0, int(diagonal)
    for run, row in enumerate(rows):
        while rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] + reach <= starts[run]):
            above += 1
        other = above
        while rows[other] == row - 1 and starts[other] < ends[run] + reach:
            parent[root(other)] = root(run)
            other += 1
    return Runs(rows, starts, ends, [root(run) for run in range(len(rows))])


def regions(mask: NDArray[np.bool_], *, diagonal: bool) -> list[tuple[int, bool]]:
    """Connected regions of a mask [H, W]: (area in pixels, whether it touches the picture's border) each."""
    height, width = mask.shape
    runs = connected_runs(mask, diagonal=diagonal)
    areas: dict[int, int] = {}
    at_border: dict[int, bool] = {}
    for row, start, end, region in zip(runs.rows, runs.starts, runs.ends, runs.labels, strict=True):
        touches = row in (0, height - 1) or start == 0 or end == width
        areas[region] = areas.get(region, 0) + end - start
        at_border[region] = at_border.get(region, False) or touches
    return [(area, at_border[region]) for region, area in areas.items()]


def largest_part(mask: NDArray[np.bool_], *, within: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """The 4-connected part of a mask [H, W] with most pixels, as a mask; empty where the mask is.

    Of equal ones, that with the first pixel in column-major order (down the first column, then the next).

    Args:
        within: [H, W], the only pixels that are counted; without one of them there is no part.
    """
    columns = mask.T
    counted = columns if within is None else columns & within.T
    before = np.pad(counted.cumsum(1, dtype=np.int32), ((0, 0), (1, 0)))  # [W, H + 1], counted above each pixel
    runs = connected_runs(columns, diagonal=False)  # in column-major order
    areas: dict[int, int] = {}
    for num, part in zip(before[runs.rows, runs.ends] - before[runs.rows, runs.starts], runs.labels, strict=True):
        areas[part] = areas.get(part, 0) + int(num)
    kept = np.zeros_like(columns)
    if any(areas.values()):
        largest = max(areas, key=areas.__getitem__)  # the first of equal ones; parts stand in order of their first run
        for column, start, end, part in zip(runs.rows, runs.starts, runs.ends, runs.labels, strict=True):
            if part == largest:
                kept[column, start:end] = True
    return kept.T
