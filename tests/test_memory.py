"""Memory of freed tensors is used again."""

import os
import platform
import subprocess
import sys

import pytest

LINES = """
import resource, torch
from mattesmith import gen

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2**22) for _ in range(8)]  # 16 MiB, 4,096 pages, each
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

gen.keep_freed_memory()
print([faults() for _ in range(5)][-1])  # the first ones make the room
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize("environment", [{}, {"MALLOC_TRIM_THRESHOLD_": "1000"}])
def test_the_next_tensors_take_the_pages_of_the_last_ones(environment: dict[str, str]) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", LINES], env=own | environment, capture_output=True, text=True, check=True, timeout=120
    )
    fresh = int(done.stdout)
    # Whoever has decided otherwise is left alone: all pages are fresh, 64 of them if they are of 2 MiB.
    assert fresh >= 64 if environment else fresh < 32
