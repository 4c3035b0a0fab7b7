"""How far generated portraits are from rendered ones: the Fréchet distance of a frozen network's features."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..enhance import autocast
from ..gen.networks import Generator
from .composites import Portraits, studio_portraits
from .embedded import draw_portraits
from .projected import Trunk, resized

NUM_MEASURED = 384  # portraits on each side of a distance


@torch.no_grad()
def pooled_features(images: Tensor, trunk: Trunk, *, view: int, batch: int = 32) -> NDArray[np.float64]:
    """Means and standard deviations over positions, [N, 2 C], of the last scale but one, seen at `view` pixels."""
    rows = []
    for part in torch.split(images.clamp(-1, 1), batch):
        views = resized(part, view).contiguous(memory_format=torch.channels_last)
        with autocast(views.device.type):
            deep = trunk(views)[-2].float()
        rows.append(torch.cat([deep.mean((2, 3)), deep.std((2, 3))], 1))
    return torch.cat(rows).double().cpu().numpy()


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """|mean difference|^2 + tr(A + B - 2 (A B)^1/2) of two sets of rows (Heusel et al. 2017, arXiv:1706.08500)."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


class Yardstick:
    """Distance of a generator from held-out portraits, and the floor: that between two halves of those."""

    def __init__(
        self, held_out: Portraits, pool: NDArray[np.uint8], trunk: Trunk, *, view: int, device: str = "cpu"
    ) -> None:
        rng = np.random.default_rng(0)
        halves = [studio_portraits(held_out.half(parity), pool, rng, batch=NUM_MEASURED) for parity in (0, 1)]
        self.trunk, self.view = trunk, view
        self.reference, other = (pooled_features(half.to(device), trunk, view=view) for half in halves)
        self.floor = frechet_distance(self.reference, other)

    def __call__(self, generator: Generator) -> float:
        images = draw_portraits(generator, NUM_MEASURED, seed=2)
        return frechet_distance(self.reference, pooled_features(images, self.trunk, view=self.view))
