"""Promises of the writer: whole or nothing, the same bytes after any kill, one clear line when the disk refuses.

The module is also run as a script by its own test: it then makes the dataset again and again, killed by SIGKILL at
one more step each time.
"""

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mattesmith.enhance import Enhanced
from mattesmith.filters import Scored
from mattesmith.gen import Latents, Sample
from mattesmith.shards import TooFewKept, finish, open_dataset, plan, read_shards, write_shard
from mattesmith.shards import writer as writer_module

CONFIG = {"n": 5, "seed": 1, "psi": 0.7}
NETWORKS = [{"name": "tiny", "licence": "Apache-2.0", "source": "this test", "sha256": "0"}]
NUM_STEPS = 200  # more than a dataset has: the kills end when a run ends by itself


def portraits(shard: int, side: int = 8) -> Iterator[Scored]:
    """Every third candidate is dropped."""
    for candidate in range(1000):
        rng = np.random.default_rng([shard, candidate])
        image = torch.from_numpy(rng.uniform(-1, 1, (3, side, side)).astype("float32"))
        alpha = torch.from_numpy(rng.uniform(0, 1, (1, side, side)).astype("float32"))
        sample = Sample(Latents(1, shard, candidate, torch.zeros(4)), torch.zeros(2, 4), (), image)
        losses = {"entropy_before": 0.5, "entropy_after": 0.25}
        enhanced = Enhanced(sample, sample.ws, (), image, alpha, image, losses, 3)
        scores = {"agreement": float(rng.uniform()), "soft_share": 0.1}
        yield Scored(enhanced, scores, 1.5, "holes" if candidate % 3 == 1 else None)


def make(out: Path, *, n: int = 5, shard_size: int = 2, **encoding: Any) -> None:
    """A whole run, as the command line drives it."""
    config = {**CONFIG, "n": n}
    with open_dataset(out, config) as committed:
        for shard, quota in plan(n, shard_size):
            if shard not in committed:
                write_shard(out, shard, quota, portraits(shard), max_candidates=100, **encoding)
        finish(out, config=config, n=n, networks=NETWORKS)


def tree(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_a_shard_holds_its_members_in_order_with_nothing_of_this_machine(tmp_path: Path) -> None:
    make(tmp_path, n=2)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        members = tar.getmembers()
    names = ["image.png", "alpha.png", "fg.png", "trimap.png", "json"]
    assert [member.name for member in members] == [f"000000000{rank}.{name}" for rank in (0, 1) for name in names]
    owners = {(member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) for member in members}
    assert owners == {(0, 0, 0, "", "", 0o444)}


def test_the_json_tells_count_size_and_sum_and_the_parquet_tells_of_every_candidate(tmp_path: Path) -> None:
    make(tmp_path)
    shards, problems = read_shards(tmp_path)
    assert problems == []
    assert [(shard["count"], shard["candidates"], shard["dropped"]) for shard in shards.values()] == [
        *((2, 3, {"holes": 1}), (2, 3, {"holes": 1}), (1, 1, {}))
    ]
    for kind in ("tar", "parquet"):
        content = (tmp_path / f"00001.{kind}").read_bytes()
        assert shards[1][kind]["bytes"] == len(content)
        assert shards[1][kind]["sha256"] == hashlib.sha256(content).hexdigest()
    rows = pd.read_parquet(io.BytesIO((tmp_path / "00001.parquet").read_bytes()))
    assert rows["key"].tolist() == ["0000100000", "", "0000100001"]
    assert rows["dropped_by"].tolist() == ["", "holes", ""]
    assert {"losses.entropy_before", "scores.agreement", "steps", "candidate"} <= set(rows)


def test_the_same_run_gives_the_same_bytes_in_any_folder(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "ein Ordner, größer")
    assert tree(tmp_path / "a") == tree(tmp_path / "ein Ordner, größer")


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    before = tree(tmp_path)
    make(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("n, counts", [(0, []), (1, [1]), (2, [2]), (5, [2, 2, 1])])
def test_a_dataset_has_exactly_n_portraits(tmp_path: Path, n: int, counts: list[int]) -> None:
    make(tmp_path, n=n)
    assert [fields["count"] for fields in read_shards(tmp_path)[0].values()] == counts


def test_progress_hears_of_every_candidate(tmp_path: Path) -> None:
    heard: list[tuple[int, str | None]] = []
    write_shard(
        tmp_path,
        0,
        2,
        portraits(0),
        max_candidates=9,
        progress=lambda kept, dropped_by: heard.append((kept, dropped_by)),
    )
    assert heard == [(1, None), (1, "holes"), (2, None)]


def test_nothing_is_kept_of_a_hopeless_shard(tmp_path: Path) -> None:
    with pytest.raises(TooFewKept, match="shard 00000: only 2 of 5 kept after 3 candidates"):
        write_shard(tmp_path, 0, 5, portraits(0), max_candidates=3)
    assert list(tmp_path.iterdir()) == []


def test_an_encoders_error_comes_out_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="codec must be one of"):
        write_shard(tmp_path, 0, 2, portraits(0), max_candidates=9, codec="webp")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_stages_before_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    def broken() -> Iterator[Scored]:
        yield from (scored for scored, _ in zip(portraits(0), range(1), strict=False))
        raise OSError("the weights went away")

    with pytest.raises(OSError, match=r"^the weights went away$"):
        write_shard(tmp_path, 0, 2, broken(), max_candidates=9)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_no_partial(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Scored]:
        yield from (scored for scored, _ in zip(portraits(0), range(2), strict=False))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, 0, 5, interrupted(), max_candidates=9)
    assert list(tmp_path.iterdir()) == []


def refuse(reason: int) -> Callable[..., None]:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(reason, os.strerror(reason))

    return refused


class FullDisk(io.RawIOBase):
    """Takes a little, then has no room."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, chunk: Any) -> int:
        self.room -= len(chunk)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(chunk)


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("kind", ["tar", "parquet", "json"])
def test_a_full_disk_ends_with_one_line_leaves_no_partial_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, kind: str
) -> None:
    make(tmp_path / "reference")
    out = tmp_path / "out"
    real = writer_module.publish

    def fails_at_kind(path: Path, write: Any) -> dict[str, Any]:
        if path.name != f"00001.{kind}":
            return real(path, write)
        with pytest.MonkeyPatch.context() as inner:
            if step == "write":
                inner.setattr(writer_module, "_Hashed", lambda stream, path: FullWriter(stream, path))
            else:
                inner.setattr(writer_module.os, step, refuse(errno.ENOSPC))
            return real(path, write)

    class FullWriter(writer_module._Hashed):
        def write(self, chunk: Any) -> int:
            self.stream = FullDisk(100)  # type: ignore[assignment]
            return super().write(bytes(chunk) * 100)

    monkeypatch.setattr(writer_module, "publish", fails_at_kind)
    with pytest.raises(OSError, match=rf"cannot write .*00001\.{kind}: No space left on device; nothing half-written"):
        make(out)
    assert not [path for path in out.iterdir() if path.name.endswith(".partial")]
    assert not (out / "00001.json").exists()
    assert not (out / "dataset.json").exists()
    monkeypatch.setattr(writer_module, "publish", real)
    make(out)
    assert tree(out) == tree(tmp_path / "reference")


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", refuse(errno.EROFS))
    with pytest.raises(OSError, match=r"cannot write .*00000\.tar: Read-only file system"):
        write_shard(tmp_path, 0, 2, portraits(0), max_candidates=9)


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "page.html", tmp_path / "link.html"
    link.symlink_to(target)
    assert writer_module.publish_text(link, "page")["name"] == "link.html"
    assert link.is_symlink() and target.read_text() == "page"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="is there and is no regular file; name another"):
            writer_module.publish_text(path, "page")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_rows_with_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="candidate 1 has other columns than the first: b"):
        writer_module.parquet_of([{"candidate": 0}, {"candidate": 1, "b": 2.0}])


def test_a_kill_at_any_step_then_a_second_run_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module.os, "fsync", lambda descriptor: None)  # a kill loses nothing that was written
    make(tmp_path / "reference", n=3)
    killed = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert killed.returncode == 0, killed.stderr
    broken = sorted(path for path in tmp_path.iterdir() if path.name != "reference")
    assert len(broken) > 30
    partials = [path for path in broken if any(name.endswith(".partial") for name in tree(path))]
    assert len(partials) > 10
    reference = tree(tmp_path / "reference")
    for out in broken:
        make(out, n=3)
        assert tree(out) == reference, out.name


def kill_at(step: int) -> None:
    """Die by SIGKILL just before the given step: a write, an fsync or a rename, counted together."""
    left = step

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return run

    os.fsync, os.replace = counted(lambda descriptor: None), counted(os.replace)
    writer_module._Hashed.write = counted(writer_module._Hashed.write)  # type: ignore[method-assign]


def kill_everywhere(folder: Path) -> None:
    for step in range(NUM_STEPS):
        child = os.fork()
        if child == 0:
            kill_at(step)
            make(folder / f"killed_{step:03d}", n=3)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            return
    raise AssertionError("the run has more steps than kills")


if __name__ == "__main__":
    kill_everywhere(Path(sys.argv[1]))
