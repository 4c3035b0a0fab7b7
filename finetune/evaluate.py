"""A matting network against known mattes: numbers by region with intervals, and the worst pictures.

Networks that need a trimap get the one derived from the true matte, as benchmarks do; all others see the picture alone.
"""

import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from ..enhance import Matting, trimap_from_alpha
from ..shards import publish_text
from ..shards.encode import rgb_from_image
from ..shards.sheet import checkerboard, composite, save_sheet
from .metrics import METRICS, Measured, measure, regions_of
from .pictures import Item

SCALES = {"sad": 1.0, "mse": 1e3, "mad": 1e3, "grad": 1.0, "conn": 1.0}  # what tables multiply by
NUM_RESAMPLES = 2000  # of the bootstrap
INTERVAL = (0.025, 0.975)
NUM_WORST, TILE_PX = 16, 160


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a network made of one picture."""

    item: Item
    pred: NDArray[np.float32]  # [H, W] in [0, 1]
    measured: list[Measured]

    @property
    def error(self) -> float:
        """MAD of the whole picture, by which the worst are found."""
        return next(one.value for one in self.measured if (one.metric, one.region) == ("mad", "whole"))


# Measuring


def trimap_width(alpha: NDArray[np.float32], share: float) -> int:
    """Pixels: a share of the shorter side, at least 1."""
    width: int = round(share * min(alpha.shape))
    return max(1, width)


@torch.no_grad()
def evaluate(matting: Matting, pictures: Iterable[Item], *, trimap_share: float = 0.025) -> Iterator[Result]:
    """A network's matte of each picture, one at a time, measured in every region.

    Args:
        matting: on its device.
        trimap_share: how far the unknown region reaches beyond soft pixels, in shorter sides.
    """
    device = next((parameter.device for parameter in matting.parameters()), torch.device("cpu"))
    for item in pictures:
        width = trimap_width(item.alpha, trimap_share)
        trimap = trimap_from_alpha(torch.from_numpy(item.alpha)[None, None], width=width).to(device)
        pred = matting(item.image[None].to(device), trimap)[0, 0].float().clamp(0, 1).cpu().numpy()
        yield Result(item, pred, measure(pred, item.alpha, regions_of(item.alpha, trimap_width=width, hair=item.hair)))


def summary(results: Mapping[str, list[Measured]], *, seed: int = 0) -> pd.DataFrame:
    """Means over pictures with 95 % intervals (percentile bootstrap over pictures), one row a region and metric.

    Args:
        results: what was measured, by picture; a picture without a region does not count for it.

    Returns:
        Columns region, metric, mean, low, high, pictures, scale (mean, low and high are multiplied by it), divisor.
    """
    values: dict[str, list[list[float]]] = defaultdict(list)
    for measured in results.values():
        for region in dict.fromkeys(one.region for one in measured):
            by_name = {one.metric: one.value for one in measured if one.region == region}
            values[region].append([by_name[metric] * SCALES[metric] for metric in METRICS])
    rows: list[tuple[Any, ...]] = []
    for region, found in values.items():
        numbers = np.array(found)  # [pictures, metrics]
        rng = np.random.default_rng(seed)
        resampled = [numbers[rng.integers(len(numbers), size=len(numbers))].mean(0) for _ in range(NUM_RESAMPLES)]
        intervals = np.quantile(resampled, INTERVAL, axis=0).T
        for metric, mean, interval in zip(METRICS, numbers.mean(0), intervals, strict=True):
            divisor = "pixels of the region" if metric in ("mse", "mad") else "1000"
            rows.append((region, metric, mean, *interval, len(numbers), SCALES[metric], divisor))
    return pd.DataFrame(rows, columns=["region", "metric", "mean", "low", "high", "pictures", "scale", "divisor"])


def table(rows: pd.DataFrame) -> str:
    """The summary for people: a line a region, "mean [low, high]" a metric."""
    names = {"sad": "SAD /1000", "mse": "MSE x1000", "mad": "MAD x1000", "grad": "Grad /1000", "conn": "Conn /1000"}
    cells = rows.assign(
        cell=[f"{row.mean:.4g} [{row.low:.4g}, {row.high:.4g}]" for row in rows.itertuples(index=False)]
    )
    wide = cells.pivot(index="region", columns="metric", values="cell")
    order = [region for region in ("whole", "unknown", "hair") if region in wide.index]
    counts = rows.groupby("region")["pictures"].first()
    wide = wide.loc[order, list(METRICS)].rename(columns=names)
    wide.insert(0, "pictures", counts.loc[order])
    wide.columns.name = wide.index.name = None
    return str(wide.to_string())


def run(
    matting: Matting, pictures: Iterable[Item], *, trimap_share: float = 0.025,
    progress: Callable[[], object] | None = None,
) -> tuple[dict[str, list[Measured]], list[Result]]:  # fmt: skip
    """Everything measured by picture, and the worst pictures, worst first; only those stay in memory."""
    measured: dict[str, list[Measured]] = {}
    worst: list[tuple[float, int, Result]] = []
    for number, result in enumerate(evaluate(matting, pictures, trimap_share=trimap_share)):
        measured[result.item.key] = result.measured
        heapq.heappush(worst, (result.error, -number, result))
        if len(worst) > NUM_WORST:
            heapq.heappop(worst)
        if progress is not None:
            progress()
    return measured, [result for _, _, result in sorted(worst, key=lambda entry: entry[:2], reverse=True)]


# Showing


def write_json(
    path: Path, measured: Mapping[str, list[Measured]], rows: pd.DataFrame, about: Mapping[str, Any]
) -> None:
    """All of it: what was measured on what, the summary, and every number of every picture, unscaled."""
    fields = {
        "about": dict(about),
        "interval": "95 %, percentile bootstrap over pictures",
        "summary": json.loads(rows.to_json(orient="records", double_precision=15)),
        "pictures": {key: [asdict(one) for one in found] for key, found in measured.items()},
    }
    publish_text(path, json.dumps(fields, indent=1, allow_nan=False) + "\n")


def write_worst(path: Path, worst: list[Result]) -> None:
    """A PNG of the worst pictures: image | predicted | true | cut out with the prediction, over a checkerboard."""
    save_sheet(path, [tile(result) for result in worst], num_columns=2, max_side_px=TILE_PX)


def tile(result: Result) -> NDArray[np.uint8]:
    """One picture, [TILE_PX, 4 TILE_PX, 3]."""
    rgb = rgb_from_image(result.item.image)
    pred, true = (np.rint(matte * 255).astype(np.uint8) for matte in (result.pred, result.item.alpha))
    cut_out = composite(rgb, pred, checkerboard(*pred.shape))
    parts = [rgb, *(np.repeat(matte[..., None], 3, axis=2) for matte in (pred, true)), cut_out]
    return np.concatenate([fitted(part) for part in parts], axis=1)


def fitted(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture [H, W, 3] of any size in the middle of a grey square."""
    image = Image.fromarray(picture)
    scale = TILE_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    square = Image.new("RGB", (TILE_PX, TILE_PX), (64, 64, 64))
    resampling = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC
    square.paste(image.resize(size, resampling), ((TILE_PX - size[0]) // 2, (TILE_PX - size[1]) // 2))
    return np.asarray(square)
