"""A selection is a whole dataset: the chosen portraits byte for byte, every candidate accounted for."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

from mattesmith import cli, shards
from mattesmith.enhance import Enhanced
from mattesmith.filters import Calibration, Scored
from mattesmith.filters.calibration import FLOOR, Term
from mattesmith.gen import Latents, Sample
from mattesmith.shards import by_condition, by_expected_mad, by_quantile, refilter
from mattesmith.shards import selection as module

COVERAGES = [[0.1, 0.5, 0.3], [0.7, 0.2, 0.6]]  # of the kept ones, in two shards
CONFIG = {"n": 6, "shard_size": 3, "seed": 1}


def portraits(shard: int) -> Iterator[Scored]:
    """Three kept ones; the second candidate is dropped."""
    for candidate, coverage in enumerate([COVERAGES[shard][0], 0.9, *COVERAGES[shard][1:]]):
        image = torch.full((3, 4, 4), coverage)
        sample = Sample(Latents(1, shard, candidate, torch.zeros(4)), torch.zeros(2, 4), (), image)
        enhanced = Enhanced(sample, sample.ws, (), image, image[:1], image, {"entropy_after": 0.5}, 1)
        scores = {"coverage": coverage, "holes": 0.0}
        yield Scored(enhanced, scores, -1.0, "holes" if candidate == 1 else None)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    folder, card = tmp_path_factory.mktemp("parent") / "dataset", {"name": "tiny", "licence": "MIT"}
    return write_dataset(folder, portraits, n=6, shard_size=3, config=CONFIG, networks=[card])


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    return dict(sample for path in sorted(folder.glob("*.tar")) for sample in shards.samples_of(path))


def rows(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], ignore_index=True)


def test_the_chosen_portraits_are_copied_byte_for_byte_into_a_whole_dataset(parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = refilter(parent, out, by_condition("coverage > 0.25"))
    assert shards.verify(out) == []
    wanted = ["0000000001", "0000000002", "0000100000", "0000100002"]
    assert samples(out) == {key: samples(parent)[key] for key in wanted}
    assert [fields["count"] for fields in made["shards"]] == [3, 1]
    assert made["networks"] == [{"name": "tiny", "licence": "MIT"}]


def test_every_candidate_of_the_parent_is_accounted_for(parent: Path, tmp_path: Path) -> None:
    refilter(parent, tmp_path / "out", by_condition("coverage > 0.25"))
    before, after = rows(parent), rows(tmp_path / "out")
    assert after[["shard", "candidate"]].equals(before[["shard", "candidate"]])
    assert after["dropped_by"].tolist() == ["where", "holes", "", "", "", "holes", "where", ""]
    assert ((after["key"] == "") == (after["dropped_by"] != "")).all()
    fields = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert [shard["dropped"] for shard in fields["shards"]] == [{"holes": 1, "where": 1}, {"holes": 1, "where": 1}]


def test_the_report_shows_the_portraits_of_a_selection_though_their_keys_name_the_parents_shards(
    parent: Path, tmp_path: Path
) -> None:
    refilter(parent, tmp_path / "out", by_condition("coverage > 0.55"))
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["00000.tar"]
    statistics = shards.read_statistics(tmp_path / "out")
    page = shards.report(tmp_path / "out", statistics)
    assert statistics.problems == []
    assert {key: page.count(f"<figcaption>{key}") for key in samples(tmp_path / "out")} == {
        "0000100000": 1, "0000100002": 1,
    }  # fmt: skip


def test_parent_and_selection_stand_in_the_configuration(parent: Path, tmp_path: Path) -> None:
    refilter(parent, tmp_path / "out", by_quantile(0.5, "coverage"))
    config = shards.read_config(tmp_path / "out")
    assert config["selection"] == {"keep_quantile": 0.5, "by": "coverage"}
    assert config["parent"]["config"] == CONFIG
    assert config["parent"]["config_hash"] == shards.config_hash(CONFIG)


@pytest.mark.parametrize(
    ("share", "kept"), [(0.5, [0.1, 0.3, 0.2]), (1 / 6, [0.1]), (1.0, [*COVERAGES[0], *COVERAGES[1]])]
)
def test_a_quantile_keeps_exactly_its_share_of_the_lowest(
    parent: Path, tmp_path: Path, share: float, kept: list[float]
) -> None:
    refilter(parent, tmp_path / "out", by_quantile(share, "coverage"))
    table = rows(tmp_path / "out")
    assert table.loc[table["key"] != "", "scores.coverage"].tolist() == kept


def test_within_a_score_every_tenth_of_it_loses_its_own_worst() -> None:
    hair = np.repeat(np.arange(10.0), 4)  # ten tenths, error grows with it
    error = 10 * hair + np.tile([3.0, 0.0, 2.0, 1.0], 10)
    columns = {"soft_share": hair, "expected_mad": error}
    kept = by_quantile(0.5, "expected_mad", within="soft_share").chosen(columns)
    assert kept.reshape(10, 4).tolist() == [[False, True, False, True]] * 10
    assert by_quantile(0.5, "expected_mad").chosen(columns).tolist() == [True] * 20 + [False] * 20


@pytest.mark.parametrize(("num", "share"), [(40, 0.8), (23, 0.5), (7, 0.3), (3, 0.34)])
def test_within_a_score_keeps_exactly_its_share(num: int, share: float) -> None:
    draw = np.random.default_rng(num).random
    chosen = by_quantile(share, "error", within="hair").chosen({"error": draw(num), "hair": draw(num)})
    assert chosen.sum() == round(share * num)


def test_what_it_was_within_stands_in_the_configuration(parent: Path, tmp_path: Path) -> None:
    refilter(parent, tmp_path / "out", by_quantile(0.5, "coverage", within="holes"))
    wanted = {"keep_quantile": 0.5, "by": "coverage", "within": "holes"}
    assert shards.read_config(tmp_path / "out")["selection"] == wanted
    with pytest.raises(ValueError, match="no score 'hair'"):
        refilter(parent, tmp_path / "other", by_quantile(0.5, "coverage", within="hair"))


def test_a_selection_of_a_selection_keeps_its_history(parent: Path, tmp_path: Path) -> None:
    refilter(parent, tmp_path / "first", by_condition("coverage > 0.15"))
    refilter(tmp_path / "first", tmp_path / "second", by_condition("coverage < 0.55"))
    assert shards.verify(tmp_path / "second") == []
    assert list(samples(tmp_path / "second")) == ["0000000001", "0000000002", "0000100001"]
    config = shards.read_config(tmp_path / "second")
    assert config["parent"]["config"]["parent"]["config"] == CONFIG


def test_stopped_and_run_again_it_ends_with_the_same_bytes(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = by_condition("coverage > 0.25")
    refilter(parent, tmp_path / "whole", selection)
    copy = module.copy_shard

    def stopped(*words: object) -> dict[str, object]:
        if words[3] == 1:
            raise KeyboardInterrupt
        return copy(*words)

    monkeypatch.setattr(module, "copy_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        refilter(parent, tmp_path / "stopped", selection)
    numbers = []
    monkeypatch.setattr(module, "copy_shard", lambda *words: numbers.append(words[3]) or copy(*words))
    refilter(parent, tmp_path / "stopped", selection)
    assert numbers == [1]
    whole, again = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "stopped")
    )
    assert whole == again


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--where", "coverage > 2"], "fulfils --where 'coverage > 2'; loosen it"),
        (["--where", "coverege > 0.2"], "did you mean coverage"),
        (["--where", "coverage > "], "found its end"),
        (["--keep-quantile", "0.5"], "has no expected_mad"),
        (["--keep-quantile", "0.05", "--by", "coverage"], "fulfils --keep-quantile 0.05 --by coverage; loosen it"),
        (["--max-expected-mad", "4"], "has no expected_mad"),
        ([], "exactly one of"),
        (["--where", "holes < 1", "--max-expected-mad", "4"], "exactly one of"),
        (["--where", "holes < 1", "--within", "holes"], "--within belongs to --keep-quantile"),
    ],
)
def test_bad_selections_are_one_line_and_write_nothing(
    parent: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = CliRunner().invoke(cli.cli, ["refilter", str(parent), "--out", str(tmp_path / "out"), *words])
    assert done.exit_code != 0
    message = done.output if isinstance(done.exception, SystemExit) else str(done.exception)
    assert said in message and "\n" not in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_an_expected_error_selects_where_there_is_one() -> None:
    columns = {"expected_mad": np.array([1.0, 5.0, 4.0])}
    assert by_expected_mad(4.0).chosen(columns).tolist() == [True, False, True]
    known, unknown = (pa.table({"expected_mad": [1.0, value], "scores.holes": [0.0, 0.0]}) for value in (5.0, -1.0))
    assert module.columns_of(known)["expected_mad"].tolist() == [1, 5]
    assert module.columns_of(unknown).keys() == {"holes", "scores.holes"}


def test_no_condition_takes_an_uncalibrated_portrait_for_a_good_one(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uncalibrated"):
        refilter(parent, tmp_path / "out", by_condition("expected_mad < 5"))
    with pytest.raises(ValueError, match="uncalibrated"):
        refilter(parent, tmp_path / "out", by_expected_mad(5.0))


def test_a_calibration_fitted_later_selects_too_and_is_named(parent: Path, tmp_path: Path) -> None:
    """Its expected error is a hundred times the coverage."""
    knots = tuple(np.log(np.array([0.05, 0.8]) + FLOOR))
    sums = dict.fromkeys(("generator", "matting", "second"), "sum")
    later = Calibration(float(np.log(100)), (Term("coverage", knots, knots),), sums, {}, "0")
    made = refilter(parent, tmp_path / "out", by_expected_mad(35.0), calibration=later)
    assert samples(tmp_path / "out") == {
        key: files for key, files in samples(parent).items() if key in ("0000000000", "0000000002", "0000100001")
    }
    assert made["config"]["calibration"] == later.sha256
    assert set(rows(tmp_path / "out")["expected_mad"]) == {-1.0}  # as it was stored
    assert "calibration" not in refilter(parent, tmp_path / "other", by_quantile(0.5, "coverage"))["config"]


def test_sums_are_those_of_the_networks_with_a_role(parent: Path, tmp_path: Path) -> None:
    assert shards.sums_of(parent) == {} == shards.sums_of(tmp_path)
    (tmp_path / "dataset.json").write_text(
        json.dumps({"networks": [{"role": "second", "sha256": "ab"}, {"name": "x"}]})
    )
    assert shards.sums_of(tmp_path) == {"second": "ab"}


def test_a_calibration_is_looked_for_by_the_datasets_normalisations_and_a_selection_has_its_parents(
    tmp_path: Path, write_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [{"role": role, "sha256": role[0], "name": "x", "licence": "MIT"} for role in ("matting", "trimap")]
    config = CONFIG | {"normalisations": {"matting": "unit"}}
    write_dataset(tmp_path / "0", portraits, n=6, shard_size=3, config=config, networks=cards)
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(cli.filters, "find_calibration", asked.append)
    for number in range(2):
        words = [str(tmp_path / str(number)), "--out", str(tmp_path / str(number + 1)), "--where", "coverage > 0.25"]
        done = CliRunner().invoke(cli.cli, ["refilter", *words])
        assert done.exit_code == 0, done.output
    assert asked == [{"matting": "m@unit", "trimap": "t"}] * 2


def test_the_dataset_itself_an_unfinished_and_a_damaged_one_are_refused(parent: Path, tmp_path: Path) -> None:
    selection = by_condition("coverage > 0.25")
    with pytest.raises(ValueError, match="is the dataset itself"):
        refilter(parent, parent, selection)
    unfinished = Path(shutil.copytree(parent, tmp_path / "unfinished"))
    (unfinished / "dataset.json").unlink()
    with pytest.raises(ValueError, match="has not finished"):
        refilter(unfinished, tmp_path / "out", selection)
    damaged = Path(shutil.copytree(parent, tmp_path / "damaged"))
    content = bytearray((damaged / "00001.tar").read_bytes())
    content[700] ^= 1
    (damaged / "00001.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"00001\.tar: has another SHA-256"):
        refilter(damaged, tmp_path / "out", selection)
