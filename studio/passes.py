"""What is seen from a camera: lit colour from few samples, exact coverage from many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from .camera import Camera, project
from .scene import build_scene, mitsuba
from .surfaces import Strands, Surface

HAIR = ("hair", "beard")


def lit_colour(scene: Any, *, samples: int, seed: int, max_depth: int = 3) -> np.ndarray:
    """Path-traced colour over black, [H, W, 4]: linear premultiplied RGB and the same samples' own alpha."""
    mi = mitsuba()
    integrator = mi.load_dict({"type": "path", "max_depth": max_depth, "hide_emitters": True})
    return np.nan_to_num(np.array(mi.render(scene, integrator=integrator, spp=samples, seed=seed), dtype=np.float32))


def paint_and_normals(scene: Any, *, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Albedo and normals of what is seen, each [H, W, 3], means over the covered samples; no light is traced."""
    mi = mitsuba()
    integrator = mi.load_dict({"type": "aov", "aovs": "albedo:albedo,normal:sh_normal", "depth": {"type": "depth"}})
    values = np.array(mi.render(scene, integrator=integrator, spp=samples, seed=seed), dtype=np.float32)
    values = np.asarray(np.nan_to_num(values) / np.maximum(values[..., 3:4], 1e-3), np.float32)
    return values[..., 4:7], values[..., 7:10]


class _Rays:
    """Batches of camera rays and what kind of thing each hits first: 0 nothing, 1 surface, 2 hair."""

    def __init__(self, scene: Any, size: int) -> None:
        import drjit

        mi = mitsuba()
        self.scene, self.sensor, self.size = scene, scene.sensors()[0], size
        kinds = {}
        for shape in scene.shapes():
            handles: Any = drjit.reinterpret_array(mi.UInt32, mi.ShapePtr(shape))
            handle = int(handles[0])
            kinds[handle] = 2 if shape.id().startswith(HAIR) else 1
        self.kinds = np.zeros(max(kinds, default=0) + 1, np.uint8)
        for handle, kind in kinds.items():
            self.kinds[handle] = kind

    def hit(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Kinds [N] uint8 seen at the picture positions x, y in pixels."""
        import drjit

        mi = mitsuba()
        film = mi.Point2f(mi.Float(x / self.size), mi.Float(y / self.size))
        ray, _ = self.sensor.sample_ray(0.0, 0.0, film, mi.Point2f(0.0))
        first = self.scene.ray_intersect_preliminary(ray, coherent=True)
        return np.asarray(self.kinds[np.array(drjit.reinterpret_array(mi.UInt32, first.shape))])


def _stratified(pixels: np.ndarray, size: int, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Jittered positions x, y [N * side * side] in a side x side grid of every pixel (flat indices [N])."""
    cell = np.arange(side * side)
    jitter = rng.random((2, len(pixels), side * side), dtype=np.float32)
    x = (pixels % size)[:, None] + (cell % side + jitter[0]) / side
    y = (pixels // size)[:, None] + (cell // side + jitter[1]) / side
    return x.astype(np.float32).ravel(), y.astype(np.float32).ravel()


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Where strands of hair run across the picture."""

    touched: np.ndarray  # [H, W] bool, pixels that a strand may cross
    direction: np.ndarray  # [H, W, 2] unit (x, y) of the nearest strands, 0 where there are none


def strand_flow(camera: Camera, strands: list[Strands], *, size: int) -> Flow:
    """Project strands, four points a segment; the pixels they meet and the front ones' mean direction."""
    found = [np.zeros((0, 5), np.float32)]
    for group in strands:
        if group.name.startswith(HAIR) and len(group.points):
            picture, depth = project(camera, group.points, size)
            step = np.diff(picture, axis=1)
            for share in (0.125, 0.375, 0.625, 0.875):
                at = picture[:, :-1] + step * share
                found.append(np.concatenate([at, step, depth[:, :-1, None]], -1).reshape(-1, 5))
    column, row, across, down, depth = np.concatenate(found).T
    seen = (column >= 0) & (row >= 0) & (column < size) & (row < size)
    pixel = (row[seen].astype(np.int64) * size + column[seen].astype(np.int64)).astype(np.int64)

    nearest = np.full(size * size, np.inf, np.float32)
    np.minimum.at(nearest, pixel, depth[seen])
    # Strands a centimetre behind the front one hardly show; a direction and its opposite are the same: double angle.
    weight = np.exp((nearest[pixel] - depth[seen]) / 0.01)
    angle = 2 * np.arctan2(down[seen], across[seen])
    double = [np.bincount(pixel, weight * f(angle), size * size).reshape(size, size) for f in (np.cos, np.sin)]
    double = [ndimage.uniform_filter(part, 3) for part in double]
    half = np.arctan2(double[1], double[0]) / 2
    known = (np.abs(double[0]) + np.abs(double[1]) > 0)[..., None]
    touched = ndimage.binary_dilation(np.isfinite(nearest).reshape(size, size), np.ones((3, 3), bool))
    return Flow(touched, np.where(known, np.stack([np.cos(half), np.sin(half)], -1), 0).astype(np.float32))


def coverage(scene: Any, touched: np.ndarray, *, size: int, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact alpha and hair coverage, each [H, W] in [0, 1], of a box pixel.

    Four samples a pixel find where the picture is plain. `samples`, stratified, are spent where the 3 x 3
    neighbourhood's alpha is not, or where a strand may cross (`touched` [H, W]) a pixel not full; a quarter where hair
    only parts from the skin behind it.
    """
    rays, rng = _Rays(scene, size), np.random.default_rng([seed, 7])
    everywhere = np.arange(size * size)
    kinds = rays.hit(*_stratified(everywhere, size, 2, rng)).reshape(size, size, 4)
    alpha, hair = (kinds > 0).mean(-1), (kinds == 2).mean(-1)
    edge, parting = (ndimage.maximum_filter(share, 3) != ndimage.minimum_filter(share, 3) for share in (alpha, hair))
    edge |= touched & (ndimage.minimum_filter(alpha, 3) < 1)

    for mask, side in ((edge, max(2, round(samples**0.5))), (parting & ~edge, max(2, round(samples**0.5 / 2)))):
        chosen = np.flatnonzero(mask)
        if not len(chosen):  # a bald head has no parting
            continue
        more = rays.hit(*_stratified(chosen, size, side, rng)).reshape(len(chosen), side * side)
        alpha.ravel()[chosen], hair.ravel()[chosen] = (more > 0).mean(-1), (more == 2).mean(-1)
    return alpha.astype(np.float32), hair.astype(np.float32)


def flat_coverage(
    surfaces: list[Surface], strands: list[Strands], camera: Camera, *, size: int, samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same as `coverage` for the scalar variant: every shape glows in a flat colour, nothing is shaded."""
    mi = mitsuba()
    scene = build_scene(surfaces, strands, camera, None, size=size)
    integrator = mi.load_dict({"type": "path", "max_depth": 1})
    side = max(2, round(samples**0.5))
    pixels = np.array(mi.render(scene, integrator=integrator, spp=side * side, seed=seed))
    hair = pixels[..., 0].clip(0, 1)
    return (hair + pixels[..., 1]).clip(0, 1).astype(np.float32), hair.astype(np.float32)


def straight(premultiplied: np.ndarray, own_alpha: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight colour [H, W, 3], extended where alpha is 0.

    A ratio of few samples is noise at low alpha, so below about a third coverage it gives way to a local mean,
    weighted by alpha squared, from a pyramid that is as coarse as it must be to have weight.

    Args:
        premultiplied: [H, W, 3] colour over black.
        own_alpha: [H, W], of the very samples that made the colour.
        alpha: [H, W], the exact one.
    """
    ratio = premultiplied / np.maximum(own_alpha, 1e-3)[..., None]
    trust = np.clip((np.minimum(alpha, own_alpha) - 0.15) / 0.35, 0, 1)
    trust = trust * trust * (3 - 2 * trust)
    return np.asarray(ratio * trust[..., None] + _spread(ratio, own_alpha**2) * (1 - trust[..., None]))


def _spread(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Local weighted mean [H, W, 3]: coarse levels fill what finer ones have no weight for."""
    height, width = weight.shape
    blurred = ndimage.uniform_filter(colour * weight[..., None], (3, 3, 1), mode="nearest")
    mass = ndimage.uniform_filter(weight, 3, mode="nearest")
    if min(height, width) <= 2:
        return np.broadcast_to(blurred.sum((0, 1)) / max(float(mass.sum()), 1e-8), colour.shape)
    even = np.pad(np.concatenate([blurred, mass[..., None]], -1), ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    half = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, 4).mean((1, 3))
    coarse = _spread(half[..., :3] / np.maximum(half[..., 3:], 1e-8), half[..., 3])
    rows, columns = ((np.arange(n) - 0.5) / 2 for n in (height, width))
    coarse = np.stack([ndimage.map_coordinates(coarse[..., c], np.meshgrid(rows, columns, indexing="ij"), order=1,
                                               mode="nearest") for c in range(3)], -1)  # fmt: skip
    sure = np.clip(mass / 0.15, 0, 1)[..., None]
    return np.asarray(blurred / np.maximum(mass, 1e-8)[..., None] * sure + coarse * (1 - sure))
