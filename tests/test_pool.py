"""The workers' promises: all shards made, deaths retried then reported, errors passed on."""

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from mattesmith.shards.pool import Progress, Work, run_shards


def start_marking(folder: Path, deadly: int = -1, deaths: int = 0) -> Work:
    def work(shard: int, quota: int, progress: Progress) -> None:
        tombs = list(folder.glob(f"death-{shard}-*"))
        if shard == deadly and len(tombs) < deaths:
            (folder / f"death-{shard}-{len(tombs)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        for kept in range(quota):
            progress(kept + 1, None)
        (folder / f"shard-{shard}").touch()

    return work


def start_raising() -> Work:
    def work(shard: int, quota: int, progress: Progress) -> None:
        raise ValueError(f"shard {shard} is impossible")

    return work


def start_slow(folder: Path) -> Work:
    def work(shard: int, quota: int, progress: Progress) -> None:
        (folder / "began").touch()
        try:
            time.sleep(60)
        finally:
            (folder / "cleaned").touch()

    return work


def made(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("shard-*")}


def test_every_shard_is_made_and_every_candidate_reported(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str | None]] = []
    dead = run_shards(
        [(0, 2), (1, 2), (2, 1)],
        partial(start_marking, tmp_path),
        num_workers=2,
        progress=lambda *one: seen.append(one),
    )
    assert dead == [] and made(tmp_path) == {"shard-0", "shard-1", "shard-2"}
    assert sorted(seen) == [(0, 1, None), (0, 2, None), (1, 1, None), (1, 2, None), (2, 1, None)]


def test_no_worker_is_started_without_a_task_for_it(tmp_path: Path) -> None:
    seen: list[int] = []
    run_shards(
        [(0, 1), (1, 1)],
        partial(start_marking, tmp_path),
        num_workers=4,
        progress=lambda *one: seen.append(len(multiprocessing.active_children())),
    )
    assert made(tmp_path) == {"shard-0", "shard-1"} and max(seen) <= 2


def test_a_killed_workers_shard_is_tried_again(tmp_path: Path) -> None:
    assert run_shards([(0, 1), (1, 1)], partial(start_marking, tmp_path, 1, 1), num_workers=1) == []
    assert made(tmp_path) == {"shard-0", "shard-1"}


def test_a_shard_whose_worker_dies_twice_is_reported_and_the_rest_is_made(tmp_path: Path) -> None:
    assert run_shards([(0, 1), (1, 1), (2, 1)], partial(start_marking, tmp_path, 0, 9), num_workers=1) == [0]
    assert made(tmp_path) == {"shard-1", "shard-2"}


def test_what_a_worker_raises_comes_out() -> None:
    with pytest.raises(ValueError, match="shard 0 is impossible"):
        run_shards([(0, 1)], start_raising, num_workers=1)


def test_an_interrupt_lets_the_workers_clean_up(tmp_path: Path) -> None:
    def interrupt(shard: int, kept: int, reason: str | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_shards([(0, 1), (1, 1)], partial(start_first_then_slow, tmp_path), num_workers=2, progress=interrupt)
    assert (tmp_path / "began").exists() and (tmp_path / "cleaned").exists()


def start_first_then_slow(folder: Path) -> Work:
    slow = start_slow(folder)

    def work(shard: int, quota: int, progress: Progress) -> None:
        if shard == 0:
            slow(shard, quota, progress)
        while not (folder / "began").exists():
            time.sleep(0.01)
        progress(1, None)
        time.sleep(60)

    return work
