"""Metrics: equal to the field's own files on every case and region, and with known answers by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mattesmith.filters.connected import largest_part
from mattesmith.finetune.metrics import METRICS, conn, grad, hair_band, mad, measure, mse, regions_of, sad

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "metrics.json").read_text())["cases"]


def arrays(case: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(DATA / "metrics.npz") as stored:
        pred, true, trimap = (stored[f"{name}_{case['id']}"] for name in ("pred", "gt", "trimap"))
    return pred, true, trimap


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("region", ["unknown", "whole"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_every_metric_is_the_fields_own(case: dict, region: str, dtype: type) -> None:
    pred, true, trimap = arrays(case)
    mask = trimap == 128 if region == "unknown" else None
    mattes = pred.astype(dtype) / dtype(255), true.astype(dtype) / dtype(255), mask
    for name, golden in (("sad", "SAD"), ("mse", "MSE"), ("grad", "Grad"), ("conn", "Conn")):
        assert METRICS[name](*mattes) == pytest.approx(case[region][golden], rel=2e-5, abs=1e-9), name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_measured_together_they_are_the_same_and_carry_region_and_divisor(case: dict) -> None:
    pred, true, trimap = (array / 255 for array in arrays(case))
    unknown = np.round(trimap * 255) == 128
    found = measure(pred, true, {"whole": None, "unknown": unknown})
    assert len(found) == 10
    for one in found:
        mask = unknown if one.region == "unknown" else None
        assert one.value == METRICS[one.metric](pred, true, mask)
        assert one.num_pixels == case[one.region]["pixels"]
        assert one.divisor == (one.num_pixels if one.metric in ("mse", "mad") else 1000)


def test_mattes_of_torch_are_taken_as_they_are() -> None:
    pred, true = torch.zeros(4, 5), torch.full((4, 5), 0.5)
    assert sad(pred, true) == pytest.approx(10 / 1000)
    assert (mse(pred, true), mad(pred, true)) == (0.25, 0.5)
    assert mad(pred, true, np.eye(4, 5, dtype=bool)) == 0.5


def test_an_empty_region_sums_to_nothing_and_has_no_mean() -> None:
    pred, true, nowhere = np.zeros((4, 4)), np.ones((4, 4)), np.zeros((4, 4), bool)
    assert (sad(pred, true, nowhere), grad(pred, true, nowhere), conn(pred, true, nowhere)) == (0, 0, 0)
    assert np.isnan(mse(pred, true, nowhere)) and np.isnan(mad(pred, true, nowhere))
    assert {one.region for one in measure(pred, true, {"whole": None, "hair": nowhere})} == {"whole"}


@pytest.mark.parametrize(
    ("pred", "said"),
    [
        (np.zeros((4, 4), np.uint8), "divide levels by 255"),
        (np.full((4, 4), 255.0), "must lie in"),
        (np.full((4, 4), np.nan), "must lie in"),
        (np.zeros((4, 5)), "sizes must agree"),
        (np.zeros((1, 4, 4)), r"\[H, W\]"),
    ],
)
def test_what_is_no_matte_is_refused(pred: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sad(pred, np.zeros((4, 4)))


def test_a_mask_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="mask must be bool"):
        sad(np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 4)))


def test_of_equal_parts_the_first_in_column_order_is_the_largest() -> None:
    mask = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]], bool)
    assert np.argwhere(largest_part(mask)).tolist() == [[2, 0], [3, 0]]
    assert not largest_part(np.zeros((3, 3), bool)).any()
    corner = np.array([[1, 0, 0], [0, 1, 1]], bool)  # only a corner joins them: two parts
    assert largest_part(corner).sum() == 2


def test_a_detached_piece_costs_connectivity_by_its_height() -> None:
    true = np.zeros((5, 9))
    true[1:4, 1:5] = 1
    pred = true.copy()
    pred[2, 7] = 0.6  # connected at no level: phi is 1 - 0.6 in pred, 1 in the truth
    assert conn(pred, true) == pytest.approx(0.6 / 1000)
    pred[2, 7] = 0.1  # less than theta above its level
    assert conn(pred, true) == 0


def test_regions_hold_what_they_say() -> None:
    true = np.zeros((12, 12))
    true[:, 6:] = 1
    true[3, 5] = 0.5
    hair = np.zeros((12, 12))
    hair[3, 5] = 1
    found = regions_of(true, trimap_width=1, hair=hair)
    assert found["whole"] is None
    assert found["unknown"][0].tolist() == [column in (5, 6) for column in range(12)]
    assert found["unknown"][3].tolist() == [column in (4, 5, 6) for column in range(12)]
    assert np.argwhere(found["hair"]).tolist() == [[r, c] for r in range(1, 6) for c in range(3, 8)]
    assert "hair" not in regions_of(true, trimap_width=1)
    assert not hair_band(true, np.zeros((12, 12))).any()
