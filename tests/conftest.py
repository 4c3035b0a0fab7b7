"""What more than one test file needs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mattesmith import shards
from mattesmith.filters import Scored


@pytest.fixture
def need_pymatting() -> Callable[[], None]:
    """Skips without the package; a bare import would change the number of torch's threads, see test_closed_form.py."""

    def need() -> None:
        if find_spec("pymatting") is None:
            pytest.skip("pymatting is missing: it is an optional extra")

    return need


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
