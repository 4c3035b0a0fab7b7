"""Peak memory of `generate` against the number of portraits: it must not grow.

    python bench/memory.py --n 50 --n 500

Every run is a fresh process with one worker; the peak is the sum over the process and its worker of what the kernel
recorded (VmHWM). Linux only, as it reads /proc.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

ROOT = Path(__file__).parents[1]


def peak_mib(pid: int) -> float:
    """Recorded peak of a process and its children, MiB."""
    children = {path.name for path in Path("/proc").glob("[0-9]*") if _parent(path) == pid}
    return sum(_high_water(pid) for pid in [pid, *map(int, children)])


def _field(path: Path, name: str) -> int:
    try:
        lines = (path / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _parent(path: Path) -> int:
    return _field(path, "PPid")


def _high_water(pid: int) -> float:
    return _field(Path(f"/proc/{pid}"), "VmHWM") / 1024


def measure(n: int, steps: int) -> tuple[float, float]:
    """(peak MiB, seconds) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "cli.py", "generate", "--n", n, "--steps", steps, "--workers", 1]
        command += ["--shard-size", 100, "--out", Path(folder) / "out"]
        start, peak = time.perf_counter(), 0.0
        run = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while run.poll() is None:
            peak = max(peak, peak_mib(run.pid))
            time.sleep(0.2)
        if run.returncode:
            raise SystemExit(f"generate --n {n} ended with {run.returncode}")
        return peak, time.perf_counter() - start


@click.command()
@click.option("--n", "numbers", type=click.IntRange(1), multiple=True, default=(50, 500), help="Portraits, once a run.")
@click.option("--steps", type=click.IntRange(0), default=2, show_default=True, help="Enhancement steps.")
def main(numbers: tuple[int, ...], steps: int) -> None:
    """Print the peak memory of one run for each --n."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, {os.cpu_count()} cores, torch {torch.__version__}, commit {commit.strip()}")
    first = None
    for n in numbers:
        peak, seconds = measure(n, steps)
        first = first or peak
        print(f"n {n:6d}: peak {peak:7.0f} MiB ({peak / first:.2f} x the first), {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
