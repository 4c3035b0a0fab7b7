"""Is the enhancement honest? What it does to the reference network, and to one that it never listened to.

    python bench/honesty.py --n 200

The same candidates (a) as sampled, (b) with a random change of the size of the enhancement's, (c) enhanced; every
measure as its mean change against (a) with a 95 % bootstrap interval, and the share of candidates in which it fell.
Negative is better for all of them. `agreement` is the second network's; it is in no loss.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import count, islice
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from mattesmith import enhance as enhancing
from mattesmith import filters, gen

ROOT = Path(__file__).parents[1]
MEASURES = ("entropy", "outside", "certainty", "stability", "agreement", "recomposition", "realism")


def interval(changes: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of [N]."""
    means = changes[rng.integers(len(changes), size=(2000, len(changes)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def measured(enhanced: enhancing.Enhanced, networks: dict[str, object]) -> dict[str, float]:
    """Scores, and the reference network's entropies, of one portrait as it is."""
    scores = filters.score(enhanced, *(networks[name] for name in ("matting", "second", "perceptual", "discriminator")))
    return scores | {name: enhanced.losses[f"{name}_after"] for name in ("entropy", "outside")}


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
@click.option("--n", type=click.IntRange(8), default=200, show_default=True, help="Candidates.")
@click.option("--preset", default="default", show_default=True, help="Preset of the enhancement.")
@click.option("--set", "settings", multiple=True, help="NAME=NUMBER of the preset to replace, for tuning.")
@click.option("--psi", type=float, default=0.8, show_default=True, help="Truncation.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the candidates.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of torch.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write all rows.")
def main(
    n: int, preset: str, settings: tuple[str, ...], psi: float, seed: int, threads: int, path: Path | None
) -> None:
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

    def samples() -> Iterator[gen.Sample]:
        z_dim = networks["generator"].z_dim
        latents = (gen.draw_latents(seed, 0, index, z_dim=z_dim) for index in count())
        return islice(gen.sample(networks["generator"], latents, psi=psi), n)

    rows: dict[str, list[dict[str, float]]] = {"original": [], "random": [], "enhanced": []}
    steps, drifts = [], []
    originals = enhancing.enhance(samples(), *parts, preset=chosen, steps=0)
    enhanced = tqdm(enhancing.enhance(samples(), *parts, preset=chosen), total=n, desc=preset)
    for original, one in zip(originals, enhanced, strict=True):
        (control,) = enhancing.random_control([one], *parts, preset=chosen)
        for variant, portrait in (("original", original), ("random", control), ("enhanced", one)):
            rows[variant].append(measured(portrait, networks))
        steps.append(one.steps)
        drifts.append(rows["enhanced"][-1]["drift"])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, {os.cpu_count()} cores, torch {torch.__version__}, commit {commit.strip()}")
    print(f"{n} candidates, psi {psi}, {chosen}")
    print(
        f"kept steps: mean {np.mean(steps):.1f}, none {np.mean(np.array(steps) == 0):.0%}; drift {np.mean(drifts):.4f}"
    )
    print(table(rows))
    if path is not None:
        path.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
