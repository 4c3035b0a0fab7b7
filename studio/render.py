"""Portraits as pictures: straight colour with exact alpha, one by one or by the thousand."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from . import hair as growth
from . import portraits
from .camera import Camera, draw_camera
from .denoise import denoise
from .light import Light, draw_light
from .passes import coverage, flat_coverage, lit_colour, paint_and_normals, straight, strand_flow
from .scene import build_scene, mitsuba
from .surfaces import Strands, Surface

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
SPLITS = ("train", "val", "test")
MIDDLE_SKIN = 0.35  # luminance of an average light skin's albedo


@dataclass(frozen=True, slots=True, eq=False)
class Render:
    """One picture."""

    colour: np.ndarray  # [H, W, 3] linear straight foreground in [0, 1], extended where alpha is 0
    alpha: np.ndarray  # [H, W] in [0, 1], exact
    hair: np.ndarray  # [H, W] in [0, 1], coverage by strands of hair and beard, at most alpha


def develop(colour: np.ndarray, alpha: np.ndarray, hair: np.ndarray, albedo: np.ndarray, exposure: float) -> np.ndarray:
    """Expose for the face, then roll off highlights: linear up to 0.6, 1 at infinity.

    An average light skin gets the mean luminance `exposure`; darker skin is left darker, by a power of its albedo, as
    a photographer would.
    """
    height, width = alpha.shape
    middle = np.zeros_like(alpha)
    middle[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 1
    weight = middle * alpha * (1 - hair) + 1e-6
    lit, skin = (float(((picture @ LUMINANCE) * weight).sum() / weight.sum()) for picture in (colour, albedo))
    aim = exposure * (max(skin, 0.02) / MIDDLE_SKIN) ** 0.6
    exposed = np.maximum(colour, 0) * (aim / max(lit, 1e-6))
    over = np.maximum(exposed - 0.6, 0)
    return np.asarray(np.minimum(exposed, 0.6) + 0.4 * over / (over + 0.4), np.float32)


def render(
    surfaces: list[Surface],
    strands: list[Strands],
    camera: Camera,
    light: Light,
    *,
    size: int = 256,
    colour_samples: int = 9,
    alpha_samples: int = 100,
    seed: int = 0,
) -> Render:
    """Render one portrait.

    Colour is path-traced with few samples and denoised; alpha is counted apart, with many samples and no light.

    Args:
        alpha_samples: stratified samples in each pixel of the matte's edge.
    """
    scene = build_scene(surfaces, strands, camera, light, size=size)
    flow = strand_flow(camera, strands, size=size)
    if mitsuba().variant().startswith("llvm"):
        alpha, hair = coverage(scene, flow.touched, size=size, samples=alpha_samples, seed=seed)
    else:
        alpha, hair = flat_coverage(surfaces, strands, camera, size=size, samples=alpha_samples, seed=seed)
    lit = lit_colour(scene, samples=colour_samples, seed=seed)
    albedo, normal = paint_and_normals(scene, samples=4, seed=seed)
    share = hair / np.maximum(alpha, 1e-3)
    clean = denoise(lit[..., :3], lit[..., 3], albedo, normal, share, flow.direction)
    colour = straight(clean, lit[..., 3], alpha)
    return Render(develop(colour, alpha, hair, albedo, light.exposure), alpha, hair)


def split_of(identity: int) -> str:
    """Which split an identity belongs to, for ever: 80 % train, 10 % val, 10 % test by a hash of its number."""
    share = hashlib.sha256(f"identity {identity}".encode()).digest()[0] / 256
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def portrait(identity: int, *, size: int, seed: int) -> tuple[Render, dict[str, object]]:
    """Draw, build and render one identity; a function of (identity, size, seed) alone."""
    rng = np.random.default_rng([seed, identity])
    attributes = portraits.draw_attributes(rng)
    body = portraits.build(attributes)
    strands = growth.grow(attributes.hair, body, rng)
    camera, light = draw_camera(rng, body.head[:3, 3]), draw_light(rng)
    # A large picture's noise is averaged away when training makes it smaller; a small one's stays.
    samples = 9 if size > 128 else 12
    renderer_seed = int(rng.integers(2**31))
    picture = render(body.surfaces, strands, camera, light, size=size, colour_samples=samples, seed=renderer_seed)
    record = {"identity": identity, "seed": seed, "size": size, "light": light.name, "camera": asdict(camera),
              "attributes": asdict(attributes)}  # fmt: skip
    return picture, record


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear [0, 1] to sRGB uint8 (IEC 61966-2-1)."""
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255), np.uint8)


def from_srgb(rgb: np.ndarray) -> np.ndarray:
    """sRGB uint8 to linear [0, 1] float32."""
    encoded = rgb.astype(np.float32) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def save(picture: Render, record: dict[str, object], stem: Path) -> None:
    """Write the four files of one portrait, each by a temporary name, the JSON last: it marks the rest complete."""
    layers = {"foreground": to_srgb(picture.colour), "alpha": picture.alpha, "hair": picture.hair}
    for name, layer in layers.items():
        pixels = layer if layer.dtype == np.uint8 else np.rint(layer * 255).astype(np.uint8)
        partial = stem.with_name(f"{stem.name}.{name}.png.partial")
        Image.fromarray(pixels).save(partial, format="PNG", compress_level=4)
        partial.replace(stem.with_name(f"{stem.name}.{name}.png"))
    partial = stem.with_name(f"{stem.name}.json.partial")
    partial.write_text(json.dumps(record, default=float))
    partial.replace(stem.with_name(f"{stem.name}.json"))


def _work(identity: int, out: Path, size: int, seed: int) -> int:
    picture, record = portrait(identity, size=size, seed=seed)
    save(picture, record, out / split_of(identity) / f"{identity:06d}")
    return identity


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too, and decides
    threading.Thread(target=_end_with_the_command, daemon=True).start()


def _end_with_the_command() -> None:
    """Without it, the workers of a killed command would render what was submitted, then wait for ever."""
    if command := multiprocessing.parent_process():
        command.join()
        os._exit(1)


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread that end with this one, however it ends; an error drops what they have not begun."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def render_portraits(
    out: Path, *, count: int, first: int = 0, splits: Collection[str] = SPLITS, size: int = 256, seed: int = 0,
    workers: int = 1,
) -> list[int]:  # fmt: skip
    """Render those of the `count` identities from `first` on that belong to `splits`; what is there already is kept.

    Returns:
        The identities that failed, each reported on the way; the others are complete.
    """
    for split in SPLITS:
        (out / split).mkdir(parents=True, exist_ok=True)
    wanted = [i for i in range(first, first + count) if split_of(i) in splits]
    missing = [i for i in wanted if not (out / split_of(i) / f"{i:06d}.json").exists()]
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read by a worker as it starts
        os.environ.setdefault(variable, "1")
    failed: list[int] = []
    with (
        worker_pool(workers) as pool,
        tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="portrait", desc="render") as bar,
    ):
        futures: dict[Future[int], int] = {pool.submit(_work, i, out, size, seed): i for i in missing}
        for future in as_completed(futures):
            bar.update()
            if (error := future.exception()) is not None:
                failed.append(futures[future])
                bar.write(f"identity {futures[future]} failed: {type(error).__name__}: {error}")
    return sorted(failed)


def _backgrounds(rng: np.random.Generator, size: int) -> Iterator[np.ndarray]:
    """Endless linear gradients [size, size, 3] between two colours, dark to bright."""
    while True:
        ends = rng.uniform(0.02, 0.9, (2, 1, 1, 1)) * rng.uniform(0.6, 1, (2, 1, 1, 3))
        row, column = np.mgrid[:size, :size] / size - 0.5
        turn = rng.uniform(0, 2 * np.pi)
        share = np.clip(0.5 + row * np.sin(turn) + column * np.cos(turn), 0, 1)[..., None]
        yield ends[0] * (1 - share) + ends[1] * share


def sheet(out: Path, path: Path, n: int = 32, *, columns: int = 8, seed: int = 0) -> None:
    """A contact sheet of n renders drawn at random, over varied backgrounds, composited in linear light."""
    rng = np.random.default_rng(seed)
    records = sorted(out.glob("*/*.json"))
    if not records:
        raise FileNotFoundError(f"{out} has no renders to show: run `mattesmith studio render` first")
    tiles = []
    for choice in rng.permutation(len(records))[:n]:
        stem = records[choice].with_suffix("")
        with Image.open(f"{stem}.foreground.png") as file:
            colour = from_srgb(np.asarray(file))
        with Image.open(f"{stem}.alpha.png") as file:
            alpha = np.asarray(file, np.float32)[..., None] / 255
        tiles.append(to_srgb(colour * alpha + next(_backgrounds(rng, len(alpha))) * (1 - alpha)))
    size = min(map(len, tiles))  # a folder may hold renders of several sizes
    tiles = [np.asarray(Image.fromarray(tile).resize((size, size), Image.Resampling.BOX)) for tile in tiles]
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    Image.fromarray(np.concatenate(rows, 0)).save(path)
