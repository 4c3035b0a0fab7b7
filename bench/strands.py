"""Have generated portraits strands where people's hair ends? Generated ones beside renders, looked at in the same way.

    python bench/strands.py --n 300

Renders are of people whom no network has learnt from, over backgrounds as the generator learns them. Every portrait is
matted by the reference, so that its softness is in both; the exact mattes of the renders stand beside it. Told are

    soft     the share of soft pixels, 2 to 98 %, x1000
    strands  what a blur of 1.5 px takes from the matte, mean over the soft band (soft pixels, dilated by 2 px), x1000
    detail   what it takes from the picture's luma there, x1000
    outline  the matte's total variation as a multiple of a disc's of the same area: 1 is round, strands add to it

each as its median and the range from the 10th to the 90th percentile.
"""

import os
import subprocess
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mattesmith import enhance as enhancing
from mattesmith import gen
from mattesmith.enhance.light import LINEAR, blend
from mattesmith.enhance.matting import Matting
from mattesmith.shards.augment import gaussian
from mattesmith.studio.backgrounds import SOFT, background_pool
from mattesmith.studio.composites import load_portraits, planes

ROOT = Path(__file__).parents[1]
SIZE = 128
BLUR_PX = 1.5
MEASURES = ("soft", "strands", "detail", "outline")


def lost(x: Tensor) -> Tensor:
    """What a blur takes, [N, 1, H, W] -> the same."""
    return (x - gaussian(x, [BLUR_PX] * len(x))).abs()


def soft_pixels(alpha: Tensor) -> Tensor:
    """1 where a matte [N, 1, H, W] in [0, 1] is soft -> the same shape."""
    return ((alpha > 0.02) & (alpha < 0.98)).float()


def sharpness(image: Tensor, alpha: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    """Strands and detail of portraits, x1000 -> [N] each.

    Args:
        image: [N, 3, H, W] in [-1, 1].
        alpha: [N, 1, H, W] in [0, 1].
        soft: [N, 1, H, W], 1 around which it is looked, else 0; another matte's, where two are compared.
    """
    band = F.max_pool2d(soft, 5, 1, 2)
    room = band.sum((1, 2, 3)).clamp(min=1)
    luma = (image / 2 * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    strands, detail = (1000 * (lost(x) * band).sum((1, 2, 3)) / room for x in (alpha, luma))
    return strands, detail


def measured(image: Tensor, alpha: Tensor) -> Tensor:
    """Portraits [N, 3, H, W] in [-1, 1] and their mattes [N, 1, H, W] in [0, 1] -> [N, 4], as MEASURES names them."""
    soft = soft_pixels(alpha)
    across, down = alpha.diff(dim=3)[..., :-1, :], alpha.diff(dim=2)[..., :, :-1]
    variation = (across**2 + down**2).sqrt().sum((1, 2, 3))
    return torch.stack([
        1000 * soft.mean((1, 2, 3)),
        *sharpness(image, alpha, soft),
        variation / (2 * (torch.pi * alpha.sum((1, 2, 3))).sqrt().clamp(min=1)),
    ], 1)  # fmt: skip


def by_the_reference(images: Tensor, matting: Matting) -> Tensor:
    """The measures of portraits with the reference's mattes."""
    parts = tqdm(torch.split(images, 16), desc="mattes")
    return torch.cat([measured(part, enhancing.final_matte(matting, part)) for part in parts])


def line(name: str, rows: Tensor) -> None:
    """One row of the table."""
    low, mid, high = np.quantile(rows.numpy(), (0.1, 0.5, 0.9), axis=0)
    cells = (f"{m:7.2f} [{a:6.2f}, {b:6.2f}]" for a, m, b in zip(low, mid, high, strict=True))
    print(f"{name:28}" + "  ".join(cells))


@click.command()
@click.option("--renders", type=click.Path(path_type=Path, exists=True), default=Path(".studio/renders"))
@click.option("--generator", default="default", show_default=True, help="As for generate.")
@click.option("--n", type=click.IntRange(min=16), default=300, show_default=True, help="Portraits a row.")
@torch.no_grad()
def main(renders: Path, generator: str, n: int) -> None:
    """Print the table."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    network, matting = gen.load_generator(generator), enhancing.load_matting("default")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"commit {commit.strip()}, generator {network.card['sha256'][:12]}")
    print(f"{'':28}" + "  ".join(f"{name:>24}" for name in MEASURES))

    people = load_portraits(renders, "test", size=SIZE)
    rows = np.arange(min(n, len(people)))
    pool = background_pool(len(rows), SIZE, seed=1, families=SOFT)
    alpha = planes(people.alpha, rows).float() / 255
    images = blend(LINEAR[planes(people.foreground, rows).long()], alpha, LINEAR[planes(pool, rows).long()])
    line("renders, exact mattes", measured(images, alpha))
    line("renders", by_the_reference(images, matting))
    for psi in (1.0, 0.8, 0.7):
        latents = (gen.draw_latents(0, 0, index, z_dim=network.z_dim) for index in range(n))
        samples = tqdm(gen.sample(network, latents, psi=psi), total=n, desc=f"psi {psi}")
        images = torch.stack([sample.image for sample in samples]).clamp(-1, 1)
        line(f"generated, psi {psi}", by_the_reference(images, matting))


if __name__ == "__main__":
    main()
