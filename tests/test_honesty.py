"""Runs over other candidates count together, and nothing else does."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import torch

from mattesmith.shards.augment import gaussian

SETTINGS = {"preset": "p", "psi": 0.8, "seed": 1, "networks": {"matting": "0f"}}


@pytest.fixture
def honesty(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    return importlib.import_module("honesty")


def run(candidates: list[int], agreement: float) -> dict[str, Any]:
    rows = {name: [{"agreement": agreement}] * len(candidates) for name in ("original", "enhanced")}
    return {"settings": SETTINGS, "candidates": candidates, "steps": [3] * len(candidates), "rows": rows}


def test_candidates_of_several_runs_count_as_of_one(honesty: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(run([2, 3], 0.5)))
    whole = honesty.joined([run([0, 1], 0.25), honesty.read_run(tmp_path / "a.json", SETTINGS)])
    assert whole["candidates"] == [0, 1, 2, 3] and whole["steps"] == [3, 3, 3, 3]
    assert [row["agreement"] for row in whole["rows"]["enhanced"]] == [0.25, 0.25, 0.5, 0.5]


def test_other_settings_other_files_and_a_candidate_twice_are_refused(honesty: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="candidate 1 is in two runs; use another --first"):
        honesty.joined([run([0, 1], 0.25), run([1, 2], 0.5)])
    file = tmp_path / "a.json"
    file.write_text(json.dumps(run([2], 0.5)))
    with pytest.raises(click.UsageError, match=r"other settings .* psi: 0.8 / 1.0"):
        honesty.read_run(file, SETTINGS | {"psi": 1.0})
    with pytest.raises(click.UsageError, match=r"other settings .* measures: "):
        honesty.read_run(file, SETTINGS | {"measures": ["agreement"]})  # an earlier version's has fewer
    file.write_text("{}")
    with pytest.raises(click.UsageError, match=r"a.json is no --json of bench/honesty.py"):
        honesty.read_run(file, SETTINGS)


def test_a_blur_is_told_by_strands_and_detail_around_the_originals_soft_pixels(honesty: ModuleType) -> None:
    columns = torch.arange(64) / 64
    alpha = (columns * (columns.mul(64) % 4 < 2)).expand(1, 1, 64, 64)  # stripes of two pixels, ever more opaque
    image = (2 * alpha - 1).expand(1, 3, 64, 64)
    soft = honesty.strands.soft_pixels(alpha)
    assert soft.sum() == 64 * 30  # of 32 columns two are below 0.02; none is above 0.98
    sharp, blurred = (
        torch.stack(honesty.strands.sharpness(x, y, soft))
        for x, y in ((image, alpha), (gaussian(image, [1.5]), gaussian(alpha, [1.5])))
    )
    assert (blurred < 0.5 * sharp).all()
    assert torch.allclose(sharp[0], sharp[1], rtol=1e-4)  # the luma of a gray picture has the matte's range
