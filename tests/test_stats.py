"""Promises of the statistics: right numbers, a page that stands alone and believes nothing, corrupt shards named."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mattesmith.enhance import Enhanced
from mattesmith.filters import Scored
from mattesmith.gen import Latents, Sample
from mattesmith.shards import (
    contact_sheet,
    finish,
    open_dataset,
    read_statistics,
    report,
    tables,
)
from mattesmith.shards.members import samples_of
from mattesmith.shards.report import default_ranking
from mattesmith.shards.sheet import checkerboard, composite, tile
from mattesmith.shards.stats import changes, fates, is_calibrated, pairs, quantiles
from mattesmith.shards.writer import parquet_of

HOSTILE = "</script><script>alert(1)</script>'\"&"
CONFIG = {"n": 5}


def portraits(shard: int, reason: str = HOSTILE, side: int = 8) -> Iterator[Scored]:
    """Every third candidate is dropped; `certainty` counts the candidates, `agreement` halves."""
    for candidate in range(100):
        image = torch.full((3, side, side), 0.5)
        alpha = torch.zeros(1, side, side)
        alpha[:, 2:6, 2:6] = 1
        sample = Sample(Latents(1, shard, candidate, torch.zeros(4)), torch.zeros(2, 4), (), image)
        losses = {"entropy_before": 0.5, "entropy_after": 0.25 if candidate else 0.75}
        enhanced = Enhanced(sample, sample.ws, (), image, alpha, image, losses, 3)
        scores = {"certainty": float(candidate), "agreement": 0.1, "agreement_before": 0.2, HOSTILE: 0.5}
        yield Scored(enhanced, scores, -1.0, reason if candidate % 3 == 1 else None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("made") / "dataset", portraits, n=5, shard_size=2, config=CONFIG)


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / "dataset"))


def test_kept_and_dropped_are_counted_by_reason(out: Path) -> None:
    statistics = read_statistics(out)
    assert statistics.problems == []
    table = fates(statistics.candidates)
    assert table["candidates"].to_dict() == {"kept": 5, HOSTILE: 2}
    assert table["share"].tolist() == pytest.approx([5 / 7, 2 / 7])
    assert list(table.index) == ["kept", HOSTILE]


def test_an_expected_error_is_shown_and_ranked_by_where_there_is_one(out: Path) -> None:
    candidates = read_statistics(out).candidates
    assert not is_calibrated(candidates) and "expected_mad" not in quantiles(candidates).index
    assert default_ranking(candidates) == "scores.agreement"
    known = candidates.assign(expected_mad=2.0)
    assert quantiles(known).loc["expected_mad", ("kept", 0.5)] == 2.0
    assert default_ranking(known) == "expected_mad"
    assert not is_calibrated(candidates.drop(columns="expected_mad"))  # made before there was one


def test_quantiles_stand_apart_for_kept_and_dropped(out: Path) -> None:
    table = quantiles(read_statistics(out).candidates)
    assert table.loc["scores.certainty", ("kept", 0.5)] == 0.0  # candidates 0, 2, 0, 2, 0
    assert table.loc["scores.certainty", ("dropped", 0.5)] == 1.0
    assert table.loc["steps", ("kept", 0.95)] == 3.0


def test_nothing_dropped_has_no_column(out: Path) -> None:
    candidates = read_statistics(out).candidates
    kept = candidates[candidates["fate"] == "kept"]
    assert set(quantiles(kept).columns.get_level_values(0)) == {"kept"}


def test_before_and_after_are_paired_by_name_and_compared(out: Path) -> None:
    candidates = read_statistics(out).candidates
    assert pairs(candidates) == [
        ("losses.entropy_before", "losses.entropy_after"),
        ("scores.agreement_before", "scores.agreement"),
    ]
    table = changes(candidates)
    entropy = table.loc["losses.entropy"]
    assert (entropy["before"], entropy["candidates"]) == (0.5, 7)
    assert entropy["after"] == pytest.approx((3 * 0.75 + 4 * 0.25) / 7)
    assert entropy["fell"] == pytest.approx(4 / 7)
    assert table.loc["scores.agreement", "fell"] == 1.0


def test_values_that_are_not_finite_count_nowhere() -> None:
    candidates = pd.DataFrame({"fate": ["kept"] * 3, "steps": [1, 2, 3], "losses.entropy": [math.nan, math.inf, 2.0]})
    assert quantiles(candidates).loc["losses.entropy", ("kept", 0.5)] == 2.0


def test_a_corrupt_shard_is_named_and_the_others_are_reported(out: Path) -> None:
    parquet = out / "00001.parquet"
    parquet.write_bytes(parquet.read_bytes()[:-7])
    (out / "00002.tar").write_bytes(b"cut")
    statistics = read_statistics(out)
    assert {problem.shard for problem in statistics.problems} == {"00001.parquet", "00002.tar"}
    assert sorted(statistics.candidates["shard"].unique()) == [0, 2]
    page = report(out, statistics)
    assert "00001.parquet: has another SHA-256 than recorded" in page
    assert "00002.tar: its pictures cannot be shown" in page
    assert page.count("<img") > 0


def test_a_table_of_another_make_is_named(out: Path) -> None:
    content = parquet_of([{"candidate": 0, "key": "../../secret"}])
    sum_of = {"name": "00001.parquet", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (out / "00001.parquet").write_bytes(content)
    (out / "dataset.json").unlink()
    record = json.loads((out / "00001.json").read_text())
    (out / "00001.json").write_text(json.dumps(record | {"parquet": sum_of}))
    problems = [str(problem) for problem in read_statistics(out).problems]
    assert problems == ["00001.parquet: lacks the columns shard, dropped_by, steps; its candidates are not counted"]


@pytest.mark.parametrize("name", ["00001.tar", "00001.parquet", "00001.json"])
def test_a_missing_file_of_a_shard_is_named(out: Path, name: str) -> None:
    (out / name).unlink()
    statistics = read_statistics(out)
    assert [problem.shard for problem in statistics.problems] == [name]
    assert set(statistics.candidates["shard"]) >= {0, 2}


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a dataset"):
        read_statistics(tmp_path)


def test_an_empty_dataset_has_tables_and_a_page(tmp_path: Path) -> None:
    with open_dataset(tmp_path, {"n": 0}):
        finish(tmp_path, config={"n": 0}, n=0, networks=[])
    statistics = read_statistics(tmp_path)
    assert fates(statistics.candidates).empty
    assert list(tables(statistics)) == ["Quantiles"]
    assert "0 portraits kept of 0 candidates" in report(tmp_path, statistics)


# The page


class Page(HTMLParser):
    """Collects what a browser would see, and fails on what would run or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("href", "srcset")]
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, text: str) -> None:
        self.text += text


@pytest.fixture
def page(out: Path) -> Page:
    parsed = Page()
    parsed.feed(report(out, read_statistics(out)))
    return parsed


def test_a_hostile_name_is_shown_and_not_run(page: Page) -> None:
    assert HOSTILE in page.text
    assert f"scores.{HOSTILE}" in page.text


def test_the_page_needs_no_other_file(page: Page, out: Path) -> None:
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?:|url\(|@import", report(out, read_statistics(out)))
    image = Image.open(io.BytesIO(base64.b64decode(page.sources[0].partition(",")[2])))
    assert image.size == (32, 8)


def test_the_page_has_its_galleries_and_histograms(page: Page) -> None:
    for title in ("Best by scores.agreement", "Worst by scores.agreement", "Picked at random", "Kept and dropped"):
        assert title in page.text
    assert page.tags.count("img") == 15
    assert page.tags.count("svg") == 2  # certainty and entropy_after; the others never vary
    assert "steps: 3 in all" in page.text
    assert "71.4%" in page.text


def test_best_and_worst_follow_the_ranking(out: Path) -> None:
    text = report(out, read_statistics(out), rank_by="scores.certainty", num_shown=2)
    best, worst = text.index("Best by"), text.index("Worst by")
    captions = re.findall(r"<figcaption>(\d{10}), scores.certainty (\S+)</figcaption>", text[best:])
    assert captions[:2] == [("0000000000", "0"), ("0000100000", "0")]
    assert captions[2:4] == [("0000100001", "2"), ("0000000001", "2")]
    assert best < worst


def test_the_same_dataset_gives_the_same_page(out: Path) -> None:
    assert report(out, read_statistics(out)) == report(out, read_statistics(out))


# Pictures


def test_a_composite_gives_every_level_back_where_alpha_is_0_or_1() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    for alpha in (0, 255):
        layers = (levels, levels[::-1])
        found = composite(layers[0], np.full((16, 16), alpha, np.uint8), layers[1])
        assert np.array_equal(found, layers[alpha == 0])


def test_half_of_white_over_black_is_188_not_128() -> None:
    white, black = np.full((1, 1, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)
    assert composite(white, np.array([[128]], np.uint8), black).tolist() == [[[188, 188, 188]]]
    assert composite(white, np.array([[255]], np.uint8), black).tolist() == [[[255, 255, 255]]]
    assert composite(white, np.array([[0]], np.uint8), black).tolist() == [[[0, 0, 0]]]


def test_a_tile_shows_image_matte_checkerboard_and_colour(out: Path) -> None:
    picture = tile(next(samples_of(out / "00000.tar"))[1], colour=(9, 8, 7))
    assert picture.shape == (8, 32, 3)
    assert picture[0, 0].tolist() == [191, 191, 191]
    assert picture[0, 8].tolist() == [0, 0, 0]
    assert picture[3, 11].tolist() == [255, 255, 255]
    assert np.array_equal(picture[0, 16], checkerboard(8, 8)[0, 0])
    assert picture[0, 24].tolist() == [9, 8, 7]
    assert picture[3, 19].tolist() == picture[3, 27].tolist() == [191, 191, 191]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_contact_sheet_has_room_for_every_portrait(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    assert contact_sheet(out, path, num_columns=2) == []
    assert size_of(path) == (2 * 36 + 4, 3 * 12 + 4)
    assert contact_sheet(out, path, num_portraits=1, num_columns=2) == []
    assert size_of(path) == (40, 16)


def test_a_contact_sheet_names_a_corrupt_shard_and_shows_the_others(out: Path, tmp_path: Path) -> None:
    (out / "00001.tar").write_bytes(b"cut")
    assert [problem.shard for problem in contact_sheet(out, tmp_path / "sheet.png", num_columns=1)] == ["00001.tar"]
    assert size_of(tmp_path / "sheet.png") == (40, 3 * 12 + 4)


def test_a_contact_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with open_dataset(tmp_path / "out", {"n": 0}):
        finish(tmp_path / "out", config={"n": 0}, n=0, networks=[])
    with pytest.raises(ValueError, match="no portraits"):
        contact_sheet(tmp_path / "out", tmp_path / "sheet.png")
