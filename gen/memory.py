"""What the C library does with memory that tensors leave."""

import ctypes
import os
import sys

# Names and largest values of glibc's mallopt(3), from its malloc.h.
TRIM_THRESHOLD, MAX_TRIM = -1, 2**31 - 1
MMAP_THRESHOLD, MAX_MMAP = -3, 32 * 2**20


def keep_freed_memory() -> None:
    """Lets this process keep the memory of freed tensors of up to 32 MiB for the next ones.

    glibc gives it back to the system at once and asks for fresh pages, which the system fills with zeros: up to a third
    of a training's time (docs/decisions.md). Other C libraries are left as they are, and so is whatever the environment
    sets (MALLOC_TRIM_THRESHOLD_ and its like).
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, MAX_TRIM)
        mallopt(MMAP_THRESHOLD, MAX_MMAP)
