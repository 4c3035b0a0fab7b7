"""Shards shared among worker processes: each makes whole shards, so their number and order change no byte.

A worker that dies (killed, out of memory) costs its shard one more try by a new worker; a second death is reported and
the other shards go on. What a worker raises stops the run: it would happen again.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

Progress = Callable[[int, str | None], None]  # (kept so far in the shard, reason of a drop or None)
Work = Callable[[int, int, Progress], Any]  # (shard, quota, progress): make and publish one shard
MAX_TRIES = 2


def run_shards(
    tasks: Sequence[tuple[int, int]],
    start: Callable[[], Work],
    *,
    num_workers: int,
    progress: Callable[[int, int, str | None], None] | None = None,
) -> list[int]:
    """Makes every shard of `tasks`.

    Args:
        tasks: (shard, quota) each.
        start: called once in every worker process, loads the networks; must be picklable.
        num_workers: processes; never more than there are tasks.
        progress: called in this process after every candidate with (shard, kept so far in it, reason or None).

    Returns:
        Shards whose worker died twice; empty when everything was made.

    Raises:
        Exception: what a worker raised; the other workers are stopped, their partial shards removed.
    """
    waiting, tries, dead = deque(tasks), dict.fromkeys((shard for shard, _ in tasks), 0), []
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.task for worker in workers):
            num_wanted = min(num_workers, len(waiting) + sum(worker.task is not None for worker in workers))
            while waiting and sum(worker.process.is_alive() for worker in workers) < num_wanted:
                workers.append(_Worker(start))
            for worker in workers:
                if worker.task is None and waiting:
                    worker.give(waiting.popleft())
            ready = wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                task = worker.task
                if not worker.listen(progress):  # it died
                    workers.remove(worker)
                    if task is None:
                        continue
                    tries[task[0]] += 1
                    if tries[task[0]] < MAX_TRIES:
                        waiting.append(task)
                    else:
                        dead.append(task[0])
        return sorted(dead)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """One process, its pipe, and the shard it works on."""

    def __init__(self, start: Callable[[], Work]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.pipe, theirs = context.Pipe()
        self.task: tuple[int, int] | None = None
        self.process = context.Process(target=_work, args=(start, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its death ends the pipe

    def give(self, task: tuple[int, int]) -> None:
        """Hands it a shard; a worker that is dead already is found by `listen`."""
        self.task = task
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(task)

    def listen(self, progress: Callable[[int, int, str | None], None] | None) -> bool:
        """Takes one message; False when the process is gone."""
        try:
            kind, content = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return False
        if kind == "failed":
            raise content
        if kind == "done":
            self.task = None
        elif progress is not None:
            progress(*content)
        return True

    def stop(self) -> None:
        """Ends the process: an idle one by closing its pipe, a busy one by a signal, so that it removes its partial."""
        self.pipe.close()
        if self.task is not None:
            self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(start: Callable[[], Work], pipe: Connection) -> None:
    """A worker's life: shards from the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and decides
    signal.signal(signal.SIGTERM, _leave)
    work: Work | None = None
    while True:
        try:
            shard, quota = pipe.recv()
        except (EOFError, ConnectionResetError):
            break
        try:
            work = work or start()
            work(shard, quota, lambda kept, reason, shard=shard: pipe.send(("candidate", (shard, kept, reason))))  # type: ignore[misc]
            pipe.send(("done", shard))
        except (BrokenPipeError, ConnectionResetError):  # the parent is gone
            break
        except Exception as error:
            pipe.send(("failed", _picklable(error)))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is leaving already


def _leave(signal_number: int, frame: object) -> None:
    raise SystemExit(128 + signal_number)


def _picklable(error: Exception) -> Exception:
    """The error itself where it survives the pipe, or one that says the same."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
