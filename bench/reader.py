"""Composites a second that the reader gives, against the number of worker processes.

    python bench/reader.py                       # portraits made up for the purpose
    python bench/reader.py --data portraits --size 512 --seconds 20

The made-up ones are discs with noisy rims and noisy colours, so that their PNG files are as long as those of real
portraits. The first batches, in which workers start, do not count.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch.utils.data import DataLoader

from mattesmith import shards
from mattesmith.enhance import Enhanced
from mattesmith.filters import Scored
from mattesmith.gen import Latents, Sample

ROOT = Path(__file__).parents[1]


def portraits(size: int) -> Iterator[Scored]:
    """Discs with soft, noisy rims before smooth colours with a little noise."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    for candidate in range(10_000):
        rng = np.random.default_rng(candidate)
        noise = torch.from_numpy(rng.standard_normal((4, size, size), dtype=np.float32))
        alpha = ((0.6 - torch.hypot(rows, columns) + 0.03 * noise[3]) * 8 + 0.5).clamp(0, 1)[None]
        image = (0.5 * torch.stack([rows, columns, -rows]) + 0.02 * noise[:3]).clamp(-1, 1)
        sample = Sample(Latents(0, 0, candidate, torch.zeros(4)), torch.zeros(2, 4), (), image)
        yield Scored(Enhanced(sample, sample.ws, (), image, alpha, image, {}, 1), {"coverage": 0.5}, -1.0, None)


def make(folder: Path, *, size: int, n: int = 256) -> None:
    """A dataset of made-up portraits."""
    with shards.open_dataset(folder, {"n": n}):
        shards.write_shard(folder, 0, n, portraits(size), max_candidates=n)
        shards.finish(folder, config={"n": n}, n=n, networks=[])


def rate(reader: shards.Composites, *, num_workers: int, seconds: float) -> float:
    """Composites a second."""
    loader = DataLoader(reader, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)
    warm_up, num, start, epoch = 2 * max(1, num_workers), 0, time.perf_counter(), 0
    while True:
        reader.start_at(epoch)
        for batch in loader:
            if warm_up:
                warm_up, start = warm_up - 1, time.perf_counter()
                continue
            num += len(batch["key"])
            if time.perf_counter() - start > seconds:
                return num / (time.perf_counter() - start)
        epoch += 1


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="A dataset to read.")
@click.option("--size", type=click.IntRange(8), default=128, show_default=True, help="Pixels.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Of each measurement.")
@click.option("--workers", type=click.IntRange(0), multiple=True, default=(0, 1, 2), help="Processes, once a run.")
def main(data: Path | None, size: int, seconds: float, workers: tuple[int, ...]) -> None:
    """Print composites a second for each number of workers (0: in the process itself)."""
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, {os.cpu_count()} cores, torch {torch.__version__}, commit {commit.strip()}")
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            data = Path(folder) / "data"
            make(data, size=size)
        for num_workers in workers:
            reader = shards.Composites(data, size=size, batch_size=16, trimap_px=(1, 15))
            found = rate(reader, num_workers=num_workers, seconds=seconds)
            print(f"{size} px, {num_workers} workers: {found:6.1f} composites/s", flush=True)
    sys.stdout.flush()
    os._exit(0)  # workers that are still fetching are not waited for


if __name__ == "__main__":
    main()
