"""Keeps strands out of skin and clothes: a voxel grid whose every cell knows the nearest piece of surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from .surfaces import Surface

Array = np.ndarray


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """[V, 3] area-weighted unit normals; 0 for a vertex without faces."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    total = np.zeros((len(vertices), 3))
    for axis in range(3):
        for corner in range(3):
            total[:, axis] += np.bincount(faces[:, corner], normal[:, axis], minlength=len(vertices))
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Collider:
    """Nearest tangent planes of the obstacles on a grid."""

    low: Array  # [3] corner of the grid
    cell: float  # metres
    nearest: Array  # [X, Y, Z] into the planes
    point: Array  # [K, 3]
    normal: Array  # [K, 3]

    def depth(self, at: Array) -> tuple[Array, Array]:
        """Signed distance [S] to the nearest obstacle, positive outside, and its normal [S, 3], of points [S, 3]."""
        index = ((at - self.low) / self.cell).astype(np.int32)
        index = np.clip(index, 0, np.array(self.nearest.shape, np.int32) - 1)
        plane = self.nearest[index[:, 0], index[:, 1], index[:, 2]]
        normal = self.normal[plane]
        return np.einsum("sk,sk->s", at - self.point[plane], normal), normal


def build_collider(surfaces: Sequence[Surface], ignored: Array, *, cell: float = 0.006) -> Collider:
    """The grid of one person.

    Args:
        surfaces: [0] is the skin, those called "cloth" cover it.
        ignored: [V] vertices of the skin that do not count (the inner sides of ears).
    """
    points, normals, layers = [], [], []
    for index, surface in enumerate(surfaces):
        if index and surface.name != "cloth":
            continue
        normal = vertex_normals(surface.vertices, surface.faces)
        solid = np.abs(normal).sum(axis=1) > 0
        if index == 0:
            solid &= ~ignored
        if surface.opacity is not None:
            solid &= surface.opacity > 0.5
        points.append(surface.vertices[solid])
        normals.append(normal[solid])
        layers.append(np.full(int(solid.sum()), index > 0))
    point, normal, cloth = np.concatenate(points), np.concatenate(normals), np.concatenate(layers)

    low = point.min(axis=0) - 0.06
    size = np.ceil((point.max(axis=0) + 0.10 - low) / cell).astype(int)
    voxel = np.ravel_multi_index(tuple(((point - low) / cell).astype(int).T), tuple(size))
    # In a voxel that cloth and skin share, the cloth is the outer one.
    covered = np.zeros(int(size.prod()), bool)
    covered[voxel[cloth]] = True
    keep = cloth | ~covered[voxel]
    seeds, member = np.unique(voxel[keep], return_inverse=True)
    count = np.bincount(member)[:, None]
    mean = np.stack([np.bincount(member, point[keep][:, k]) for k in range(3)], axis=1) / count
    turn = np.stack([np.bincount(member, normal[keep][:, k]) for k in range(3)], axis=1)
    turn = turn / np.maximum(np.linalg.norm(turn, axis=1, keepdims=True), 1e-9)

    occupied = np.zeros(tuple(size), bool)
    occupied.ravel()[seeds] = True
    rank = np.zeros(int(size.prod()), np.int32)
    rank[seeds] = np.arange(len(seeds))
    where = distance_transform_edt(~occupied, return_distances=False, return_indices=True)
    nearest = rank[np.ravel_multi_index(tuple(where), tuple(size))]
    return Collider(low.astype(np.float32), cell, nearest, mean.astype(np.float32), turn.astype(np.float32))
