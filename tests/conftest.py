"""What more than one test file needs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mattesmith import shards
from mattesmith.filters import Scored


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """Writes a whole dataset into a folder; `portraits(shard)` gives the candidates of a shard."""

    def write(
        folder: Path,
        portraits: Callable[[int], Iterator[Scored]],
        *,
        n: int,
        shard_size: int,
        config: Mapping[str, Any],
        networks: Sequence[Mapping[str, str]] = (),
        **encoding: Any,
    ) -> Path:
        with shards.open_dataset(folder, config):
            for shard, quota in shards.plan(n, shard_size):
                shards.write_shard(folder, shard, quota, portraits(shard), max_candidates=9, **encoding)
            shards.finish(folder, config=config, n=n, networks=networks)
        return folder

    return write
