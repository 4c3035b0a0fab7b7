"""Principal codes: whitened coefficients of a small copy of a portrait, standard normal latents in all but their shape.

A generator that is also asked to draw a real portrait from its code starts with as many people as there are renders,
and cannot fall back to one face; from normal latents it draws between them. An anchor for the adversarial training.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 24  # px of the small copy


class PrincipalCodes(nn.Module):
    """Portraits -> codes of `dim` numbers, each of mean 0 and variance 1 over the portraits it was fitted on."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3 * SIDE * SIDE))
        self.register_buffer("directions", torch.zeros(3 * SIDE * SIDE, dim))

    def fit(self, portraits: Tensor) -> None:
        """Takes the principal directions of portraits [N, 3, S, S], N well above `dim`."""
        small = shrink(portraits)
        self.mean.copy_(small.mean(0))
        centred = small - self.mean
        _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
        dim = self.directions.shape[1]
        deviation = spread[:dim] / len(portraits) ** 0.5
        self.directions.copy_(directions[:dim].T / deviation.clamp_min(1e-3))

    def forward(self, portraits: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> [N, dim]."""
        codes: Tensor = (shrink(portraits) - self.mean) @ self.directions
        return codes


def shrink(portraits: Tensor) -> Tensor:
    """[N, 3, S, S] -> [N, 3 SIDE SIDE]."""
    return F.interpolate(portraits, (SIDE, SIDE), mode="area").flatten(1)
