"""Where shards lie: a folder, or any place that fsspec knows; read as a stream, never extracted."""

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from webdataset.tariterators import group_by_keys, tar_file_expander

from .manifest import DATASET, read_shards
from .members import MEMBER_NAME


@dataclass(frozen=True, slots=True)
class Source:
    """Shards by name, with the number of samples in each."""

    place: str  # a folder, or a URL
    shards: tuple[tuple[str, int], ...]

    @property
    def num_samples(self) -> int:
        """Of all shards."""
        return sum(count for _, count in self.shards)


def open_source(place: str | Path) -> Source:
    """The shards at a place.

    Args:
        place: a dataset's folder, finished or not; or a URL that fsspec knows (s3://, https://, ...) of a finished one.

    Raises:
        FileNotFoundError: no dataset there.
        ValueError: tars of another format, or a dataset without samples.
        ModuleNotFoundError: a URL is given, and fsspec (or its part for this kind of URL) is not installed.
    """
    counts = remote_counts(str(place)) if is_url(place) else local_counts(Path(place))
    source = Source(str(place), tuple(counts))
    if not source.num_samples:
        raise ValueError(f"{place} is a dataset without samples")
    return source


def is_url(place: str | Path) -> bool:
    """Whether fsspec is asked; a pipe: is no URL here, because it would run a command."""
    return isinstance(place, str) and "://" in place


def local_counts(folder: Path) -> list[tuple[str, int]]:
    """Committed shards of a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of shards")
    shards, problems = read_shards(folder)
    if problems:
        raise ValueError(f"{folder} is damaged: {problems[0]}; see `verify`")
    if not shards and any(folder.glob("*.tar")):
        raise ValueError(f"{folder} holds tars of another format: no 00000.json beside them says what they hold")
    if not shards:
        raise FileNotFoundError(f"{folder} is not a dataset: it has no shards (00000.tar with 00000.json)")
    return [(fields["tar"]["name"], fields["count"]) for fields in shards.values()]


def remote_counts(url: str) -> list[tuple[str, int]]:
    """Shards that a dataset's dataset.json names."""
    try:
        with open_remote(f"{url.rstrip('/')}/{DATASET}") as stream:
            content = stream.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} is not a finished dataset: it has no {DATASET}") from error
    try:
        shards = json.loads(content)["shards"]
        counts = [(str(fields["tar"]["name"]), int(fields["count"])) for fields in shards]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{url}/{DATASET} cannot be read: {error!r}") from error
    if any("/" in name for name, _ in counts):
        raise ValueError(f"{url}/{DATASET} names shards outside its folder")
    return counts


def open_remote(url: str) -> BinaryIO:
    """A stream from anywhere."""
    try:
        import fsspec  # here: only URLs need it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {url} needs fsspec; install it, or copy the dataset here") from error
    try:
        return cast(BinaryIO, fsspec.open(url, "rb").open())
    except ImportError as error:
        raise ModuleNotFoundError(f"reading {url} needs one more package: {error}") from error


def keys_of(source: Source) -> list[list[str]]:
    """Keys of the samples of every shard, in their order, from the shards' tables.

    Raises:
        ValueError: a table cannot be read, or counts other samples than the shard.
    """
    keys = []
    for name, count in source.shards:
        where = f"{source.place}/{Path(name).with_suffix('.parquet')}"
        try:
            with closing(open_remote(where) if is_url(source.place) else Path(where).open("rb")) as stream:
                column = pq.read_table(io.BytesIO(stream.read()), columns=["key"])["key"].to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{where} cannot be read: {str(error).splitlines()[0]}; see `verify`") from error
        keys.append([key for key in column if key])
        if len(keys[-1]) != count:
            raise ValueError(f"{where} names {len(keys[-1])} samples, its shard holds {count}; see `verify`")
    return keys


def stream_samples(source: Source, shard: int, *, members: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Samples of one shard in order, as webdataset gives them: "__key__" and the bytes of each member asked for.

    Raises:
        ValueError: the tar cannot be read, or has fewer samples than it should.
    """
    name, count = source.shards[shard]
    where = f"{source.place}/{name}"

    def is_wanted(file: str) -> bool:
        match = MEMBER_NAME.fullmatch(file)
        return match is not None and match[2] in members

    num_samples = 0
    try:
        with closing(open_remote(where) if is_url(source.place) else Path(where).open("rb")) as stream:
            files = tar_file_expander([{"url": where, "stream": stream}], select_files=is_wanted)
            for sample in group_by_keys(files):
                num_samples += 1
                yield sample
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{where} is no whole tar: {error.args[0] if error.args else error!r}; see `verify`"
        ) from error
    if num_samples < count:
        raise ValueError(f"{where} ended after {num_samples} of {count} samples; see `verify`")
