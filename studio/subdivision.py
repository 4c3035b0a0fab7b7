"""Catmull-Clark subdivision as one sparse matrix, so that any shape of a fixed topology is refined by a product.

Rules of Catmull and Clark 1978; on a boundary the cubic B-spline curve rules.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

FloatArray = np.ndarray
IntArray = np.ndarray


def catmull_clark(faces: IntArray, num_vertices: int) -> tuple[sp.csr_matrix, IntArray]:
    """One refinement of a quad mesh.

    Args:
        faces: [F, 4] vertex indices.
        num_vertices: V.

    Returns:
        ([V + E + F, V] matrix that maps old positions (or any vertex attribute) to new ones, [4 F, 4] new faces).
    """
    num_faces = len(faces)
    half_edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1)  # [F, 4, 2]
    undirected = np.sort(half_edges.reshape(-1, 2), axis=1)
    edges, edge_of = np.unique(undirected, axis=0, return_inverse=True)
    edge_of = edge_of.reshape(num_faces, 4)
    num_edges = len(edges)

    face_rows = np.repeat(np.arange(num_faces), 4)
    face_points = sp.csr_matrix((np.full(4 * num_faces, 0.25), (face_rows, faces.ravel())), (num_faces, num_vertices))

    # An inner edge's point averages its ends and the two adjacent face points; a boundary edge's is its middle.
    uses = np.bincount(edge_of.ravel(), minlength=num_edges)
    inner = uses == 2
    ends = sp.csr_matrix(
        (np.full(2 * num_edges, 0.5), (np.repeat(np.arange(num_edges), 2), edges.ravel())), (num_edges, num_vertices)
    )
    edge_faces = sp.csr_matrix((np.full(4 * num_faces, 0.5), (edge_of.ravel(), face_rows)), (num_edges, num_faces))
    inner_diagonal = sp.diags(inner.astype(float))
    edge_points = 0.5 * inner_diagonal @ (ends + edge_faces @ face_points) + sp.diags((~inner).astype(float)) @ ends

    # An inner vertex of valence n becomes (mean face point + 2 mean edge midpoint + (n - 3) vertex) / n.
    vertex_faces = sp.csr_matrix((np.ones(4 * num_faces), (faces.ravel(), face_rows)), (num_vertices, num_faces))
    vertex_edges = sp.csr_matrix(
        (np.ones(2 * num_edges), (edges.ravel(), np.repeat(np.arange(num_edges), 2))), (num_vertices, num_edges)
    )
    valence = np.maximum(np.asarray(vertex_faces.sum(axis=1)).ravel(), 1)
    on_boundary = np.asarray(vertex_edges @ (~inner).astype(float)).ravel() > 0
    inside = (
        sp.diags(1 / valence**2) @ vertex_faces @ face_points
        + sp.diags(2 / valence**2) @ vertex_edges @ ends
        + sp.diags((valence - 3) / valence)
    )
    boundary_edges = vertex_edges @ sp.diags((~inner).astype(float))
    boundary = 0.25 * boundary_edges @ ends + sp.diags(1 - 0.25 * np.asarray(boundary_edges.sum(axis=1)).ravel())
    vertex_points = sp.diags((~on_boundary).astype(float)) @ inside + sp.diags(on_boundary.astype(float)) @ boundary

    matrix = sp.vstack([vertex_points, edge_points, face_points]).tocsr()
    edge_index = num_vertices + edge_of
    face_index = num_vertices + num_edges + np.arange(num_faces)
    corners = [np.stack([faces[:, k], edge_index[:, k], face_index, edge_index[:, k - 1]], axis=1) for k in range(4)]
    return matrix, np.concatenate(corners).astype(np.int32)


def triangles(quads: IntArray) -> IntArray:
    """[F, 4] quads -> [2 F, 3] triangles."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)


def vertex_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Area-weighted unit normals [V, 3] of a triangle mesh."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(faces[:, k], face_normals[:, axis], minlength=len(vertices))
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12))
