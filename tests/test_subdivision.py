"""Catmull-Clark subdivision against numbers known by hand."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from mattesmith.studio.subdivision import catmull_clark, triangles, vertex_normals

CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
CUBE_FACES = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])


def test_a_cube_becomes_the_known_24_faces() -> None:
    matrix, faces = catmull_clark(CUBE_FACES, 8)
    refined = matrix @ CUBE
    assert refined.shape == (8 + 12 + 6, 3) and faces.shape == (24, 4)
    # A corner of valence 3: (face mean 1/3 + 2 x edge middle mean 2/3 + 0 x corner) / 3 = 5/9.
    assert np.allclose(np.abs(refined[:8]), 5 / 9)
    # An edge's point: the mean of its ends (1, 1, 0) and the two face centres (1, 0, 0), (0, 1, 0).
    assert np.allclose(np.sort(np.abs(refined[8:20]), axis=1), [0, 0.75, 0.75])
    assert np.allclose(np.sort(np.abs(refined[20:]), axis=1), [0, 0, 1])


def test_rows_add_up_to_one_so_that_a_shift_stays_a_shift() -> None:
    matrix, _ = catmull_clark(CUBE_FACES[:4], 8)
    assert np.allclose(np.asarray(matrix.sum(axis=1)), 1)


def test_a_flat_sheet_stays_flat_and_keeps_its_straight_border() -> None:
    grid = np.array([[x, y, 0.0] for y in range(3) for x in range(3)])
    faces = np.array([[0, 1, 4, 3], [1, 2, 5, 4], [3, 4, 7, 6], [4, 5, 8, 7]])
    matrix, _ = catmull_clark(faces, 9)
    refined = matrix @ grid
    assert np.allclose(refined[:, 2], 0)
    assert refined[:, :2].min() >= 0 and refined[:, :2].max() <= 2
    assert np.allclose(refined[1], [1, 0, 0])  # the middle of a straight border does not move


def test_normals_of_a_cube_point_outwards() -> None:
    normals = vertex_normals(CUBE, triangles(CUBE_FACES))
    assert (np.sum(normals * CUBE, axis=1) > 0.9).all()
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
