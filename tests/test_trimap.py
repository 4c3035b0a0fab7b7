"""Trimaps by hand."""

import pytest
import torch
from torch import Tensor

from mattesmith.enhance.trimap import trimap_from_alpha


def row(*values: float) -> Tensor:
    """One row of pixels as [1, 1, 1, W]."""
    return torch.tensor(values).view(1, 1, 1, -1)


def test_soft_pixels_grow_by_the_width() -> None:
    alpha = row(0, 0, 0, 0.5, 1, 1, 1)
    assert trimap_from_alpha(alpha, width=1).flatten().tolist() == [0, 0, 0.5, 0.5, 0.5, 1, 1]
    assert trimap_from_alpha(alpha, width=2).flatten().tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0.5, 1]


def test_width_0_only_thresholds() -> None:
    alpha = row(0, 0.05, 0.06, 0.94, 0.95, 1)
    assert trimap_from_alpha(alpha, width=0).flatten().tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_a_hard_edge_is_unknown_on_both_sides() -> None:
    assert trimap_from_alpha(row(0, 0, 0, 1, 1, 1), width=1).flatten().tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_the_border_of_the_picture_is_no_boundary() -> None:
    assert trimap_from_alpha(torch.ones(1, 1, 4, 4), width=3).unique().tolist() == [1]
    assert trimap_from_alpha(torch.zeros(1, 1, 4, 4), width=3).unique().tolist() == [0]


def test_it_grows_as_a_square_and_each_image_alone() -> None:
    alpha = torch.zeros(2, 1, 5, 5)
    alpha[0, 0, 2, 2] = 0.5
    trimap = trimap_from_alpha(alpha, width=1)
    assert trimap[0, 0, 1:4, 1:4].unique().tolist() == [0.5] and trimap.sum() == 9 * 0.5


def test_only_three_values_and_no_gradient() -> None:
    alpha = torch.rand(2, 1, 9, 9, requires_grad=True)
    trimap = trimap_from_alpha(alpha, width=1)
    assert set(trimap.unique().tolist()) <= {0, 0.5, 1} and not trimap.requires_grad


def test_a_negative_width_and_crossed_thresholds_are_named() -> None:
    with pytest.raises(ValueError, match="width must be 0 or more"):
        trimap_from_alpha(row(0, 1), width=-1)
    with pytest.raises(ValueError, match=r"low 0.6, high 0.4"):
        trimap_from_alpha(row(0, 1), width=1, low=0.6, high=0.4)
