"""Is the enhancement honest? What it does to the reference network, and to one that it never listened to.

    python bench/honesty.py --n 200

The same candidates (a) as sampled, (b) with a random change of the size of the enhancement's, (c) enhanced; every
measure as its mean change against (a) with a 95 % bootstrap interval, and the share of candidates in which it fell.
Negative is better for all of them but the last two. `agreement` is the second network's; it is in no loss. `strands`
and `detail` are what a blur of 1.5 px takes from the matte and from the picture's luma around the original's soft
pixels, x1000 (bench/strands.py): where they fall, portraits are blurred, which pleases a second network that is softer
than the first. The paper's preset takes hours: candidates can be shared among processes, days and machines, `--first 0
--n 25 --json a.json`, then `--first 25 --n 25 --with a.json`; the last table holds all that were given.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import strands
import torch
from tqdm import tqdm

from mattesmith import enhance as enhancing
from mattesmith import filters, gen, shards
from mattesmith.shards.manifest import differences

ROOT = Path(__file__).parents[1]
SHARPNESS = ("strands", "detail")
MEASURES = ("entropy", "outside", "certainty", "stability", "agreement", "recomposition", "realism", *SHARPNESS)


def interval(changes: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of [N]."""
    means = changes[rng.integers(len(changes), size=(2000, len(changes)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def measured(
    enhanced: enhancing.Enhanced, original: enhancing.Enhanced, networks: dict[str, object]
) -> dict[str, float]:
    """Scores, the reference network's entropies, and sharpness, of one portrait as it is."""
    scores = filters.score(enhanced, *(networks[name] for name in ("matting", "second", "perceptual", "discriminator")))
    entropies = {name: enhanced.losses[f"{name}_after"] for name in ("entropy", "outside")}
    around = strands.soft_pixels(original.alpha[None])
    sharp = strands.sharpness(enhanced.image[None], enhanced.alpha[None], around)
    return scores | entropies | {name: float(value) for name, value in zip(SHARPNESS, sharp, strict=True)}


def read_run(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run wrote with --json, if only its candidates are others.

    Raises:
        click.UsageError: it was made with other settings, or it is another file.
    """
    try:
        run: dict[str, Any] = json.loads(file.read_text())
        there, _ = run["settings"], (run["candidates"], run["steps"], run["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"{file} is no --json of bench/honesty.py ({error!r})") from error
    if different := differences(there, settings):
        raise click.UsageError(f"{file} was made with other settings (there / here): {'; '.join(different)}")
    return run


def joined(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All candidates of several runs, as of one.

    Raises:
        click.UsageError: one of them is in two runs.
    """
    candidates = [candidate for run in runs for candidate in run["candidates"]]
    if twice := {candidate for candidate in candidates if candidates.count(candidate) > 1}:
        raise click.UsageError(f"candidate {min(twice)} is in two runs; use another --first, or leave one --with out")
    return {
        "candidates": candidates,
        "steps": [step for run in runs for step in run["steps"]],
        "rows": {name: [row for run in runs for row in run["rows"][name]] for name in runs[0]["rows"]},
    }


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Changes against the originals."""
    rng = np.random.default_rng(0)
    lines = [f"{'measure':14} {'original':>9}  {'variant':9} {'change':>10}  {'95 % interval':>22}  fell"]
    for measure in MEASURES:
        before = np.array([row[measure] for row in rows["original"]])
        for variant in [name for name in rows if name != "original"]:
            change = np.array([row[measure] for row in rows[variant]]) - before
            low, high = interval(change, rng)
            lines.append(
                f"{measure:14} {before.mean():9.5f}  {variant:9} {change.mean():+10.6f}  "
                f"[{low:+10.6f}, {high:+10.6f}]  {(change < 0).mean():.0%}"
            )
    return "\n".join(lines)


@click.command()
@click.option("--n", type=click.IntRange(8), default=200, show_default=True, help="Candidates of this run.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="Number of the first of them.")
@click.option(
    "--with", "earlier", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True,
    help="The --json of a run over other candidates, which count as well; may be given several times.",
)  # fmt: skip
@click.option("--preset", default="default", show_default=True, help="Preset of the enhancement.")
@click.option("--set", "settings", multiple=True, help="NAME=NUMBER of the preset to replace, for tuning.")
@click.option("--psi", type=float, default=0.8, show_default=True, help="Truncation.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the candidates.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of torch.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write all rows.")
def main(
    n: int, first: int, earlier: tuple[Path, ...], preset: str, settings: tuple[str, ...], psi: float, seed: int,
    threads: int, path: Path | None,
) -> None:  # fmt: skip
    """Print the table."""
    torch.set_num_threads(threads)
    kinds = {field.name: type(getattr(enhancing.PRESETS[preset], field.name)) for field in fields(enhancing.Preset)}
    pairs = (setting.split("=", 1) for setting in settings)
    chosen = replace(enhancing.PRESETS[preset], **{name: kinds[name](value) for name, value in pairs})
    networks = {
        "generator": gen.load_generator(), "discriminator": gen.load_discriminator(),
        "matting": enhancing.load_matting("default"), "second": enhancing.load_matting("second"),
        "perceptual": enhancing.load_perceptual(),
    }  # fmt: skip
    parts = [networks[name] for name in ("generator", "discriminator", "matting", "perceptual")]
    sums = {name: network.card["sha256"] for name, network in networks.items()}
    made_with: dict[str, Any] = {
        "preset": repr(chosen), "psi": psi, "seed": seed, "networks": sums, "measures": list(MEASURES),
    }  # fmt: skip
    runs = [read_run(file, made_with) for file in earlier]
    joined([{"candidates": list(range(first, first + n)), "steps": [], "rows": {}}, *runs])  # refused before any work

    def samples() -> Iterator[gen.Sample]:
        z_dim = networks["generator"].z_dim
        latents = (gen.draw_latents(seed, 0, index, z_dim=z_dim) for index in range(first, first + n))
        return gen.sample(networks["generator"], latents, psi=psi)

    rows: dict[str, list[dict[str, float]]] = {"original": [], "random": [], "enhanced": []}
    steps = []
    originals = enhancing.enhance(samples(), *parts, preset=chosen, steps=0)
    enhanced = tqdm(enhancing.enhance(samples(), *parts, preset=chosen), total=n, desc=preset)
    for original, one in zip(originals, enhanced, strict=True):
        (control,) = enhancing.random_control([one], *parts, preset=chosen)
        for variant, portrait in (("original", original), ("random", control), ("enhanced", one)):
            rows[variant].append(measured(portrait, original, networks))
        steps.append(one.steps)
    run = {"settings": made_with, "candidates": list(range(first, first + n)), "steps": steps, "rows": rows}
    if path is not None:
        shards.publish_text(path, json.dumps(run) + "\n")
    everything = joined([run, *runs])
    steps, drifts = everything["steps"], [row["drift"] for row in everything["rows"]["enhanced"]]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, {os.cpu_count()} cores, torch {torch.__version__}, commit {commit.strip()}")
    print(f"{len(steps)} candidates, psi {psi}, {chosen}")
    print(
        f"kept steps: mean {np.mean(steps):.1f}, none {np.mean(np.array(steps) == 0):.0%}; drift {np.mean(drifts):.4f}"
    )
    print(table(everything["rows"]))


if __name__ == "__main__":
    main()
