"""Arrays into the renderer's scene: painted meshes, strands as round curves, a camera, an environment.

The renderer is Mitsuba 3 (the `studio` extra). Its LLVM variant is used where libLLVM 16 or newer is found, the
scalar one elsewhere: older libLLVM aborts the whole process on processors with half-precision AVX-512.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .camera import Camera, project
from .light import Light
from .surfaces import Strands, Surface

LLVM_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")


def newest_llvm() -> str | None:
    """The newest usable libLLVM of this machine."""
    found = {}
    for folder in [*LLVM_FOLDERS, *map(str, Path("/usr/lib").glob("llvm-*/lib"))]:
        for file in Path(folder).glob("libLLVM*.so*"):
            version = re.search(r"(\d+)", file.name.removeprefix("libLLVM"))
            if version and int(version[1]) >= 16:
                found[int(version[1])] = str(file)
    return found[max(found)] if found else None


@cache
def mitsuba() -> Any:
    """The renderer's module with its variant chosen and one thread; processes are what runs in parallel."""
    if "DRJIT_LIBLLVM_PATH" not in os.environ and (library := newest_llvm()) is not None:
        os.environ["DRJIT_LIBLLVM_PATH"] = library
    try:
        import drjit
        import mitsuba as mi
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the studio needs the package {error.name}: install the optional extra with `pip install '.[studio]'`"
        ) from error
    if "DRJIT_LIBLLVM_PATH" in os.environ:
        mi.set_variant("llvm_ad_rgb")
    else:
        print("studio: no libLLVM 16 or newer found, rendering with the scalar variant (slower)", file=sys.stderr)
        mi.set_variant("scalar_rgb")
    mi.set_log_level(mi.LogLevel.Error)
    drjit.set_thread_count(1)
    return mi


def cut_out(surface: Surface) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the mesh along the line where its interpolated opacity is 0.5, across triangles: no saw edge.

    Returns:
        vertices [V', 3], faces [F', 3], colour [V', 3] of the part above 0.5.
    """
    vertices, faces, colour = surface.vertices, surface.faces, surface.colour
    if surface.opacity is None:
        return vertices, faces, colour
    inside = surface.opacity > 0.5
    count = inside[faces].sum(1)

    # Turn every crossed triangle so that its odd vertex (alone in, or alone out) comes first.
    crossed = faces[(count == 1) | (count == 2)]
    odd = np.where(inside[crossed].sum(1) == 1, np.argmax(inside[crossed], 1), np.argmin(inside[crossed], 1))
    crossed = np.take_along_axis(crossed, (odd[:, None] + np.arange(3)) % 3, 1)
    alone_in = inside[crossed[:, 0]]

    # One new vertex an edge, shared by its two triangles, so that normals stay smooth.
    edges = np.sort(np.concatenate([crossed[:, [0, 1]], crossed[:, [0, 2]]]), 1)
    unique, new = np.unique(edges, axis=0, return_inverse=True)
    new = len(vertices) + new.reshape(2, -1)
    low, high = surface.opacity[unique[:, 0]], surface.opacity[unique[:, 1]]
    share = ((0.5 - low) / (high - low))[:, None].astype(np.float32)
    vertices = np.concatenate([vertices, vertices[unique[:, 0]] * (1 - share) + vertices[unique[:, 1]] * share])
    colour = np.concatenate([colour, colour[unique[:, 0]] * (1 - share) + colour[unique[:, 1]] * share])

    tips = np.stack([crossed[:, 0], new[0], new[1]], 1)[alone_in]
    first = np.stack([new[0], crossed[:, 1], crossed[:, 2]], 1)[~alone_in]
    second = np.stack([new[0], crossed[:, 2], new[1]], 1)[~alone_in]
    return vertices, np.concatenate([faces[count == 3], tips, first, second]), colour


def _mesh(surface: Surface, camera: Camera, bsdf: Any, emitter: Any | None) -> Any:
    mi = mitsuba()
    vertices, faces, colour = cut_out(surface)
    # Far below the picture nothing is seen; a margin keeps what throws light or shadow into it.
    row = project(camera, vertices, 1)[0][:, 1]
    faces = faces[(row < 1.4)[faces].any(1)]
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    vertices, faces, colour = vertices[used], (np.cumsum(used) - 1)[faces], colour[used]
    props = mi.Properties()
    props["bsdf"] = bsdf
    if emitter is not None:
        props["emitter"] = emitter
    mesh = mi.Mesh(surface.name, len(vertices), len(faces), has_vertex_normals=True, props=props)
    mesh.add_attribute("vertex_albedo", 3, np.ascontiguousarray(colour, np.float32).ravel())
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = np.ascontiguousarray(vertices, np.float32).ravel()
    parameters["faces"] = np.ascontiguousarray(faces, np.uint32).ravel()
    parameters.update()
    return mesh


def decimal(values: np.ndarray) -> np.ndarray:
    """Fixed-point text of numbers in (-10, 10), 10 characters each ("+0.012345 "), as uint8 [..., 10].

    Digit by digit over whole arrays: a hundred times faster than formatting in a loop.
    """
    rest = np.rint(np.abs(values) * 1e6).astype(np.int32)
    text = np.empty((*values.shape, 10), np.uint8)
    text[..., 0] = np.where(values < 0, ord("-"), ord("+"))
    text[..., 2], text[..., 9] = ord("."), ord(" ")
    for column in (8, 7, 6, 5, 4, 3, 1):
        quotient = rest // 10
        text[..., column] = rest - quotient * 10 + ord("0")
        rest = quotient
    return text


def round_up(count: int) -> int:
    """The next number of segments for which kernels are compiled: at least 4096, of three leading binary digits.

    The renderer writes a shape's number of segments into its machine code, which takes longer to compile than a
    portrait to render. So shapes come in few sizes, and a few dozen portraits compile what thousands need.
    """
    step = 1 << max(count.bit_length() - 3, 0)
    return max(4096, -(-count // step) * step)


def write_curves(strands: Strands, path: Path, spare: int, spare_at: np.ndarray) -> None:
    """Write strands as the renderer's curve text: a line "x y z radius" a point, an empty line after a strand.

    Args:
        spare: segments that only make up the number, one strand a micrometre thin at `spare_at` [3].
    """
    groups = [np.concatenate([strands.points, strands.radius[..., None]], -1)]  # [S, P, 4]
    if spare:
        hidden = np.tile(np.append(spare_at, 1e-6), (1, spare + 1, 1))
        hidden[:, ::2, 0] += 1e-3  # to and fro
        groups.append(hidden)
    with path.open("wb") as file:
        for points in groups:
            text = decimal(points).reshape(len(points), -1, 40)
            text[..., 39] = ord("\n")
            blank = np.full((len(points), 1), ord("\n"), np.uint8)
            np.concatenate([text.reshape(len(points), -1), blank], 1).tofile(file)


def _strand_texture(strands: Strands, spare: int) -> Any:
    """Colour by strand, root to tip.

    A curve's v runs over the segments of all strands in order, so one texel a segment, unfiltered, is a colour a
    segment; black for `spare` more. Tips are a little paler than roots.
    """
    mi = mitsuba()
    segments = strands.points.shape[1] - 1
    ramp = np.linspace(0.92, 1.12, segments, dtype=np.float32)[None, :, None]
    texels = np.clip(strands.colour[:, None] * ramp, 0, 0.95).reshape(-1, 1, 3)
    texels = np.repeat(np.pad(texels, ((0, spare), (0, 0), (0, 0))), 2, 1)
    return mi.load_dict(
        {"type": "bitmap", "bitmap": mi.Bitmap(np.ascontiguousarray(texels, np.float32)), "raw": True,
         "filter_type": "nearest", "wrap_mode": "clamp"}
    )  # fmt: skip


def _surface_bsdf(surface: Surface) -> dict[str, Any]:
    albedo = {"type": "mesh_attribute", "name": "vertex_albedo"}
    bsdf: dict[str, Any] = {"type": "principled", "base_color": albedo, "roughness": surface.roughness,
                            "specular": surface.specular}  # fmt: skip
    if surface.name == "skin":
        bsdf |= {"flatness": 0.6, "sheen": 0.12, "sheen_tint": 0.6}  # flatness: light that wanders below the surface
    if surface.name == "eyes":
        bsdf |= {"clearcoat": 1.0, "clearcoat_gloss": 0.95}
    return {"type": "twosided", "bsdf": bsdf}  # the inside of a collar is seen


def _flat(rgb: tuple[float, float, float]) -> dict[str, Any]:
    return {"type": "area", "radiance": {"type": "rgb", "value": list(rgb)}}


def build_scene(
    surfaces: list[Surface], strands: list[Strands], camera: Camera, light: Light | None, *, size: int
) -> Any:
    """The scene of a portrait. Without a light every shape glows instead: red strands of hair, green all else.

    Shape ids are "hair", "beard" ... for strands, "surface0" ... for meshes.
    """
    mi = mitsuba()
    look = mi.ScalarTransform4f().look_at(origin=list(camera.origin), target=list(camera.target), up=list(camera.up))
    scene: dict[str, Any] = {
        "type": "scene",
        "sensor": {
            "type": "perspective", "fov": camera.fov_deg, "to_world": look, "near_clip": 0.01,
            "sampler": {"type": "multijitter"},
            "film": {"type": "hdrfilm", "width": size, "height": size, "pixel_format": "rgba",
                     "component_format": "float32", "rfilter": {"type": "box"}},
        },
    }  # fmt: skip
    if light is not None:
        scene["light"] = {"type": "envmap", "bitmap": mi.Bitmap(light.environment)}
    for number, surface in enumerate(surfaces):
        bsdf = mi.load_dict(_surface_bsdf(surface) if light is not None else {"type": "diffuse"})
        scene[f"surface{number}"] = _mesh(
            surface, camera, bsdf, mi.load_dict(_flat((0, 1, 0))) if light is None else None
        )
    below = np.array(camera.target) - [0, 3, 0]  # where nothing is seen
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for number, group in enumerate(group for group in strands if len(group.points)):
            path = Path(folder) / f"{number}.txt"
            segments = len(group.points) * (group.points.shape[1] - 1)
            spare = round_up(segments) - segments
            write_curves(group, path, spare, below)
            curves: dict[str, Any] = {"type": "linearcurve", "filename": str(path)}
            if light is None:
                curves["emitter"] = _flat((1, 0, 0) if group.name in ("hair", "beard") else (0, 1, 0))
            else:
                curves["bsdf"] = {"type": "principled", "base_color": _strand_texture(group, spare),
                                  "roughness": group.roughness, "specular": 0.25, "spec_tint": 0.4}  # fmt: skip
            scene[f"{group.name}{number}"] = mi.load_dict(curves)
    return mi.load_dict(scene, parallel=False)
