"""The learning rate and the stop rule of the enhancement: the objective against steps, for several settings.

    python bench/tuning.py --n 32

The same candidates for every pair of learning rates; the objective is the preset's, at its best step so far within the
guards, as the loop itself sees it. Below each curve: what a stop after `patience` steps without a better one would
have cost and given.
"""

import json
import os
import subprocess
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from mattesmith import enhance as enhancing
from mattesmith import gen
from mattesmith.enhance.objective import PRESETS, Networks, Preset
from mattesmith.enhance.portrait import enter
from mattesmith.enhance.slots import Slots

ROOT = Path(__file__).parents[1]
SHOWN = (0, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120)  # steps
PATIENCE = (3, 5, 10, 20)


def curves(samples: list[gen.Sample], networks: Networks, preset: Preset) -> np.ndarray:
    """The best guarded objective of each portrait before each of the preset's steps: [steps, N]; 8 at a time."""
    parts = []
    for start in range(0, len(samples), 8):
        group = samples[start : start + 8]
        slots = Slots(len(group), networks, preset, precision=enhancing.chosen_precision("auto", "cpu"))
        for slot, sample in enumerate(group):
            slots.fill(slot, enter(sample, networks, preset, enhancing.colour_gradient, order=slot))
        rows = []
        for _ in range(preset.steps):
            slots.step()
            rows.append(slots.best_total.numpy().copy())
        parts.append(np.stack(rows))
    return np.concatenate(parts, axis=1)


def stopped(best: np.ndarray, patience: int) -> tuple[float, float]:
    """What a stop after so many steps without a better one leaves: mean steps taken, mean objective."""
    steps, values = [], []
    for curve in best.T:
        better = np.flatnonzero(np.diff(curve) < 0) + 1  # steps that improved
        last = 0
        for step in better:
            if step - last > patience:
                break
            last = int(step)
        steps.append(min(last + patience, len(curve) - 1))
        values.append(curve[steps[-1]])
    return float(np.mean(steps)), float(np.mean(values))


@click.command()
@click.option("--n", type=click.IntRange(8), default=32, show_default=True, help="Candidates.")
@click.option("--preset", default="default", show_default=True, help="Whose objective and guards.")
@click.option("--steps", type=click.IntRange(1), default=60, show_default=True, help="Of every curve.")
@click.option(
    "--lr", "rates", multiple=True, default=("1e-3,1e-2", "3e-3,2e-2", "6e-3,4e-2", "1e-2,5e-2", "2e-2,1e-1"),
    show_default=True, help="WS,NOISE: a pair of learning rates.",
)  # fmt: skip
@click.option("--psi", type=float, default=0.8, show_default=True, help="Truncation.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the candidates.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write all curves.")
def main(n: int, preset: str, steps: int, rates: tuple[str, ...], psi: float, seed: int, path: Path | None) -> None:
    """Print a curve for each pair of rates."""
    torch.set_num_threads(1)
    networks = Networks(
        gen.load_generator(), gen.load_discriminator(), enhancing.load_matting("default"), enhancing.load_perceptual()
    )
    latents = (gen.draw_latents(seed, 0, index, z_dim=networks.generator.z_dim) for index in count())
    samples = list(islice(gen.sample(networks.generator, latents, psi=psi), n))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(
        f"{os.uname().machine}, torch {torch.__version__}, commit {commit.strip()}; {n} candidates, psi {psi}, {preset}"
    )
    shown = [step for step in SHOWN if step <= steps]
    print(f"{'lr ws':>7} {'noise':>7}  objective after " + "".join(f"{step:>8}" for step in shown))
    made: dict[str, Any] = {}
    for pair in tqdm(rates, leave=False):
        lr_ws, lr_noise = map(float, pair.split(","))
        chosen = replace(PRESETS[preset], steps=steps + 1, patience=steps + 2, lr_ws=lr_ws, lr_noise=lr_noise)
        best = curves(samples, networks, chosen)
        made[pair] = best.tolist()
        print(f"{lr_ws:7g} {lr_noise:7g} {'':17}" + "".join(f"{best[step].mean():8.4f}" for step in shown))
        stops = ((patience, *stopped(best, patience)) for patience in PATIENCE)
        print(f"{'':16}stop: " + "; ".join(f"patience {p}: {s:.1f} steps, {value:.4f}" for p, s, value in stops))
    if path is not None:
        path.write_text(json.dumps(made))


if __name__ == "__main__":
    main()
