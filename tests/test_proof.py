"""The proof's numbers are right where the answer is known, and its machinery makes, trains, measures and goes on."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from mattesmith import shards
from mattesmith.enhance import Enhanced, final_matte, foreground_method, load_matting
from mattesmith.filters import Scored
from mattesmith.finetune.snapshots import load_state
from mattesmith.gen import Latents, Sample

SIDE = 32
PEOPLE = {"train": 40, "val": 3, "test": 4}
SOURCE = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1), nn.Sigmoid())
"""


@pytest.fixture(autouse=True)
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench's modules, and a tiny student, can be imported by name, here and in new processes."""
    (tmp_path / "tiny_student.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    torch.set_num_threads(1)


def module(name: str) -> ModuleType:
    return importlib.import_module(f"proof{name}")


@pytest.fixture
def renders(tmp_path: Path) -> Path:
    """People of one brightness each, with soft hair above."""
    for split, num in PEOPLE.items():
        folder = tmp_path / "renders" / split
        folder.mkdir(parents=True)
        for identity in range(num):
            alpha = np.zeros((SIDE, SIDE), np.uint8)
            alpha[8:, 8:24], alpha[4:8, 8:24] = 255, 128
            hair = np.where(np.arange(SIDE)[:, None] < 12, alpha, 0).astype(np.uint8)
            colour = np.full((SIDE, SIDE, 3), 100 + 3 * identity, np.uint8)
            for name, pixels in (("foreground", colour), ("alpha", alpha), ("hair", hair)):
                Image.fromarray(pixels).save(folder / f"{identity:06d}.{name}.png")
            person = {"age": 30, "gender": 1, "skin": {"tone": 0.5}, "hair": {"style": "bob"}, "yaw": 3}
            record = {"identity": identity, "light": "soft", "attributes": person}
            (folder / f"{identity:06d}.json").write_text(json.dumps(record))
    return tmp_path / "renders"


def made(out: Path, n: int, settings: dict, *, workers: int, device: str, steps: int | None = None) -> None:
    """In place of the real pipeline: grey people, the later the more stable."""

    def portraits(shard: int) -> Iterator[Scored]:
        for candidate in range(n):
            alpha = torch.zeros(1, SIDE, SIDE)
            alpha[:, 8:, 8:24] = 1
            image = torch.full((3, SIDE, SIDE), 0.01 * candidate)
            sample = Sample(Latents(1, shard, candidate, torch.zeros(4)), torch.zeros(2, 4), (), image)
            yield Scored(
                Enhanced(sample, sample.ws, (), image, alpha, image, {}, 1), {"stability": -candidate}, -1, None
            )

    if (out / "dataset.json").exists():
        return
    with shards.open_dataset(out, {"n": n, "shard_size": n, "steps": steps}):
        shards.write_shard(out, 0, n, portraits(0), max_candidates=n)
        shards.finish(out, config={"n": n, "shard_size": n, "steps": steps}, n=n, networks=[{"name": "fake"}])


# Numbers


def column(*people: float, seeds: tuple[float, ...] = (0.0,)) -> np.ndarray:
    """[seeds, people, columns] whose SAD is person + seed."""
    numbers = module("_numbers")
    values = np.ones((len(seeds), len(people), len(numbers.COLUMNS)))
    values[:, :, numbers.SAD] = np.array(seeds)[:, None] + np.array(people)
    return values


def test_a_common_factor_is_found_exactly_though_the_means_cannot_be_told_apart() -> None:
    numbers = module("_numbers")
    people = np.random.default_rng(0).uniform(1, 9, 30)
    before = column(*people, seeds=(0.0, 0.5, 1.0))
    after = before.copy()
    after[:, :, numbers.SAD] *= 0.8
    found = numbers.Numbers({"b": before, "f": after})
    change = found.change("f", "b")
    assert [change.value, change.low, change.high] == pytest.approx([-0.2] * 3)
    assert not found.mean("f", numbers.SAD).is_apart_from(found.mean("b", numbers.SAD))
    (line,) = numbers.verdicts(found, ("b", "f"))
    assert line == ("Is f at least 15 % better than b in SAD, their intervals apart? no: -20.0 % [-20.0, -20.0], "
                    "the intervals are not apart.")  # fmt: skip


def test_a_clear_gain_is_called_one_and_a_loss_too() -> None:
    numbers = module("_numbers")
    found = numbers.Numbers({"a": column(4, 4), "c": column(2, 2), "e": column(3, 3), "f": column(1, 1)})
    answers = [line.partition("? ")[2].partition(":")[0] for line in numbers.verdicts(found, "acef")]
    assert answers == ["yes", "no, it is worse", "yes"]
    cells = [cell.strip() for cell in numbers.changes(found, dict.fromkeys("acef", ""))[-1].split("|")[1:5]]
    assert cells == ["f", "-75.0 % [-75.0, -75.0]", "", "-66.7 % [-66.7, -66.7]"]  # there is no b


def test_intervals_hold_the_spread_of_people_and_of_seeds() -> None:
    numbers = module("_numbers")
    people = numbers.Numbers({"a": column(*[0.0, 1.0] * 200)}).mean("a", numbers.SAD)
    assert people.value == 0.5  # 1.96 standard errors of 0.025 to both sides
    assert [people.low, people.high] == pytest.approx([0.451, 0.549], abs=0.004)
    seeds = numbers.Numbers({"a": column(5, 5, seeds=(-1, 0, 1))}).mean("a", numbers.SAD)
    assert (seeds.value, seeds.low, seeds.high) == (5, 4, 6)  # one draw in 27 holds the lowest seed three times


def test_pictures_of_a_person_are_averaged_and_missing_regions_do_not_count(tmp_path: Path) -> None:
    numbers = module("_numbers")
    whole = {"mse/whole": 0.001, "grad/whole": 1.0, "conn/whole": 1.0, "sad/unknown": 1.0}
    found = {"0": whole | {"sad/whole": 1.0, "mad/hair": 0.5}, "1": whole | {"sad/whole": 3.0},
             "2": whole | {"sad/whole": 6.0}}  # fmt: skip
    (tmp_path / "0.json").write_text(json.dumps(found))
    values = numbers.read_values([tmp_path / "0.json"], {"0": "anna", "1": "anna", "2": "ben"})
    assert values.shape == (1, 2, 6) and values[0, :, 0].tolist() == [2, 6] and values[0, 0, 5] == 500
    assert np.isnan(values[0, 1, 5]) and values[0, 0, 1] == pytest.approx(1)
    mean = numbers.Numbers({"a": values}, num_draws=50)
    assert mean.means["a"][0, 5] == 500 and mean.means["a"][0, 0] == 4
    assert numbers.plain({"a": values})["a"][0][1][5] is None
    with pytest.raises(ValueError, match="measured 3 pictures, the test set has 1"):
        numbers.read_values([tmp_path / "0.json"], {"0": "anna"})


# Material


def test_labelled_people_are_new_to_the_reference_and_nobody_is_in_two_sets() -> None:
    material = module("_material")
    keys = tuple(f"{i:06d}" for i in range(20))
    labelled = material.labelled_people(keys, 6)
    exact = material.other_people(keys, {int(key) for key in labelled}, 14)
    assert all(int(key) % 2 for key in labelled) and not set(labelled) & set(exact)
    assert (len(set(labelled)), len(set(exact))) == (6, 14)
    more = tuple(f"{i:06d}" for i in range(40))  # people rendered later change neither set
    assert material.labelled_people(more, 6) == labelled
    assert material.other_people(more, {int(key) for key in labelled}, 14) == exact
    with pytest.raises(ValueError, match=r"11 labelled .* 10 odd of 20; render more, or lower"):
        material.labelled_people(keys, 11)
    with pytest.raises(ValueError, match=r"15 portraits .* 14 of 20; render more, or lower"):
        material.other_people(keys, {int(key) for key in labelled}, 15)


def test_without_a_calibration_only_other_scores_can_select() -> None:
    material = module("_material")
    unknown = dict.fromkeys(("generator", "matting", "second"), "0")
    assert material.calibration_sum(unknown, "stability") == "uncalibrated"
    with pytest.raises(ValueError, match=r"no calibration .* studio calibrate") as error:
        material.calibration_sum(unknown, "expected_mad")
    assert "\n" not in str(error.value)


# All of it


def run(tmp_path: Path, renders: Path, **options: object) -> str:
    chosen = {"state": tmp_path / "proof", "renders": renders, "labelled": 12, "n": 16, "exact": 6, "by": "stability",
              "within": "", "keep-quantile": 0.5, "real-share": 0.5, "labelled-backgrounds": "new",
              "size": SIDE, "validation": 2, "test": 0, "arms": "abcdefg", "seeds": 1,
              "network": "tiny_student:network",
              "start-steps": 3, "steps": 2, "batch": 4, "json": tmp_path / "proof.json",
              "report": tmp_path / "proof.md"}  # fmt: skip
    words = [word for name, value in (chosen | options).items() for word in (f"--{name}", str(value))]
    done = CliRunner().invoke(module("").main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_every_arm_is_made_trained_measured_and_told(
    tmp_path: Path, renders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material, training = module("_material"), module("_training")
    monkeypatch.setattr(material, "generate", made)
    trained = []

    def in_this_process(jobs: list, *, num_processes: int) -> None:
        waiting = [job for job in jobs if not job.measured.exists()]
        trained.extend(job.name for job in waiting)
        for job in waiting:
            training.train_and_measure(job)

    monkeypatch.setattr(training, "run_jobs", in_this_process)
    said = run(tmp_path, renders)
    assert trained == [f"{arm}, seed 0" for arm in "abcdefg"]
    report = (tmp_path / "proof.md").read_text()
    assert "Is f at least 15 % better than b" in report and report.count("\n| ") == 2 + 9 + 6
    assert str(tmp_path.resolve()) not in report.replace(str(tmp_path), "")
    content = json.loads((tmp_path / "proof.json").read_text())
    assert np.shape(content["values"]["f"]) == (1, 4, 6) and np.shape(content["values"]["default"]) == (1, 4, 6)

    # All generated arms have as many samples; the filter took the most stable, the others the first.
    keys = {name: shards.read_statistics(tmp_path / "proof/shards" / name).candidates for name in ("first", "best")}
    kept = {name: [int(i) for i in np.flatnonzero(table["key"] != "")] for name, table in keys.items()}
    assert kept == {"first": list(range(8)), "best": list(range(8, 16))}
    assert material.num_there(tmp_path / "proof/shards/raw") == 8
    assert "- g: 6 portraits." in report.splitlines()  # of as many people as were asked for

    # Each arm goes on from the start of its seed, with the same settings but for what its name says.
    jobs = {(job["arm"], job["seed"]): job for job in content["training"]}
    assert set(jobs) == {("a", 0)} | {(arm, 1000) for arm in "bcdefg"}
    differing = {name for arm in "cdefg" for name in jobs[arm, 1000] if jobs[arm, 1000][name] != jobs["b", 1000][name]}
    assert differing == {"arm", "originals"}
    cards = [json.loads(file.read_text()) for file in (tmp_path / "proof/trained").glob("f-0-????????.json")]
    start = next((tmp_path / "proof/trained").glob("a-0-????????.json"))
    assert cards[0]["continues"]["sha256"] == json.loads(start.read_text())["sha256"]

    # Run again, nothing is trained; other steps train the arms but not the start; other material is refused.
    trained.clear()
    assert run(tmp_path, renders).rstrip().endswith(said.rstrip()[-500:]) and not trained
    run(tmp_path, renders, arms="b", steps=1)
    assert trained == ["b, seed 0"]

    # A run with another seed takes in the first one's numbers, and none that are not to be compared.
    trained.clear()
    once = {"with": tmp_path / "first.json", "json": tmp_path / "second.json"}
    (tmp_path / "proof.json").rename(tmp_path / "first.json")
    said = run(tmp_path, renders, **{"first-seed": 4, "arms": "b", "steps": 1}, **once)
    assert trained == ["a, seed 4", "b, seed 4"] and "2 seeds" in said
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "second"))
    both = module("_numbers").joined([second, first])
    assert np.array_equal(both["b"], [second["values"]["b"][0], first["values"]["b"][0]])
    for options, message in (
        ({"first-seed": 0}, "holds seed 0, too"),
        ({"first-seed": 4, "lr": 0.5}, r"other settings .*training.b.lr: 0.001 / 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, renders, **({"arms": "b", "steps": 1} | options), **once)
    for content in ("[]", "no JSON", '{"material": {}, "training": []}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match=r"other.json is no --json of bench/proof.py"):
            run(tmp_path, renders, **{"with": tmp_path / "other.json"})
    with pytest.raises(ValueError, match=r"other settings .*n: 16 / 18"):
        run(tmp_path, renders, n=18)
    with module("").alone(tmp_path / "proof"), pytest.raises(ValueError, match="another run is working on"):
        run(tmp_path, renders)


def test_what_no_arm_needs_is_not_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material = module("_material")
    asked = []
    monkeypatch.setattr(material, "generate", lambda out, n, settings, **_: asked.append((out.name, n)))
    settings = {"n": 20, "samples": 8, "enhance_steps": None}
    material.make_generated(tmp_path, settings, {"labelled", "exact"}, workers=1)
    assert not asked and material.missing_seconds(tmp_path, settings, {"labelled", "exact"}) == 0
    material.make_generated(tmp_path, settings, {"labelled", "raw"}, workers=1)
    assert asked == [("raw", 8)]
    raw, enhanced = material.SECONDS["raw"], material.SECONDS["enhanced"]
    assert material.missing_seconds(tmp_path, settings, {"raw", "best"}) == pytest.approx(8 * raw + 20 * enhanced)


def test_every_seed_has_a_start_and_arms_of_its_own() -> None:
    training = module("_training")
    jobs = training.plan(
        Path("x"), arms="bf", seeds=range(2), network=training.STUDENT, start_steps=3, steps=2, start_lr=0.01, lr=0.01,
        batch=4, size=SIDE, real_share=0.5,
    )  # fmt: skip
    starts = {job.seed: job.out for job in jobs if job.arm == "a"}
    assert [job.name for job in jobs] == [f"{arm}, seed {seed}" for arm in "abf" for seed in (0, 1)]
    assert all(job.start == starts[job.seed] for job in jobs if job.arm != "a") and len(set(starts.values())) == 2
    assert {job.settings["seed"] for job in jobs} == {0, 1, 1000, 1001}  # the start's composites do not come again
    assert len({job.out for job in jobs}) == 6


def test_without_foregrounds_the_labelled_portraits_keep_their_backgrounds_everywhere() -> None:
    training = module("_training")
    steps = {"start_steps": 3, "steps": 2, "start_lr": 0.01, "lr": 0.01, "batch": 4, "size": SIDE, "real_share": 0.5}
    plans = [
        {job.arm: job for job in training.plan(
            Path("x"), arms="bf", seeds=[0], network=training.STUDENT, labelled_backgrounds=which, **steps
        )} for which in ("new", "own")
    ]  # fmt: skip
    shares = [[jobs[arm].settings["originals"] for arm in "abf"] for jobs in plans]
    assert shares == [[0.2, 0.2, 0.2], [1.0, 1.0, 0.2]]
    assert [{jobs[arm].settings["real"].name for arm in "bf"} for jobs in plans] == [{"labelled"}, {"labelled-own"}]
    assert not {job.out for job in plans[0].values()} & {job.out for job in plans[1].values()}


def test_what_lies_halfway_has_the_foregrounds_or_the_mattes_too_that_the_pipeline_gives(tmp_path: Path) -> None:
    material = module("_material")
    pixels = np.random.default_rng(0).integers(256, size=(2, 64, 64, 3)).astype(np.uint8)
    for layer in ("image", "alpha", "fg"):
        (tmp_path / layer).mkdir()
        for name, picture in zip("01", pixels, strict=True):
            Image.fromarray(picture[:, :, 0] if layer == "alpha" else picture).save(tmp_path / layer / f"{name}.png")
    matting, estimate = load_matting("default"), foreground_method("fast")
    coloured = material.recoloured_portraits(tmp_path, ["0", "1"])
    matted = material.recoloured_portraits(tmp_path, ["0", "1"], matting=matting)
    for picture, (image, exact, first), (again, alpha, second) in zip(pixels, coloured, matted, strict=True):
        assert np.array_equal(((image + 1) * 127.5).round().permute(1, 2, 0).numpy(), picture)
        assert np.array_equal((exact[0] * 255).round().numpy(), picture[:, :, 0]) and torch.equal(image, again)
        assert torch.equal(alpha, final_matte(matting, image[None])[0]) and not torch.equal(alpha, exact)
        for matte, foreground in ((exact, first), (alpha, second)):
            assert torch.equal(foreground, estimate(image[None], matte[None])[0][0])


def test_the_student_gives_a_matte_and_every_weight_learns() -> None:
    network = module("_training").student()
    alpha = network(torch.zeros(1, 3, 64, 32))
    assert alpha.shape == (1, 1, 64, 32) and alpha.min() >= 0 and alpha.max() <= 1
    (network(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))) - 1).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_trainings_in_processes_wait_for_their_start_and_go_on_after_a_failure(
    tmp_path: Path, renders: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    material, training = module("_material"), module("_training")
    settings = {"size": SIDE, "labelled": 12, "exact": 8, "validation": 2, "test": 0}
    material.make_exact(tmp_path, renders, settings, {"labelled"})
    without = [material.files_of(tmp_path / "labelled-own" / layer).keys() for layer in ("image", "alpha", "fg")]
    assert [len(names) for names in without] == [12, 12, 0]
    assert not (tmp_path / "exact").exists()  # no arm needs others than the labelled people
    jobs = training.plan(
        tmp_path, arms="b", seeds=[0], network="tiny_student:network", start_steps=3, steps=2, start_lr=0.01,
        lr=0.01, batch=4, size=SIDE, real_share=0.5, readers=1,
    )  # fmt: skip
    (tmp_path / "labelled/image/00003.png").rename(tmp_path / "hidden.png")
    with pytest.raises(ValueError, match="training b, seed 0 ended with exit code 2"):
        training.run_jobs(jobs, num_processes=2)
    assert "error: training b, seed 0: " in capfd.readouterr().err
    before = jobs[0].measured.stat().st_mtime_ns
    (tmp_path / "hidden.png").rename(tmp_path / "labelled/image/00003.png")
    training.run_jobs(jobs, num_processes=2)
    assert jobs[0].measured.stat().st_mtime_ns == before  # what is measured is not trained again
    assert load_state(jobs[1].out.with_suffix(".state.pt"))["step"] == 2
    assert json.loads(jobs[1].measured.read_text()).keys() == material.identities(tmp_path / "test").keys()
