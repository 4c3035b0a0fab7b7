"""One shard onto the disk, so that a kill at any instant leaves either all of it or nothing that counts.

Order: the tar, then the parquet of all candidates, then the shard's JSON. The JSON is the commit: without it the
others are written again.
"""

import hashlib
import io
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

from ..filters import Scored
from .encode import Record, encode
from .plan import Candidate, fill_shard

PARTIAL = ".partial"
NUM_AHEAD = 16  # portraits that may wait for the encoder: bounds memory, hides the encoder behind the computation


class _Hashed(io.RawIOBase):
    """The partial file, counting and hashing what is written to it."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.stream, self.path = stream, path
        self.num_bytes, self.sha256 = 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        with naming(self.path):
            self.stream.write(chunk)
        self.sha256.update(chunk)
        self.num_bytes += len(chunk)
        return len(chunk)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what the disk answers into one line that names the file.

    Only around calls that change the disk: an OSError of the stage that computes the portraits passes as it is.
    """
    try:
        yield
    except OSError as error:
        advice = "nothing half-written was kept: mend that and run the same command again"
        raise OSError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def publish(path: Path, write: Callable[[BinaryIO], object]) -> dict[str, Any]:
    """Write a file so that it appears whole or not at all, and survives a power cut once it has appeared.

    Args:
        path: its final place; a link stays, the file it leads to is written.
        write: puts the content into the stream it is given.

    Returns:
        {"name", "bytes", "sha256"} of the file.

    Raises:
        ValueError: a folder, a device or a pipe is there already.
        OSError: one line that names the file and the reason; nothing half-written stays under the final name.
    """
    with naming(path):
        target = path.resolve()
        is_other = target.exists() and not target.is_file()
    if is_other:
        raise ValueError(f"cannot write {path}: it is there and is no regular file; name another")
    # The process id keeps an orphan of a killed run from writing into the file of its successor.
    partial = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL}")
    try:
        with naming(path):
            stream = partial.open("wb")
        try:
            hashed = _Hashed(stream, path)
            write(hashed)  # type: ignore[arg-type]
            with naming(path):
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            with suppress(OSError):  # after the fsync nothing is left to lose, before it another error is on its way
                stream.close()
        with naming(path):
            os.replace(partial, target)  # noqa: PTH105 - stands beside os.fsync, the other half of the promise
            sync_folder(target.parent)
    except BaseException:  # also an interrupt: leave no partial, and let it pass
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return {"name": path.name, "bytes": hashed.num_bytes, "sha256": hashed.sha256.hexdigest()}


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is not on the disk before its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_bytes(path: Path, content: bytes) -> dict[str, Any]:
    """Publish a content that is in memory already."""
    return publish(path, lambda stream: stream.write(content))


def publish_text(path: Path, text: str) -> dict[str, Any]:
    """Publish a text file."""
    return publish_bytes(path, text.encode())


def publish_json(path: Path, fields: Any) -> dict[str, Any]:
    """Publish a JSON file, indented, its keys in the order given."""
    return publish_text(path, json.dumps(fields, indent=2, allow_nan=False) + "\n")


def write_shard(
    out: Path,
    shard: int,
    quota: int,
    portraits: Iterator[Scored],
    *,
    max_candidates: int,
    progress: Callable[[int, str | None], None] | None = None,
    **encoding: Any,
) -> dict[str, Any]:
    """Fill one shard, encode it, publish it.

    Args:
        out: the dataset's folder.
        shard: its number.
        quota: how many portraits to keep.
        portraits: its candidates 0, 1, 2, ... in order.
        max_candidates: see `fill_shard`.
        progress: called after every candidate with the number kept so far and the reason it was dropped by, or None.
        encoding: knobs of `encode`: codec, trimap_width, jpeg_quality, with_latents, with_alpha16.

    Returns:
        What was written to the shard's JSON.
    """
    rows: list[dict[str, int | float | str]] = []
    keys = 0
    members: list[str] = []

    def note(candidate: Candidate) -> None:
        nonlocal keys
        rows.append(candidate.row)
        keys += bool(candidate.key)
        if progress is not None:
            progress(keys, candidate.scored.dropped_by)

    def write_tar(stream: BinaryIO) -> None:
        candidates = fill_shard(shard, quota, portraits, max_candidates=max_candidates)
        members[:] = pack(stream, _encoded(candidates, note, encoding))

    tar = publish(out / f"{shard:05d}.tar", write_tar)
    dropped = Counter(str(row["dropped_by"]) for row in rows if row["dropped_by"])
    return commit(
        out, shard, tar=tar, table=parquet_of(rows), members=members, count=keys, candidates=len(rows), dropped=dropped
    )


def pack(stream: BinaryIO, records: Iterable[Record]) -> list[str]:
    """Write records as a tar, the same bytes every time; returns the names of a sample's members."""
    members: list[str] = []
    with wds.TarWriter(stream, user="", group="", mode=0o444, mtime=0, encoder=False) as tar:
        for record in records:
            members = list(record.files)
            for name, content in record.files.items():
                # One call a member: TarWriter sorts the members it is given together.
                tar.write({"__key__": record.key, name: content})
    return members


def commit(
    out: Path, shard: int, *, tar: dict[str, Any], table: bytes, members: list[str], count: int, candidates: int,
    dropped: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    """Publish the table of a shard whose tar stands, then its JSON, with which it counts.

    Args:
        tar: what `publish` returned.
        table: the parquet file of all candidates.
        members: names of every sample's members, in order.
        count, candidates: kept portraits, and all.
        dropped: number by reason.

    Returns:
        What was written to the shard's JSON.
    """
    fields = {
        "shard": shard,
        "count": count,
        "members": members,
        "candidates": candidates,
        "dropped": {reason: dropped[reason] for reason in sorted(dropped)},
        "tar": tar,
        "parquet": publish_bytes(out / f"{shard:05d}.parquet", table),
    }
    publish_json(out / f"{shard:05d}.json", fields)
    return fields


def _encoded(
    candidates: Iterator[Candidate], note: Callable[[Candidate], None], encoding: dict[str, Any]
) -> Iterator[Record]:
    """Records of the kept candidates, in order; one thread encodes while the next portraits are computed."""
    waiting: deque[Future[Record]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as pool:
        for candidate in candidates:
            note(candidate)
            if candidate.key:
                waiting.append(pool.submit(encode, candidate.scored, key=candidate.key, **encoding))
            while waiting and (len(waiting) > NUM_AHEAD or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def parquet_of(rows: list[dict[str, int | float | str]]) -> bytes:
    """All candidates of a shard as one parquet table; every row has the same columns, in the same order."""
    columns = list(rows[0]) if rows else []
    for row in rows:
        if list(row) != columns:
            different = ", ".join(sorted(set(row) ^ set(columns))) or "their order"
            raise ValueError(f"candidate {row['candidate']} has other columns than the first: {different}")
    arrow = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(name, arrow[type(rows[0][name])]) for name in columns])
    return parquet_bytes(pa.Table.from_pylist(rows, schema=schema))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()
