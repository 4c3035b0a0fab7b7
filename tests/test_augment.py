"""Pictures are varied, and stay what their mattes say they are."""

import numpy as np
import torch

from mattesmith.enhance.light import blend, decoded
from mattesmith.shards.augment import softened


def test_what_is_softened_is_still_the_composite_of_its_matte() -> None:
    alpha = (torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    light, dark = torch.ones(64, 3, 32, 32) * 0.9, torch.ones(64, 3, 32, 32) * 0.1
    before = blend(light, alpha, dark)
    image, matte = softened(before, alpha, np.random.default_rng(0))
    told = (decoded(image) + 1) / 2  # where a resampled matte leaves [0, 1], both are clamped
    assert (told.clamp(0.1, 0.9) - (0.1 + 0.8 * matte)).abs().max() < 1e-3
    changed = (matte != alpha).flatten(1).any(1)
    assert 25 <= int(changed.sum()) <= 45  # of 64, 55 %
    assert torch.equal(image[~changed], before[~changed])
    assert all(
        torch.equal(a, b)
        for a, b in zip(softened(before, alpha, np.random.default_rng(0)), (image, matte), strict=True)
    )
