"""What a training is fed: composites of a dataset without its held-out portraits, and real pictures among them."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..gen import random_stream
from ..shards.backgrounds import drawn
from ..shards.read import Batch, Composites, pictured
from ..shards.source import keys_of, open_source
from .pictures import Item, files_of, items, pairs, read_matte, read_picture

HELD_OUT = 0.05  # of the samples
NUM_VALIDATED = 128  # pictures at most
MIN_HELD_OUT = 8  # of a small dataset, but no more than a fifth of it
ORIGINALS = 0.2  # of real pictures whose foreground is known keep their own background, as by default the composites'


def held_out(keys: list[str]) -> frozenset[str]:
    """Keys that are validated on and never trained on: a twentieth by their hash, 128 at most, at least a few.

    The first, so that few shards have to be read for them.
    """

    def place(key: str) -> float:
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64

    chosen = [key for key in keys if place(key) < HELD_OUT][:NUM_VALIDATED]
    wanted = max(1, min(MIN_HELD_OUT, len(keys) // 5))
    return frozenset(chosen if len(chosen) >= wanted else sorted(keys, key=place)[:wanted])


def is_among(keys: frozenset[str], wanted: bool, key: str) -> bool:
    """Whether a key is one of some (or none of them, with `wanted` False)."""
    return (key in keys) == wanted


class Feed:
    """Batches for training, and pictures to validate on.

    Args:
        place: a dataset's folder or URL.
        batch: pictures a step.
        size: their side, px, a multiple of 32.
        trimap_px: as in `Composites`.
        seed: of everything random.
        workers: processes that read; 0 for this one. It enters the order of the pictures.
        real: a folder with image/ and alpha/; pictures that also have fg/ come over new backgrounds. None for none.
        real_share: of the pictures of every batch, rounded to whole ones, at least one.
        validate_on: a dataset or folder to validate on; None holds out some samples of `place`.
        originals: as in `Composites`.

    Raises:
        ValueError: too few samples, or nothing to validate on.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        batch: int,
        size: int,
        trimap_px: tuple[int, int] | None,
        seed: int,
        workers: int = 0,
        real: Path | None = None,
        real_share: float = 0.0,
        validate_on: Path | None = None,
        originals: float = ORIGINALS,
    ) -> None:
        if size < 32 or size % 32:
            raise ValueError(f"size must be a multiple of 32, got {size}")
        if (real is None) != (real_share == 0) or not 0 <= real_share < 1:
            raise ValueError(
                f"a folder of real pictures and their share in (0, 1) go together, got {real}, {real_share}"
            )
        if batch < 2:
            raise ValueError(f"batch must be 2 or more, because networks normalise over it, got {batch}")
        self.num_real = min(batch - 1, max(1, round(batch * real_share))) if real else 0
        self.place, self.size, self.seed, self.workers = place, size, seed, workers
        self.validate_on, self.num_made = validate_on, batch - self.num_real
        keys = [key for shard in keys_of(open_source(place)) for key in shard]
        self.held = frozenset[str]() if validate_on else held_out(keys)
        self.num_samples = len(keys) - len(self.held)
        if self.num_samples // max(1, workers) < self.num_made:
            raise ValueError(
                f"{place} has {self.num_samples} samples to train on, too few for batches of {self.num_made}"
                + (f" from {workers} workers" if workers > 1 else "")
                + "; use a smaller batch, or more samples"
            )
        self.composites = Composites(
            place, size=size, batch_size=self.num_made, seed=seed, originals=originals,
            trimap_px=trimap_px, keep=partial(is_among, self.held, False),
        )  # fmt: skip
        made: Any = self.composites
        self.source = Mixed(made, real, num=self.num_real, trimap_px=trimap_px) if real else made

    def batches(self, epoch: int, done: int) -> Iterator[tuple[int, int, Batch]]:
        """Full batches for ever, from behind the first `done` of an epoch: (epoch, number done in it, batch)."""
        while True:
            self.composites.start_at(epoch, done)
            loader = DataLoader(self.source, batch_size=None, num_workers=self.workers)
            for batch in unwrapped(iter(loader)):
                done += 1
                if len(batch["alpha"]) == self.num_made + self.num_real:  # the rest of an epoch is no batch
                    yield epoch, done, batch
            epoch, done = epoch + 1, 0

    def validation(self, *, progress: Callable[[int], object] | None = None) -> list[Item]:
        """The same pictures every time: held-out portraits over new backgrounds, or the first of `validate_on`."""
        if self.validate_on is not None:
            found = list(islice(items(self.validate_on), NUM_VALIDATED))
            if not found:
                raise ValueError(f"{self.validate_on} holds no pictures to validate on")
            return found
        reader = Composites(
            self.place, size=self.size, batch_size=1, seed=self.seed, originals=0.0, augment=False, shuffle=1,
            keep=partial(is_among, self.held, True), rank=0, world_size=1,
        )  # fmt: skip
        return [Item(batch["key"][0], batch["image"][0], batch["alpha"][0, 0].numpy(), None) for batch in reader]


class Mixed(IterableDataset[Batch]):
    """Batches of composites with real pictures behind them, which follow from (seed, epoch, first key) alone."""

    def __init__(self, composites: Composites, folder: Path, *, num: int, trimap_px: tuple[int, int] | None) -> None:
        self.composites, self.num, self.trimap_px = composites, num, trimap_px
        self.pairs, self.foregrounds = pairs(folder), files_of(folder / "fg")
        if not self.pairs:
            raise ValueError(f"{folder} holds no pictures to train on")

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.composites.epoch
        for batch in self.composites:
            rng = random_stream(self.composites.seed, epoch, 0, f"real/{batch['key'][0]}")
            real = [self.real(rng) for _ in range(self.num)]
            joined: Batch = {"key": batch["key"] + [one["key"] for one in real]}
            for name in batch.keys() - {"key"}:
                joined[name] = torch.cat([batch[name], torch.stack([one[name] for one in real])])
            yield joined

    def real(self, rng: np.random.Generator) -> Batch:
        """One real picture, varied as composites are, over its own background; its foreground mostly over a new one."""
        image_file, alpha_file, _ = self.pairs[int(rng.integers(len(self.pairs)))]
        foreground_file = self.foregrounds.get(image_file.stem)
        is_new = foreground_file is not None and rng.random() >= ORIGINALS
        file = foreground_file if foreground_file is not None and is_new else image_file
        rgb, alpha = np.array(read_picture(file, "RGB")), np.rint(read_matte(alpha_file) * 255).astype(np.uint8)
        if rgb.shape[:2] != alpha.shape:
            raise ValueError(f"{file} and its alpha differ in size; sizes must agree")
        behind = drawn if is_new else None
        made = pictured(rgb, alpha, rng, behind=behind, size=self.composites.size, trimap_px=self.trimap_px)
        return made | {"key": image_file.stem}


def unwrapped(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same; what is wrong with a sample is said in one line, also where a worker's whole traceback came."""
    while True:
        try:
            batch = next(batches, None)
        except (ValueError, OSError) as error:
            if "Traceback" not in str(error):
                raise
            raise ValueError(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
        if batch is None:
            return
        yield batch


def on_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Image, alpha and trimap (or None) of a batch."""
    image, alpha, trimap = (batch[name].to(device) if name in batch else None for name in ("image", "alpha", "trimap"))
    assert image is not None and alpha is not None
    return image, alpha, trimap
