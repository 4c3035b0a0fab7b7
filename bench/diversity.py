"""How varied the studio's people and the generator's portraits are, and whether the generator copies its people.

    python bench/diversity.py --renders .studio/renders --sheet nearest.png --samples samples.png

Everybody is cut out over grey (renders by their exact mattes, generated portraits by the reference's) and described by
the embedded perceptual trunk's third block, averaged over 4 x 4 fields. A generator that copies is nearer to the
people it learnt from than held-out people are; one that collapsed is nearer to itself than people are to each other;
one that left people out is farther from those held out than other people are (with as many drawn as were learnt from).
"""

import json
import subprocess
from collections import Counter
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
from mattesmith.studio.benchmark import described
from mattesmith.studio.composites import Portraits, load_portraits, planes
from mattesmith.studio.grids import save_grid

ROOT = Path(__file__).parents[1]
SIZE = 128
SPLITS = ("train", "val", "test")
NUMBERS = ("age", "gender", "tone", "yaw", "coverage", "soft_share", "hair_share")
ROWS, NEAREST = 8, 3  # of the sheet
SHOWN = 40  # unpicked portraits, psi 0.7 above psi 1.0


def attributes(renders: Path, people: dict[str, Portraits]) -> None:
    """Prints what the renders' JSON files say of their people."""
    rows = []
    for split, portraits in people.items():
        for i, key in enumerate(portraits.keys):
            record = json.loads((renders / split / f"{key}.json").read_text())
            rows.append(described(record, portraits.alpha[i], portraits.hair[i]))
    print(f"{len(rows)} people: " + ", ".join(f"{len(people[split])} {split}" for split in people))
    for name in NUMBERS:
        values = np.quantile([float(row[name]) for row in rows], (0.05, 0.25, 0.5, 0.75, 0.95))
        print(f"{name:11}" + " ".join(f"{value:8.3f}" for value in values) + "   (5, 25, 50, 75, 95 %)")
    kinds = {
        "hair": [str(row["hair"]) for row in rows],
        "light from": [str(row["light"]).split("-")[0] for row in rows],
        "sky": [str(row["light"]).split("-")[-1] for row in rows],
    }
    for name, words in kinds.items():
        counts = Counter(words).most_common()
        print(f"{name:11} {len(counts)}: " + ", ".join(f"{word} {count / len(rows):.1%}" for word, count in counts))


def people_over_grey(portraits: Portraits) -> Tensor:
    """[N, 3, SIZE, SIZE] in [-1, 1]."""
    made = []
    for rows in np.array_split(np.arange(len(portraits)), -(-len(portraits) // 64)):
        foreground = LINEAR[planes(portraits.foreground, rows).long()]
        alpha = planes(portraits.alpha, rows).float() / 255
        made.append(blend(foreground, alpha, torch.full_like(foreground, 0.2)))
    return torch.cat(made)


@torch.no_grad()
def generated_over_grey(num: int, psi: float) -> tuple[Tensor, Tensor]:
    """Unpicked portraits [num, 3, SIZE, SIZE] in [-1, 1], as they are and cut out."""
    generator, matting = gen.load_generator(), enhancing.load_matting("default")
    latents = (gen.draw_latents(0, 0, index, z_dim=generator.z_dim) for index in range(num))
    samples = gen.sample(generator, latents, psi=psi)
    images = torch.stack([sample.image for sample in tqdm(samples, total=num, desc=f"psi {psi}")]).clamp(-1, 1)
    alpha = torch.cat([matting(part).float().clamp(0, 1) for part in torch.split(images, 16)])
    linear = LINEAR[((images + 1) * 127.5).round().long()]
    return images, blend(linear, alpha, torch.full_like(images, 0.2))


@torch.no_grad()
def descriptors(images: Tensor) -> Tensor:
    """[N, 3, SIZE, SIZE] in [-1, 1] -> [N, 4096]."""
    perceptual = enhancing.load_perceptual("embedded")
    return torch.cat([
        F.adaptive_avg_pool2d(perceptual.features(part)[-1], 4).flatten(1)
        for part in tqdm(torch.split(images, 32), desc="descriptors")
    ])  # fmt: skip


def nearest(a: Tensor, b: Tensor, *, mirrored: Tensor | None = None, same: bool = False) -> tuple[Tensor, Tensor]:
    """Of each row of a the NEAREST nearest of b: distances and indices, [N, NEAREST].

    Args:
        mirrored: descriptors of the same people mirrored; the nearer of the two counts.
        same: a and b are one, and nobody is near to himself.
    """
    distance = torch.cdist(a, b)
    if mirrored is not None:
        distance = torch.minimum(distance, torch.cdist(a, mirrored))
    if same:
        distance.fill_diagonal_(torch.inf)
    found = distance.topk(NEAREST, largest=False)
    return found.values, found.indices


def spread(x: Tensor) -> float:
    """Mean distance of two rows."""
    distance = torch.cdist(x, x)
    return float(distance.sum() / (len(x) * (len(x) - 1)))


def line(name: str, distances: Tensor, extra: str = "") -> None:
    """One row of the table."""
    low, mid, high = np.quantile(distances[:, 0].numpy(), (0.05, 0.5, 0.95))
    print(f"{name:38} {low:6.3f} {mid:6.3f} {high:6.3f} {extra}")


@click.command()
@click.option("--renders", type=click.Path(path_type=Path, exists=True), default=Path(".studio/renders"))
@click.option("--n", type=click.IntRange(min=16), default=300, show_default=True, help="Generated portraits a psi.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="PNG: generated portraits, each with its nearest people."
)
@click.option("--samples", type=click.Path(path_type=Path), help="PNG: unpicked portraits, both psi.")
def main(renders: Path, n: int, sheet: Path | None, samples: Path | None) -> None:
    """Print the tables."""
    torch.manual_seed(0)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"commit {commit.strip()}, generator {gen.load_generator().card['sha256'][:12]}")
    people = {split: load_portraits(renders, split, size=SIZE) for split in SPLITS}
    attributes(renders, people)

    train = people_over_grey(people["train"])
    known = descriptors(train)
    mirrored = descriptors(train.flip(3))  # the generator learns them mirrored, too
    held = descriptors(people_over_grey(people["test"]))
    print(f"\n{'distance to the nearest':38} {'5 %':>6} {'50 %':>6} {'95 %':>6}")
    line("person learnt from: another of them", nearest(known, known, same=True)[0], f"spread {spread(known):.3f}")
    line(
        "held-out person: person learnt from", nearest(held, known, mirrored=mirrored)[0], f"spread {spread(held):.3f}"
    )
    drawn = []
    for psi in (1.0, 0.7):
        images, cut = generated_over_grey(n, psi)
        drawn.append(images[:SHOWN])
        found = descriptors(cut)
        distances, indices = nearest(found, known, mirrored=mirrored)
        line(f"generated, psi {psi}: person learnt from", distances, f"spread {spread(found):.3f}")
        line(f"generated, psi {psi}: another generated", nearest(found, found, same=True)[0])
        line(f"held-out person: generated, psi {psi}", nearest(held, found, mirrored=descriptors(cut.flip(3)))[0])
        if sheet and psi == 1.0:
            save_sheet(sheet, images, train, indices)
            print(f"look at {sheet}")
    if samples:
        save_grid(samples, torch.cat(drawn[::-1]), columns=10)
        print(f"look at {samples}")


def save_sheet(path: Path, images: Tensor, people: Tensor, indices: Tensor) -> None:
    """The first generated portraits, unpicked, two groups of columns: each portrait and its nearest people.

    People are shown as they were rendered, even where their mirror image is the nearer one.
    """
    rows = [torch.cat([images[i][None], people[indices[i]]]) for i in range(2 * ROWS)]
    save_grid(path, torch.cat(rows), columns=2 * (1 + NEAREST))


if __name__ == "__main__":
    main()
