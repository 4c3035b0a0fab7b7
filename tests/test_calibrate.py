"""The fit set of a calibration: known mattes, people kept apart, resumable, and the command line around it."""

import hashlib
import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from mattesmith import cli, enhance, filters
from mattesmith.enhance.matting.gca import GCA
from mattesmith.filters.calibration import Calibration, Term, from_json
from mattesmith.finetune.charts import Line, save_chart, ticks
from mattesmith.gen import save_network
from mattesmith.gen.networks import Generator
from mattesmith.studio.calibrate import Judges, calibrate, known_pictures, write_calibration

SIZE = 16


class Matting:
    """Brightness, smoothed by `blur` pixels: wrong wherever the background is bright."""

    def __init__(self, name: str, blur: int) -> None:
        self.card, self.blur, self.needs_trimap = {"sha256": name}, blur, False

    def __call__(self, image: Tensor) -> Tensor:
        grey = ((image.mean(1, keepdim=True) + 1) / 2).clamp(0, 1)
        return torch.nn.functional.avg_pool2d(grey, 2 * self.blur + 1, 1, self.blur, count_include_pad=False)


class Perceptual:
    def features(self, image: Tensor) -> list[Tensor]:
        return [image.mean((2, 3))]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).square().sum(1)


@pytest.fixture(scope="module")
def judges() -> Judges:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator = Generator(resolution=SIZE, channels={4: 8, 8: 8, 16: 8}, z_dim=4, w_dim=4, num_mapping_layers=1)
    generator.card = {"sha256": "g"}
    made: Any = (generator.requires_grad_(False), Matting("m", 0), Matting("s", 1), Perceptual())
    return Judges(*made)


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen people a split: white squares of different sizes."""
    folder = tmp_path_factory.mktemp("renders")
    for split in ("val", "test"):
        (folder / split).mkdir()
        for number in range(15):
            alpha = np.zeros((SIZE, SIZE), np.uint8)
            alpha[4:, 3 : 6 + number % 8] = 255
            stem = folder / split / f"{number:06d}"
            Image.new("RGB", (SIZE, SIZE), "white").save(f"{stem}.foreground.png")
            for name in ("alpha", "hair"):
                Image.fromarray(alpha).save(f"{stem}.{name}.png")
            stem.with_suffix(".json").write_text("{}")
    return folder


def test_pictures_follow_from_their_number_and_show_everybody_in_turn(renders: Path) -> None:
    pictures = list(known_pictures(renders, num=40, size=SIZE, seed=0))
    assert len({known.identity for known in pictures[:30]}) == 30
    assert [known.identity for known in pictures[30:]] == [known.identity for known in pictures[:10]]
    again = list(known_pictures(renders, num=12, size=SIZE, seed=0))[11]
    assert torch.equal(again.image, pictures[11].image) and torch.equal(again.alpha, pictures[11].alpha)
    for known in pictures:
        assert known.image.shape == (3, SIZE, SIZE) and known.image.abs().max() <= 1
        assert known.alpha.min() >= 0 and known.alpha.max() <= 1 and known.alpha.mean() > 0.1


def test_nobody_stands_in_both_halves_and_the_error_is_of_the_held_out_one(
    renders: Path, judges: Judges, tmp_path: Path
) -> None:
    calibration, held = calibrate(renders, judges, tmp_path / "log" / "a.jsonl", num=60, invert_steps=0)
    people = {one.identity for one in held}
    rows = [json.loads(line) for line in (tmp_path / "log" / "a.jsonl").read_text().splitlines()[1:]]
    fitted = [row for row in rows if row["identity"] not in people]
    assert all(name.startswith("test/") for name in people)
    assert len(people) == 15 and len(held) == 30 and len(fitted) == 30
    assert calibration.fit["num_fitted"] == calibration.fit["num_held_out"] == 30
    assert calibration.networks == {"generator": "g", "matting": "m", "second": "s"}
    true = np.array([one.mad for one in held])
    expected = np.array([calibration.expected_mad(one.scores) for one in held])
    assert calibration.fit["relative_error"] == pytest.approx(np.abs(expected - true).mean() / true.mean())
    assert calibration.fit["composite.mean_true"] == pytest.approx(true.mean())

    out = tmp_path / "made" / "calibration.json"
    pictures = write_calibration(out, calibration, held)
    assert from_json(out.read_text(), name="x") == calibration
    assert [path.name for path in pictures] == ["calibration-reliability.png", "calibration-risk.png"]
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (720, 480)


def test_the_error_measured_is_that_of_the_matte(renders: Path, judges: Judges, tmp_path: Path) -> None:
    known = next(known_pictures(renders, num=1, size=SIZE, seed=0))
    perfect: Any = lambda image: known.alpha[None].expand(len(image), -1, -1, -1).clone()  # noqa: E731
    from mattesmith.studio.calibrate import measure, sample_of

    def flipped_back(image: Tensor) -> Tensor:
        mattes = perfect(image)
        mattes[len(mattes) // 2 :] = mattes[len(mattes) // 2 :].flip(-1)
        size = image.shape[-2:]
        return torch.nn.functional.interpolate(mattes, size, mode="bilinear")

    right: Any = SimpleNamespace(**judges._asdict() | {"matting": flipped_back})
    wrong: Any = SimpleNamespace(**judges._asdict() | {"matting": lambda image: torch.zeros_like(image[:, :1])})
    sample = sample_of(known, judges, 0)
    assert measure(known, sample, right, source="composite").mad < 20  # what a change of scale costs
    found = measure(known, sample, wrong, source="composite")
    assert found.mad == pytest.approx(1000 * float(known.alpha.mean())) and found.scores["coverage"] == 0


def test_a_stopped_run_ends_with_the_same_calibration(renders: Path, judges: Judges, tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"num": 40, "invert_steps": 2, "slots": 4}
    whole, held = calibrate(renders, judges, tmp_path / "whole.jsonl", **knobs)
    assert {one.source for one in held} == {"composite", "inverted"}
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 41
    (tmp_path / "cut.jsonl").write_text("".join(lines[:8]) + lines[8][:20])  # killed in a group, in a line
    again, _ = calibrate(renders, judges, tmp_path / "cut.jsonl", **knobs)
    assert again == whole
    with pytest.raises(ValueError, match="measured with other settings"):
        calibrate(renders, judges, tmp_path / "cut.jsonl", **knobs | {"num": 41})


# The command line


def known_calibration() -> Calibration:
    """Fits the embedded networks: e^2 times what stability makes of it."""
    networks = {name: network.card["sha256"] for name, network in embedded().items()}
    return Calibration(2.0, (Term("stability", (-9.0, 0.0), (-0.5, 0.5)),), networks, {}, "0")


def embedded() -> dict[str, Any]:
    from mattesmith.enhance import load_matting
    from mattesmith.gen import load_generator

    return {
        "generator": load_generator("default"),
        "matting": load_matting("default"),
        "second": load_matting("second"),
    }


def generate(out: Path, *words: str) -> Any:
    rest = ["--n", "2", "--steps", "0", "--slots", "2", "--workers", "1"]
    return CliRunner().invoke(cli.cli, ["generate", "--out", str(out), *rest, *words])


def calibrated_with(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `studio calibrate` binds its calibration to, told before anything is measured."""
    found: list[Judges] = []

    def measured(renders: Path, judges: Judges, log: Path, **knobs: Any) -> None:
        found.append(judges)
        raise ValueError("enough is known")

    monkeypatch.setattr("mattesmith.studio.calibrate.calibrate", measured)
    done = CliRunner().invoke(cli.cli, ["studio", "calibrate", *words])
    assert "enough is known" in str(done.exception), done.output
    return found[0].sums()


def test_a_generator_whose_file_holds_no_discriminator_is_calibrated(
    judges: Judges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {"name": "tiny", "licence": "none", "source": "a test"}
    save_network(tmp_path / "tiny.safetensors", judges.generator, card)
    sums = calibrated_with(["--generator", str(tmp_path / "tiny.safetensors")], monkeypatch)
    assert sums["generator"] == hashlib.sha256((tmp_path / "tiny.safetensors").read_bytes()).hexdigest()


def test_a_calibration_is_bound_to_the_trimap_network_where_the_matting_network_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(GCA().state_dict(), tmp_path / "gca.pth")
    gca = ["--matting", f"gca:{tmp_path / 'gca.pth'}"]
    plain, again, other = (calibrated_with(words, monkeypatch) for words in ([], gca, [*gca, "--trimap", "second"]))
    assert "trimap" not in plain and plain["matting"] == again["trimap"] and plain["second"] == other["trimap"]
    refused = CliRunner().invoke(cli.cli, ["studio", "calibrate", "--trimap", "second"])
    assert refused.exit_code == 2 and "--matting default takes no trimap" in refused.output


def test_a_limit_without_a_calibration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "find_calibration", lambda networks: None)
    done = generate(tmp_path / "out", "--max-expected-mad", "5")
    assert done.exit_code == 2 and "--max-expected-mad 5: uncalibrated" in done.output
    assert not (tmp_path / "out").exists()


def test_generate_stores_the_expected_error_and_what_it_follows_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = known_calibration()
    monkeypatch.setattr(filters, "find_calibration", lambda sums: calibration if calibration.fits(sums) else None)
    done = generate(tmp_path / "out")
    assert done.exit_code == 0, done.output
    for _, row in pd.read_parquet(tmp_path / "out" / "00000.parquet").iterrows():
        assert row["expected_mad"] == calibration.expected_mad({"stability": row["scores.stability"]})
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["calibration"] == hashlib.sha256(calibration.to_json().encode()).hexdigest()
    assert config["max_expected_mad"] is None
    shown = CliRunner().invoke(cli.cli, ["stats", str(tmp_path / "out")])
    assert "expected_mad" in shown.output and "uncalibrated" not in shown.output
    refused = generate(tmp_path / "out", "--max-expected-mad", "100")
    assert "max_expected_mad: None / 100.0" in str(refused.exception)  # another dataset


def test_the_limit_drops_what_is_expected_to_be_worse(judges: Judges, monkeypatch: pytest.MonkeyPatch) -> None:
    good = dict.fromkeys(("certainty", "agreement", "agreement_before", "recomposition", "realism", "drift"), 0.0)
    good |= {"components": 0.0, "holes": 0.0, "border_contact": 0.0, "coverage": 0.4, "soft_share": 0.1, "finite": 1.0}
    stabilities = iter([0.1, 0.0])
    losses = {"rejected": 0.0, "outside_before": 0.0, "outside_after": 0.0}
    monkeypatch.setattr(
        enhance, "enhance",
        lambda samples, *networks, **knobs: (
            enhance.Enhanced(one, one.ws, (), one.image, one.image[:1], one.image, losses, 0) for one in samples
        ),
    )  # fmt: skip
    monkeypatch.setattr(filters, "score", lambda *networks: good | {"stability": next(stabilities)})
    calibration = known_calibration()
    pipeline = cli.Pipeline(
        generator="default", discriminator=None, matting="default", trimap=None,
        perceptual="embedded", device="cpu", seed=0, psi=0.7, slots=1,
        enhancement={}, encoding={}, out=Path(), calibration=calibration, max_expected_mad=5.0,
    )  # fmt: skip
    first, second = islice(pipeline.portraits(judges._asdict(), 0), 2)
    assert first.dropped_by == "expected_mad" and second.dropped_by is None
    assert first.expected_mad > 5 >= second.expected_mad == calibration.expected_mad({"stability": 0.0})


# Charts


def test_ticks_are_round_and_span_everything() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3, 3)[0] <= 3 <= ticks(3, 3)[-1] and ticks(-7, 12)[0] <= -7 and ticks(-7, 12)[-1] >= 12


def test_a_chart_draws_its_lines_where_they_belong(tmp_path: Path) -> None:
    lines = [Line("a", [0, 1], [0, 1]), Line("b", [0.5], [float("nan")])]
    save_chart(tmp_path / "a.png", lines, title="t", x_label="x", y_label="y", from_zero=True)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = (pixels[50:420, 80:690, 2] - pixels[50:420, 80:690, 0]) > 80
    rows, columns = np.nonzero(blue)
    assert np.corrcoef(rows, columns)[0, 1] < -0.999  # it rises
    with pytest.raises(ValueError, match="at least one point"):
        save_chart(tmp_path / "b.png", [Line("b", [0.5], [float("nan")])], title="t", x_label="x", y_label="y")
