"""The arms of a proof, and the small network that every one of them trains: a process and a thread each, resumable."""

import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from mattesmith import finetune, gen, shards
from mattesmith.enhance.matting.unet import GlobalContext, ResidualBlock, doubled
from mattesmith.finetune.feed import ORIGINALS, Feed, on_device
from mattesmith.finetune.networks import recipe_of
from mattesmith.finetune.train import Run

WIDTHS = (16, 32, 64, 96, 128)  # channels at 1/2, 1/4, 1/8, 1/16, 1/32
STUDENT = "proof_training:student"
LATER = 1000  # added to the seed behind the start, so that no arm is shown the start's composites again
NUM_TIMED = 6  # steps of the estimate


@dataclass(frozen=True, slots=True)
class Arm:
    """What a student is trained on."""

    words: str
    dataset: str  # below shards/
    originals: float  # share of its portraits that keep their own background


START = "a"
ARMS: Mapping[str, Arm] = {
    "a": Arm("the labelled portraits alone", "labelled", ORIGINALS),
    "b": Arm("a, then more of the same", "labelled", ORIGINALS),
    "c": Arm("a, then raw GAN portraits as they are", "raw", 1.0),
    "d": Arm("a, then enhanced, as they are", "first", 1.0),
    "e": Arm("a, then enhanced and filtered, as they are", "best", 1.0),
    "f": Arm("a, then enhanced and filtered, over new backgrounds", "best", ORIGINALS),
    "g": Arm("a, then exact mattes of other people, over new backgrounds", "exact", ORIGINALS),
    "h": Arm("as g, but foregrounds estimated", "recoloured", ORIGINALS),
    "i": Arm("as h, but matted by the reference network", "relabelled", ORIGINALS),
    "j": Arm("as f, but not filtered", "first", ORIGINALS),
    "k": Arm("as f, but raw, not filtered", "raw", ORIGINALS),
    "l": Arm("as f, but none over its own background", "best", 0.0),
}


class Student(nn.Module):
    """A U-Net with features from 1/2 to 1/32, whose matte comes as blocks of 2 x 2 pixels; 1.4 M parameters.

    Nothing is convolved at full size, where one core needs most of its time: 14 ms a picture of 128 px instead of 18.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c_in, c_out, 2, 2), ResidualBlock(c_out, c_out))
            for c_in, c_out in itertools.pairwise(WIDTHS)
        )
        self.context = GlobalContext(WIDTHS[-1])
        self.bottom = ResidualBlock(WIDTHS[-1], WIDTHS[-1])
        self.reduce = nn.ModuleList(nn.Conv2d(c_deep, c_here, 1) for c_here, c_deep in itertools.pairwise(WIDTHS))
        self.up = nn.ModuleList(ResidualBlock(2 * c_here, c_here) for c_here in WIDTHS[1:-1])
        self.read = nn.Conv2d(12 + 2 * WIDTHS[0], 24, 3, padding=1)
        self.mend = nn.Conv2d(24, 24, 3, padding=1)
        self.predict = nn.Conv2d(24, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Alpha [N, 1, H, W] in [0, 1] of images [N, 3, H, W] in [-1, 1], H and W multiples of 32."""
        blocks = F.pixel_unshuffle(image, 2)  # [N, 12, H/2, W/2]
        features = [F.relu(self.stem(blocks))]
        for down in self.down:
            features.append(down(features[-1]))
        x = self.bottom(self.context(features.pop()))
        for reduce, up in zip(reversed(self.reduce[1:]), reversed(self.up), strict=True):
            x = up(torch.cat([features.pop(), doubled(reduce(x))], 1))
        x = F.relu(self.read(torch.cat([blocks, features.pop(), doubled(self.reduce[0](x))], 1)))
        x = F.relu(self.mend(x))
        return torch.sigmoid(F.pixel_shuffle(self.predict(x), 2).float())


def student() -> nn.Module:
    """The small network from nothing."""
    return Student()


@dataclass(frozen=True, slots=True)
class Job:
    """One training and its measurement; picklable."""

    arm: str
    seed: int
    place: Path
    out: Path  # NAME.safetensors
    start: Path | None  # what it goes on from, once that is measured
    network: str
    test: Path
    settings: dict[str, Any]  # keywords of finetune()

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def measured(self) -> Path:
        """Where its numbers are; there once it is done."""
        return measured_file(self.out)


def measured_file(out: Path) -> Path:
    """Beside a network."""
    return out.with_suffix(".measured.json")


def plan(
    state: Path, *, arms: str, seeds: Iterable[int], network: str, start_steps: int, steps: int, start_lr: float,
    lr: float, batch: int, size: int, real_share: float, labelled_backgrounds: str = "new",
    device: str = "cpu", readers: int = 0,
) -> list[Job]:  # fmt: skip
    """All trainings, starts first; a job's files are named by everything that it follows from.

    Args:
        labelled_backgrounds: "new" composites the labelled portraits' known foregrounds, "own" does without them.
        device, readers: where to compute, and the processes that read for it, as `finetune`'s device and workers.
    """
    is_own = labelled_backgrounds == "own"
    labelled = state / ("labelled-own" if is_own else "labelled")
    common = {"batch": batch, "size": size, "validate_on": state / "validation", "device": device, "workers": readers}
    jobs, starts = [], dict[int, Path]()
    for name in [START, *(arm for arm in ARMS if arm in arms and arm != START)]:
        arm = ARMS[name]
        for seed in seeds:
            if name == START:
                settings = common | {"seed": seed, "steps": start_steps, "lr": start_lr}
            else:
                settings = common | {"seed": LATER + seed, "steps": steps, "lr": lr, "real": labelled,
                                     "real_share": real_share}  # fmt: skip
            settings["originals"] = 1.0 if is_own and arm.dataset == "labelled" else arm.originals
            origin = starts[seed].stem if name != START else network
            described = {key: str(value) for key, value in settings.items()} | {"origin": origin, "arm": name}
            out = state / "trained" / f"{name}-{seed}-{shards.config_hash(described)[:8]}.safetensors"
            start = None if name == START else starts[seed]
            jobs.append(Job(name, seed, state / "shards" / arm.dataset, out, start, network, state / "test", settings))
            if name == START:
                starts[seed] = out
    return jobs


# Running


def run_jobs(jobs: list[Job], *, num_processes: int) -> None:
    """Trains and measures what is not there yet; a stopped training goes on from its last snapshot.

    Raises:
        ValueError: a training failed; it has said why.
    """
    waiting = [job for job in jobs if not job.measured.exists()]
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    running: dict[int, tuple[Job, BaseProcess]] = {}  # by sentinel
    with tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="trainings", unit="training") as bar:
        try:
            while waiting or running:
                ready = [job for job in waiting if job.start is None or measured_file(job.start).exists()]
                for job in ready[: num_processes - len(running)]:
                    waiting.remove(job)
                    process = context.Process(target=work, args=(job,))  # no daemon: readers are its children
                    process.start()
                    running[process.sentinel] = (job, process)
                bar.set_postfix(now="; ".join(job.name for job, _ in running.values()))
                for sentinel in wait(list(running)):
                    job, ended = running.pop(sentinel)  # type: ignore[arg-type]
                    ended.join()
                    if ended.exitcode or not job.measured.exists():
                        raise ValueError(
                            f"training {job.name} ended with exit code {ended.exitcode}; its message is above. "
                            "Run the same command again to go on"
                        )
                    bar.update()
        finally:
            for _, ended in running.values():
                ended.terminate()
                ended.join()


def work(job: Job) -> None:
    """In a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this one
    torch.set_num_threads(1)
    gen.keep_freed_memory()
    try:
        train_and_measure(job)
    except (ValueError, OSError) as error:
        print(f"error: training {job.name}: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2)


def train_and_measure(job: Job) -> None:
    """A network, and what it is worth on the test set."""
    name = f"{job.network}:{job.start}" if job.start else job.network
    finetune.finetune(job.place, job.out, network=name, **job.settings)
    write_measured(job.measured, f"{job.network}:{job.out}", job.test, device=job.settings["device"])


def write_measured(out: Path, network: str, test: Path, *, device: str) -> None:
    """Every number of every test portrait, by name and "metric/region"."""
    measured, _ = finetune.run(finetune.load_network(network).to(device), finetune.items(test))
    lines = {key: {f"{one.metric}/{one.region}": one.value for one in found} for key, found in measured.items()}
    shards.publish_text(out, json.dumps(lines, indent=0, allow_nan=False) + "\n")


# Before it starts


def seconds_per_image(job: Job) -> float:
    """CPU seconds of one picture, read and learnt from, in this process with one thread."""
    matting = finetune.load_network(job.network)
    settings = job.settings
    feed = Feed(
        job.place, batch=settings["batch"], size=settings["size"], trimap_px=None, seed=0,
        validate_on=settings["validate_on"],
    )  # fmt: skip
    run = Run(matting, recipe_of(matting), lr=1e-4, steps=100, seed=0, device=torch.device("cpu"))
    batches = feed.batches(0, 0)
    run.train_step(*on_device(next(batches)[2], run.device))  # the first fills the caches of the libraries
    before = time.process_time()
    for _ in range(NUM_TIMED):
        run.train_step(*on_device(next(batches)[2], run.device))
    return (time.process_time() - before) / (NUM_TIMED * int(settings["batch"]))


def missing_images(jobs: list[Job]) -> int:
    """Pictures that are still to be learnt from; a started training counts as a whole one."""
    return sum(job.settings["steps"] * job.settings["batch"] for job in jobs if not job.measured.exists())
