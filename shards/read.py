"""Shards as what a matting network trains on: portraits over ever new backgrounds, with exact mattes.

Everything random about a composite follows from (seed, epoch, key), so it does not depend on workers, ranks, order or
batch. Workers and ranks share the samples: over all of them each sample comes exactly once an epoch.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset, get_worker_info

from ..enhance import trimap_from_alpha
from ..enhance.light import LINEAR, blend
from ..gen import random_stream
from .augment import degraded, graded, jitter, softened
from .backgrounds import Background, PictureFolder, drawn
from .members import decode
from .source import Source, keys_of, open_source, stream_samples

NEEDED = {"alpha": ("alpha.png",), "fg": ("fg.png",), "image": ("image.png", "image.jpg")}
MEMBERS = frozenset(name for names in NEEDED.values() for name in names)
SOFT = (13, 242)  # levels of 255; a pixel between is part of the unknown band
MAX_PASSES = 10_000  # behind one start: what is counted in memory that workers share
Batch = dict[str, Any]


class Composites(IterableDataset[Batch]):
    """Batches of composites; give it to a DataLoader with batch_size=None.

    A batch holds image [B, 3, S, S] in [-1, 1], alpha [B, 1, S, S] in [0, 1], with `trimap_px` also trimap
    [B, 1, S, S] in {0, 0.5, 1}, and key, a list of B names.

    One pass is one epoch, and the next pass the next epoch, also where a pass was broken off. `start_at(epoch, batch)`
    says which comes next, and where in it: with the same number of workers, a DataLoader then goes on exactly behind
    the first `batch` batches of that epoch. Workers tell passes apart by the seed that the DataLoader draws for each:
    whoever gives torch, or the DataLoader's generator, the same seed before every pass calls `start_at` there, too.

    Args:
        place: a dataset's folder, or a URL that fsspec knows.
        size: S, pixels, a multiple of 8.
        batch_size: B; the last batch of a worker may be smaller.
        seed: of everything random.
        backgrounds: a folder of pictures; None for drawn ones.
        originals: share of the samples that keep their own background (their matte is then a network's estimate).
        augment: False for the whole portrait over a new background, as it is.
        trimap_px: smallest and largest width of the trimap's unknown region beyond soft pixels; None for no trimap.
        shuffle: samples that wait in memory to be drawn from.
        keep: whether a sample of this key takes part; None for all. With workers that are not forked it must pickle.
        rank, world_size: of this process among several; by default what torch.distributed says, or one alone.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        size: int,
        batch_size: int,
        seed: int = 0,
        backgrounds: Path | None = None,
        originals: float = 0.2,
        augment: bool = True,
        trimap_px: tuple[int, int] | None = None,
        shuffle: int = 100,
        keep: Callable[[str], bool] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if size < 8 or size % 8:
            raise ValueError(f"size must be a multiple of 8, got {size}")
        if batch_size < 1 or shuffle < 1:
            raise ValueError(f"batch_size and shuffle must be 1 or more, got {batch_size} and {shuffle}")
        if not 0 <= originals <= 1:
            raise ValueError(f"originals must be a share in [0, 1], got {originals}")
        if trimap_px is not None and not 0 <= trimap_px[0] <= trimap_px[1]:
            raise ValueError(f"trimap_px must be two widths, the smaller one first, got {trimap_px}")
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else torch.distributed.get_rank() if distributed else 0
        self.world_size = world_size or (torch.distributed.get_world_size() if distributed else 1)
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be from 0 to {self.world_size - 1}, got {self.rank}")
        self.source: Source = open_source(place)
        self.keep = keep
        self.counts = [count for _, count in self.source.shards]  # of samples that take part, by shard
        if keep is not None:
            self.counts = [sum(map(keep, keys)) for keys in keys_of(self.source)]
        if not sum(self.counts):
            raise ValueError(f"none of the {self.source.num_samples} samples of {place} takes part (`keep`)")
        self.size, self.batch_size, self.seed, self.originals = size, batch_size, seed, originals
        self.augment, self.trimap_px, self.shuffle = augment, trimap_px, shuffle
        self.background: Background = drawn if backgrounds is None else PictureFolder(Path(backgrounds))
        self._start, self._begun = torch.zeros(2, dtype=torch.int64), torch.zeros(MAX_PASSES, dtype=torch.int64)
        for shared in (self._start, self._begun):  # workers see them change
            shared.share_memory_()  # type: ignore[no-untyped-call]
        self._num_passes = 0  # begun in this process

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Choose the epoch of the next pass, and how many of its batches are left out because they are done."""
        if epoch < 0 or batch < 0:
            raise ValueError(f"epoch and batch must be 0 or more, got {epoch} and {batch}")
        self._start[0], self._start[1] = epoch, batch
        self._begun.zero_()

    @property
    def epoch(self) -> int:
        """Of the next pass."""
        return int(self._start[0]) + self._next_pass()[0]

    def _next_pass(self) -> tuple[int, int]:
        """Number since `start_at` of the pass that comes next in this process, and its name: never 0.

        All workers of a pass have the same name for it: the seed that their loader drew for them, which persistent
        ones keep, and therefore count on. Its number is the place of its name among those of the passes begun; several
        workers who find that it has none all write it into the same place, so there is no lock.
        """
        info = get_worker_info()
        name = (info.seed - info.id + self._num_passes) % (2**63 - 1) + 1 if info else -1 - self._num_passes
        places = ((self._begun == name) | (self._begun == 0)).nonzero()
        if not len(places):
            raise ValueError(f"{len(self._begun)} passes behind one start, no more are counted; call start_at(epoch)")
        return int(places[0]), name

    def num_batches(self, *, num_workers: int = 0) -> int:
        """Batches of this rank in a whole epoch."""
        first, last = block(sum(self.counts), self.rank, self.world_size)
        workers = (block(last - first, worker, max(1, num_workers)) for worker in range(max(1, num_workers)))
        return sum(-(-(end - start) // self.batch_size) for start, end in workers)

    def __iter__(self) -> Iterator[Batch]:
        number, name = self._next_pass()
        self._begun[number] = name
        self._num_passes += 1
        epoch, done = int(self._start[0]) + number, int(self._start[1]) if number == 0 else 0
        info = get_worker_info()
        num_workers = info.num_workers if info else 1
        # A loader asks its workers in turn, from the first one on; the first must therefore hold the next batch.
        worker = ((info.id if info else 0) + done) % num_workers
        skipped = self.batch_size * ((done - worker + num_workers - 1) // num_workers)
        samples = islice(self.samples(epoch, worker, num_workers), max(0, skipped), None)
        while part := list(islice(samples, self.batch_size)):
            yield collated([self.composite(sample, epoch) for sample in part])

    def samples(self, epoch: int, worker: int, num_workers: int) -> Iterator[dict[str, Any]]:
        """The undecoded samples of one worker of this rank, in the order of this epoch."""
        mine = block(sum(self.counts), self.rank, self.world_size)
        first, last = (mine[0] + place for place in block(mine[1] - mine[0], worker, num_workers))
        order = random_stream(self.seed, epoch, 0, "order").permutation(len(self.source.shards))
        return shuffled(
            self.between(first, last, [int(shard) for shard in order]),
            random_stream(self.seed, epoch, first, "shuffle"),
            num_waiting=self.shuffle,
        )

    def between(self, first: int, last: int, order: list[int]) -> Iterator[dict[str, Any]]:
        """Samples from the first to before the last, counted through all shards in this order."""
        before = 0
        for shard in order:
            count = self.counts[shard]
            start, end = max(first - before, 0), min(last - before, count)
            if start < end:
                found = stream_samples(self.source, shard, members=MEMBERS)
                if self.keep is not None:
                    found = (sample for sample in found if self.keep(sample["__key__"]))
                yield from islice(found, start, end)
            before += count

    def composite(self, sample: dict[str, Any], epoch: int) -> Batch:
        """One composite: image [3, S, S], alpha and trimap [1, S, S], key."""
        key = sample["__key__"]
        rng = random_stream(self.seed, epoch, 0, f"composite/{key}")
        is_original = rng.random() < self.originals
        alpha = member(sample, "alpha")
        colours = member(sample, "image" if is_original else "fg")
        if alpha.shape != colours.shape[:2]:
            raise ValueError(f"{sample['__url__']}: sample {key} has an alpha of another size than its colours")
        behind = None if is_original else self.background
        made = pictured(
            colours, alpha, rng, behind=behind, size=self.size, augment=self.augment, trimap_px=self.trimap_px
        )
        return made | {"key": key}


def pictured(
    colours: np.ndarray,
    alpha: np.ndarray,
    rng: np.random.Generator,
    *,
    behind: Background | None,
    size: int,
    augment: bool = True,
    trimap_px: tuple[int, int] | None = None,
) -> Batch:
    """A training picture: image [3, S, S] in [-1, 1], alpha and trimap [1, S, S].

    Args:
        colours: [H, W, 3] uint8, a foreground, or a whole picture where `behind` is None.
        alpha: [H, W] uint8.
        behind: draws the new background.
        size, augment, trimap_px: as in `Composites`.
    """
    top, left, side = window(alpha, rng, size=size, augment=augment)
    part = slice(top, top + side), slice(left, left + side)
    light = LINEAR[torch.from_numpy(colours[part]).long()].permute(2, 0, 1)
    layers = torch.cat([light, torch.from_numpy(alpha[part]).float()[None] / 255])[None]  # [1, 4, side, side]
    if side != size:
        layers = F.interpolate(layers, size, mode="bilinear", antialias=True)
    if augment and rng.random() < 0.5:
        layers = layers.flip(3)
    light, matte = layers[:, :3], layers[:, 3:]
    if behind is None:
        image = blend(light, torch.ones_like(matte), light)
    else:
        background = behind(rng, size, size)[None]
        if augment:
            light = jitter(light, rng, exposure=0.4, tint=0.12)
            background = jitter(background, rng, exposure=0.5, tint=0.15)
        image = blend(light, matte, background)
    if augment:
        image, matte = softened(image, matte, rng)
        image = degraded(graded(image, rng), rng)
    made: Batch = {"image": image[0], "alpha": matte[0]}
    if trimap_px is not None:
        width = int(rng.integers(trimap_px[0], trimap_px[1] + 1))
        made["trimap"] = trimap_from_alpha(matte, width=width)[0]
    return made


def block(num: int, part: int, num_parts: int) -> tuple[int, int]:
    """First and behind the last of `num` things that fall to a part; parts differ by one at most, larger ones first.

    >>> [block(7, part, 3) for part in range(3)]
    [(0, 3), (3, 5), (5, 7)]
    """
    each, rest = divmod(num, num_parts)
    start = part * each + min(part, rest)
    return start, start + each + (part < rest)


def shuffled(
    samples: Iterator[dict[str, Any]], rng: np.random.Generator, *, num_waiting: int
) -> Iterator[dict[str, Any]]:
    """The samples in another order: always a random one of those that wait."""
    waiting: list[dict[str, Any]] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) >= num_waiting:
            yield waiting.pop(int(rng.integers(len(waiting))))
    while waiting:
        yield waiting.pop(int(rng.integers(len(waiting))))


def window(alpha: np.ndarray, rng: np.random.Generator, *, size: int, augment: bool) -> tuple[int, int, int]:
    """Top, left and side of the square that is shown: mostly around a pixel of the unknown band, else all there is.

    A part is never enlarged: it is at least `size` wide. What is enlarged is as soft as no picture that the network
    will see later, and has lost what is around it.

    Args:
        alpha: [H, W] uint8.
        size: of the training picture, px.
    """
    height, width = alpha.shape
    side = min(height, width)
    centre = (height / 2, width / 2)
    if side > size and augment and rng.random() < 0.7:
        side = max(size, round(side * 2.0 ** rng.uniform(-1, 0)))
        soft = np.flatnonzero((alpha > SOFT[0]) & (alpha < SOFT[1]))
        chosen = int(soft[rng.integers(len(soft))]) if len(soft) else int(rng.integers(alpha.size))
        centre = tuple(place + side * rng.uniform(-0.25, 0.25) for place in divmod(chosen, width))
    top, left = (
        round(min(max(place - side / 2, 0), length - side))
        for place, length in zip(centre, (height, width), strict=True)
    )
    return top, left, side


def member(sample: dict[str, Any], kind: str) -> np.ndarray:
    """Pixels of a member, [H, W] or [H, W, 3] uint8."""
    where = f"{sample['__url__']}: sample {sample['__key__']}"
    name = next((name for name in NEEDED[kind] if name in sample), None)
    if name is None:
        raise ValueError(f"{where} lacks {NEEDED[kind][0]}; this reader needs alpha, fg and image")
    try:
        pixels: np.ndarray = np.array(decode(name, sample[name]))  # a copy: torch wants it writable
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{where}: {name} cannot be decoded: {error}") from error
    return pixels


def collated(parts: list[Batch]) -> Batch:
    """Tensors stacked, keys in a list."""
    first = parts[0]
    return {
        name: torch.stack([part[name] for part in parts])
        if isinstance(first[name], Tensor)
        else [part[name] for part in parts]
        for name in first
    }
