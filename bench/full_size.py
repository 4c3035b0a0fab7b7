"""The full-size public network on a CPU: a config-f FFHQ file of 1024 px, made here with weights from key names alone.

    python bench/full_size.py --keys config_f_1024_keys.json

Writes a rosinality file (g_ema, d, latent_avg) of the true keys and shapes, loads it as `--generator` does, makes one
image and asks the discriminator about it. Prints seconds and the peak memory of this process.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from mattesmith import gen

ROOT = Path(__file__).parents[1]
GENERATOR, DISCRIMINATOR = "rosinality_g_1024_cm2", "rosinality_d_1024_cm2"


def filled(key: str, shape: list[int]) -> Tensor:
    """Values that follow from a key: kernels as they are, biases near 0 or 1, the rest standard normal."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    if key.endswith(".kernel"):
        return torch.outer(taps, taps) / 64
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape, dtype=np.float32)
    value = torch.from_numpy(normal)
    if key.endswith("bias"):
        return value * 0.1 + (1 if "modulation" in key else 0)
    if key.startswith("style."):
        return value * 100  # the mapping network divides its weights by 100 (lr multiplier 0.01)
    return value * 0.1 if key.endswith("noise.weight") else value


def write_file(keys: Path, path: Path) -> None:
    """The public layout with these weights."""
    networks = json.loads(keys.read_text())["networks"]
    states = {
        part: {key: filled(key, shape) for key, shape in networks[name]["keys"].items()}
        for part, name in (("g_ema", GENERATOR), ("d", DISCRIMINATOR))
    }
    torch.save(states | {"latent_avg": torch.zeros(512)}, path)


def peak_mib() -> float:
    """Peak memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@click.command()
@click.option("--keys", type=click.Path(path_type=Path, exists=True), required=True, help="Keys and shapes, JSON.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Threads of torch.")
@click.option("--file", type=click.Path(path_type=Path), help="Keep the file here, or use the one that is there.")
def main(keys: Path, threads: int, file: Path | None) -> None:
    """Load and run the full-size networks once."""
    torch.set_num_threads(threads)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}, ", end="")
    print(f"commit {commit.strip()}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        path = file or Path(folder) / "stylegan2-ffhq-config-f.pt"
        if not path.exists():  # in a process of its own, so that its memory does not count here
            code = "import runpy, sys; from pathlib import Path; "
            code += "runpy.run_path(sys.argv[1])['write_file'](Path(sys.argv[2]), Path(sys.argv[3]))"
            subprocess.run([sys.executable, "-c", code, __file__, keys, path], check=True)
        print(f"file: {path.stat().st_size:,} bytes; memory before loading {peak_mib():.0f} MiB")
        start, busy = time.perf_counter(), time.process_time()
        generator, discriminator = gen.load_generator(path), gen.load_discriminator(path)
        print(f"loaded both: {time.perf_counter() - start:.1f} s ({time.process_time() - busy:.1f} s of CPU)", end="")
    sizes = [sum(one.numel() for one in network.parameters()) for network in (generator, discriminator)]
    print(f", {sizes[0]:,} and {sizes[1]:,} parameters, peak {peak_mib():.0f} MiB")
    z = gen.draw_latents(0, 0, 0, z_dim=generator.z_dim).z[None]
    with torch.no_grad():
        start, busy = time.perf_counter(), time.process_time()
        image = generator.synthesis(generator.mapping(z, psi=0.7), "const")
        print(f"image: {time.perf_counter() - start:.1f} s ({time.process_time() - busy:.1f} s of CPU)", end="")
        print(f", {list(image.shape)}, finite: {bool(image.isfinite().all())}, peak {peak_mib():.0f} MiB")
        start, busy = time.perf_counter(), time.process_time()
        logit = discriminator(image)
        print(f"discriminator: {time.perf_counter() - start:.1f} s ({time.process_time() - busy:.1f} s of CPU)", end="")
        print(f", logit finite: {bool(logit.isfinite().all())}, peak {peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()
