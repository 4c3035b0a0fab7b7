"""Do the shards make matting networks better? Measured on exact mattes of people whom no network has learnt from.

    python bench/proof.py --report docs/proof.md

A small network is trained from nothing on a few labelled portraits (a). From there it is trained on, in every arm
with the same steps, rate, batch and seeds: on more of the same (b), or with generated portraits in a part of every
batch, raw (c), enhanced (d), filtered (e), over new backgrounds (f), or with exact mattes of other people (g), the
upper bound. The labelled portraits stay in all arms and are varied in all of them alike, new backgrounds included,
since their foregrounds are known (or not, with --labelled-backgrounds own); so b is what a user without mattesmith
would do. What f lacks against g is told apart by three arms more, with --arms abcdefghijkl: the people of g with
foregrounds estimated from their exact mattes (h), with the reference network's mattes as well (i; it has learnt from
half of these people), and f without the filter (j). From i to j all that changes is who drew the pictures. Raw
portraits over new backgrounds (k) say what enhancement and filter are worth, f without the fifth over its own
backgrounds (l) what that is worth. Stopped in any way, the same command goes on. Seeds can be trained on several days
and machines: each run writes its --json, and a later one with another --first-seed takes the numbers in by --with.
"""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; float results depend on the number of threads

import click
import proof_material as material
import proof_numbers as numbers
import proof_training as training
import torch

from mattesmith import enhance as enhancing
from mattesmith import shards
from mattesmith.studio.benchmark import VERSION

CONTEXT = {"default": "the reference network itself", "second": "the second network"}  # on the same test set
OVERHEAD = 1.15  # of a training: validations, the measurement, a process' start
PREFACE = (
    "Written by `bench/proof.py`, whatever it says. A small network (by default a U-Net of 1.4 M parameters) is",
    "trained from nothing on a few labelled portraits (a), then on, in every arm with the same steps, rate, batch",
    "and seeds. The labelled portraits stay a part of every batch in all arms and are varied in all of them alike,",
    "so b is what one would do without generated portraits. All numbers are errors (less is better) on exact mattes",
    "of people, over backgrounds, that no network here has learnt from. The reference network and the generator",
    "were trained on people of the studio's train split, far more than the labelled ones: what generated portraits",
    "add is handed on from there. The reference has not learnt from the labelled people. The calibration that the",
    "filter may go by, a page of numbers, was fitted on the validation people. Brackets are 95 % intervals of a",
    "hierarchical, paired bootstrap over seeds and test identities.",
)


@click.command()
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), default=Path(".studio/proof"), show_default=True,
    help="Everything made lies here.",
)  # fmt: skip
@click.option(
    "--renders", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path(".studio/renders"),
    show_default=True, help="As `studio render` writes them.",
)  # fmt: skip
@click.option("--labelled", type=click.IntRange(10), default=200, show_default=True, help="Labelled portraits.")
@click.option("--n", type=click.IntRange(10), default=1600, show_default=True, help="Enhanced portraits to filter.")
@click.option(
    "--keep-quantile", type=click.FloatRange(0, 1, min_open=True), default=0.8, show_default=True,
    help="Share of them that the filter keeps; all generated arms get so many samples.",
)  # fmt: skip
@click.option("--exact", type=click.IntRange(1), help="People of the exact arms [default: as many as the samples].")
@click.option("--by", default="expected_mad", show_default=True, help="The score that the filter looks at.")
@click.option("--within", default="soft_share", show_default=True, help='As --within of refilter; "" for none.')
@click.option("--enhance-steps", type=click.IntRange(0), default=5, show_default=True, help="As --steps of generate.")
@click.option("--psi", type=click.FloatRange(0, 1.5), default=1.0, show_default=True, help="Truncation of the sampler.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True, help="Of the generated portraits.")
@click.option(
    "--shard-size", type=click.IntRange(1), default=125, show_default=True, help="Lost at most to a kill, a worker."
)
@click.option("--size", type=click.IntRange(32), default=128, show_default=True, help="Pixels, a multiple of 32.")
@click.option("--validation", type=click.IntRange(1, 128), default=128, show_default=True, help="Portraits, exact.")
@click.option("--test", type=click.IntRange(0), default=600, show_default=True, help="Portraits; 0: each person once.")
@click.option("--arms", default="abcdefg", show_default=True, help="Which; a is always among them.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Trainings an arm.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True, help="Of these trainings.")
@click.option(
    "--with", "earlier", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True,
    help="The --json of a run with other seeds, whose numbers count as well; may be given several times.",
)  # fmt: skip
@click.option("--network", default=training.STUDENT, show_default=True, help="The student, package.module:factory.")
@click.option("--start-steps", type=click.IntRange(1), default=3000, show_default=True, help="Of a.")
@click.option("--steps", type=click.IntRange(1), default=4000, show_default=True, help="Of every other arm.")
@click.option("--start-lr", type=click.FloatRange(0, 1, min_open=True), default=2e-3, show_default=True, help="Of a.")
@click.option(
    "--lr", type=click.FloatRange(0, 1, min_open=True), default=1e-3, show_default=True, help="Of every other arm."
)
@click.option("--batch", type=click.IntRange(2), default=8, show_default=True, help="Pictures a step.")
@click.option(
    "--real-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.25, show_default=True,
    help="Of every batch stays labelled: nobody throws away the portraits that he has.",
)  # fmt: skip
@click.option(
    "--labelled-backgrounds", type=click.Choice(["new", "own"]), default="own", show_default=True,
    help="new: the labelled portraits' foregrounds are known, and composited in every arm. own: as most real sets are, "
    "image and matte alone.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes, one thread each.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to compute."
)
@click.option(
    "--readers", type=click.IntRange(0), default=0, show_default=True,
    help="Processes that make each training's pictures; 0: the training itself. With --device cuda a core each.",
)  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write every number.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the result as Markdown.")
def main(
    state: Path, renders: Path, labelled: int, n: int, keep_quantile: float, exact: int | None, by: str,
    within: str, enhance_steps: int, psi: float, seed: int, shard_size: int, size: int,
    validation: int, test: int, arms: str, seeds: int, first_seed: int, earlier: tuple[Path, ...], network: str,
    start_steps: int, steps: int, start_lr: float, lr: float, batch: int, real_share: float,
    labelled_backgrounds: str, jobs: int, device: str, readers: int, json_file: Path | None, report: Path | None,
) -> None:  # fmt: skip
    """Make the material, train all arms, print the table."""
    torch.set_num_threads(1)
    if unknown := set(arms) - training.ARMS.keys():
        raise click.UsageError(
            f"--arms {arms}: unknown {', '.join(sorted(unknown))}; known are {', '.join(training.ARMS)}"
        )
    enhancing.check_device(device)
    sums, num_samples = material.network_sums(), round(keep_quantile * n)
    settings: dict[str, Any] = {
        "labelled": labelled, "n": n, "keep_quantile": keep_quantile, "by": by, "within": within or None,
        "samples": num_samples, "exact": exact or num_samples, "enhance_steps": enhance_steps, "psi": psi, "seed": seed,
        "shard_size": shard_size, "size": size, "validation": validation, "test": test, "networks": sums,
        "calibration": material.calibration_sum(sums, by), "benchmark": VERSION,
    }  # fmt: skip
    datasets = {training.ARMS[arm].dataset for arm in training.START + arms}
    with alone(state):
        material.agree(state, settings)
        material.make_exact(state, renders, settings, datasets)
        planned = training.plan(
            state, arms=arms, seeds=range(first_seed, first_seed + seeds), network=network, start_steps=start_steps,
            steps=steps, start_lr=start_lr, lr=lr, batch=batch, size=size, real_share=real_share,
            labelled_backgrounds=labelled_backgrounds, device=device, readers=readers,
        )  # fmt: skip
        content: dict[str, Any] = {"material": settings, "training": trainings(planned)}
        content["people"] = sorted(set(material.identities(state / "test").values()))
        runs = [numbers.read_run(file, content) for file in earlier]
        if device == "cpu":
            click.echo(estimate(state, settings, datasets, planned, num_processes=jobs))
        if set(arms) & set("hi"):
            material.make_halfway(state)
        material.make_generated(state, settings, datasets, workers=jobs, device=device)
        training.run_jobs(planned, num_processes=jobs)

        content["values"] = numbers.plain(measured(state, planned, sums, device=device))
        values = numbers.joined([content, *runs])
        words = {name: arm.words for name, arm in training.ARMS.items() if name in values}
        words |= {name: said for name, said in CONTEXT.items() if name in values}
        result = numbers.Numbers(values)
        answers = [f"- {line}" for line in numbers.verdicts(result, words)]
        said = described(state, settings, planned, num_seeds=len(values[training.START]))
        table, changes = numbers.table(result, words), numbers.changes(result, words)
        lines = [*said, "", *table, "", "Change of SAD:", "", *changes, "", *answers]
        click.echo("\n".join(lines))
        if json_file is not None:
            content["numbers"] = numbers.to_json(result, words)
            shards.publish_text(json_file, json.dumps(content, indent=1, allow_nan=False) + "\n")
        if report is not None:
            shards.publish_text(report, "\n".join(["# The proof", "", *PREFACE, "", *lines]) + "\n")


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Nobody else may work on this state meanwhile; the system drops the lock when the process dies."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run is working on {state}; wait for its end or use another --state") from error
        yield


def estimate(
    state: Path, settings: Mapping[str, Any], datasets: set[str], planned: list[training.Job], *, num_processes: int
) -> str:
    """What is still to be done, in minutes."""
    num_images = training.missing_images(planned)
    each = training.seconds_per_image(planned[0]) if num_images else 0.0
    generating = material.missing_seconds(state, settings, datasets)
    learning = num_images * each * OVERHEAD
    return (
        f"estimate: {generating / 60:.0f} CPU-minutes to generate, {learning / 60:.0f} to train "
        f"({num_images} pictures, {1000 * each:.0f} ms each), on {num_processes} free cores "
        f"{(generating + learning) / num_processes / 60:.0f} minutes"
    )


def measured(
    state: Path, planned: list[training.Job], sums: Mapping[str, str], *, device: str
) -> dict[str, numbers.Floats]:
    """Numbers of every arm, and of the embedded networks on the same test set."""
    who = material.identities(state / "test")
    files: dict[str, list[Path]] = {}
    for job in planned:
        files.setdefault(job.arm, []).append(job.measured)
    for name, role in (("default", "matting"), ("second", "second")):
        file = state / "trained" / f"{name}-{sums[role][:8]}.measured.json"
        if not file.exists():
            training.write_measured(file, name, state / "test", device=device)
        files[name] = [file]
    return {name: numbers.read_values(found, who) for name, found in files.items()}


def trainings(planned: list[training.Job]) -> list[dict[str, Any]]:
    """Settings of all of them, folders by name, as JSON has them."""
    found = [job.settings | {"arm": job.arm} for job in planned]
    return [{key: one.name if isinstance(one, Path) else one for key, one in each.items()} for each in found]


def described(state: Path, settings: Mapping[str, Any], planned: list[training.Job], *, num_seeds: int) -> list[str]:
    """Machine, command, and the sizes of everything, in lines of Markdown."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=material.ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    first, last = planned[0].settings, planned[-1].settings
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {os.uname().machine}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"commit {commit}:",
        "",
        f"    {shlex.join(['python', 'bench/proof.py', *sys.argv[1:]])}",
        "",
        f"- {settings['size']} px; {settings['labelled']} labelled portraits; "
        f"{material.num_files(state / 'test')} test portraits; {material.num_files(state / 'validation')} for "
        f"validation, from which the best snapshot of every arm is chosen; {num_seeds} seed{'s' * (num_seeds > 1)}.",
        f"- a: {first['steps']} steps of {first['batch']} pictures, rate {first['lr']:g}; every other arm from there "
        f"{last['steps']} steps, rate {last['lr']:g}, {last.get('real_share', 1):.0%} of every batch labelled.",
        "- The labelled portraits come "
        + (
            "mostly over new backgrounds, their foregrounds are known."
            if first["originals"] < 1
            else "over their own backgrounds, as if their foregrounds were not known."
        ),
    ]
    names = {
        "raw": "c and k", "first": "d and j", "best": "e, f and l", "exact": "g", "recoloured": "h", "relabelled": "i",
    }  # fmt: skip
    for name, arms in names.items():
        folder = state / "shards" / name
        if any(job.place == folder for job in planned):
            expected = material.mean_expected(folder)
            said = f", expected MAD x1000 {expected:.3g} on average" if expected >= 0 else ""
            lines.append(f"- {arms}: {material.num_there(folder)} portraits{said}.")
    if any(job.place.name == "best" for job in planned):
        within = f", of each tenth by {settings['within']}," if settings["within"] else ""
        lines.append(f"- e, f and l: the {settings['keep_quantile']:.0%} with the lowest {settings['by']}{within} of "
                     f"{settings['n']} enhanced ones; c, d, j and k: the first of the same candidates.")  # fmt: skip
    return lines


def fail(message: str, code: int) -> None:
    """One line, and the exit code."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def terminated(signal_number: int, frame: object) -> None:
    """So that trainings are ended, too."""
    raise SystemExit(128 + signal_number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    try:
        main(standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted; run the same command again to go on", 130)
    except click.ClickException as error:
        fail(error.format_message(), 2)
    except (ValueError, OSError) as error:
        fail(str(error), 2)
