"""Hair on a sphere that stands in for the head: same size, same frame, no parametric body needed."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from mattesmith.studio.collision import build_collider
from mattesmith.studio.growth import share_before, shorten
from mattesmith.studio.hair import HairAttributes, beard_weight, brow_weight, draw_hair, grow, scalp_weight
from mattesmith.studio.portraits import Body
from mattesmith.studio.styles import STYLES
from mattesmith.studio.surfaces import Strands, Surface

BROW = (0.030, 0.024, 0.020)
CENTRE, RADIUS = np.array([0.0, 0.0, -0.065], np.float32), 0.107
HAIR = HairAttributes(
    style="long", length=1.0, curl=0.0, colour=(0.2, 0.1, 0.05), colour_tip=(0.4, 0.3, 0.1), highlights=0.1, grey=0.2,
    parting=0.02, volume=1.0, density=0.08, recession=0.0, beard="none", brows=1.0,
)  # fmt: skip


def sphere(radius: float, rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and outward faces [F, 3] of a sphere about CENTRE."""
    theta, phi = np.meshgrid(np.linspace(0.01, np.pi - 0.01, rows), np.arange(2 * rows) * np.pi / rows, indexing="ij")
    at = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], axis=-1)
    index = np.arange(rows * 2 * rows).reshape(rows, -1)
    a, b = index[:-1], np.roll(index, -1, axis=1)[:-1]
    c, d = index[1:], np.roll(index, -1, axis=1)[1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return (CENTRE + radius * at.reshape(-1, 3)).astype(np.float32), faces.astype(np.int32)


def surface(name: str, vertices: np.ndarray, faces: np.ndarray) -> Surface:
    return Surface(name, vertices, faces, np.full_like(vertices, 0.5), roughness=0.5, specular=0.3)


@pytest.fixture(scope="module")
def body() -> Body:
    vertices, faces = sphere(RADIUS)
    return Body([surface("skin", vertices, faces)], vertices, np.eye(4, dtype=np.float32))


def scalp(strands: list[Strands]) -> Strands:
    return next(group for group in strands if group.name == "hair")


@pytest.mark.parametrize("style", [name for name in STYLES if name != "bald"])
def test_every_style_starts_on_the_scalp_stays_out_of_the_skin_and_off_the_face(style: str, body: Body) -> None:
    hair = scalp(grow(replace(HAIR, style=style), body, np.random.default_rng(0)))
    num, size, _ = hair.points.shape
    assert num > 300 and hair.radius.shape == (num, size) and hair.colour.shape == (num, 3)
    assert np.isfinite(hair.points).all() and (hair.radius > 0).all() and (hair.radius < 5e-4).all()

    height = np.linalg.norm(hair.points - CENTRE, axis=2) - RADIUS
    assert np.abs(height[:, 0]).max() < 0.001
    assert scalp_weight(hair.points[:, 0], HAIR).min() > 0 or (scalp_weight(hair.points[:, 0], HAIR) > 0).mean() > 0.98
    assert height.min() > -0.004 and np.quantile(height, 0.01) > -0.001
    x, y, z = np.moveaxis(hair.points, 2, 0)
    face = (np.abs(x) < 0.035) & (y < 0.0) & (y > -0.09) & (z > 0.0)
    assert face.mean() < 0.003


def test_styles_differ_in_how_far_they_reach(body: Body) -> None:
    low = {
        style: np.quantile(scalp(grow(replace(HAIR, style=style), body, np.random.default_rng(0))).points[..., 1], 0.02)
        for style in ("buzz", "bob", "long")
    }
    assert low["long"] < low["bob"] - 0.05 < low["buzz"] - 0.05


def test_the_same_generator_gives_the_same_strands(body: Body) -> None:
    first, second = (grow(HAIR, body, np.random.default_rng(5)) for _ in range(2))
    assert all(np.array_equal(a.points, b.points) for a, b in zip(first, second, strict=True))
    other = grow(HAIR, body, np.random.default_rng(6))
    assert not np.array_equal(first[0].points, other[0].points)


def test_roots_move_with_the_head(body: Body) -> None:
    c, s = np.cos(0.5), np.sin(0.5)
    turn = np.eye(4, dtype=np.float32)
    turn[:3, :3], turn[:3, 3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]], [0.02, 0.01, -0.03]
    skin = body.surfaces[0]
    posed = Body([replace(skin, vertices=skin.vertices @ turn[:3, :3].T + turn[:3, 3])], body.template, turn)
    still, moved = (scalp(grow(HAIR, some, np.random.default_rng(1))).points[:, 0] for some in (body, posed))
    apart = np.abs(still @ turn[:3, :3].T + turn[:3, 3] - moved).max(axis=1)
    assert (apart < 1e-4).mean() > 0.99  # rounding may move a root to the next triangle


def test_hair_lies_over_the_clothes(body: Body) -> None:
    cloth = surface("cloth", *sphere(RADIUS + 0.012))
    below = cloth.faces[(cloth.vertices[cloth.faces, 1] < -0.05).all(axis=1)]
    dressed = Body([*body.surfaces, replace(cloth, faces=below)], body.template, body.head)
    hair = scalp(grow(HAIR, dressed, np.random.default_rng(0))).points
    covered = hair[hair[..., 1] < -0.06]
    assert len(covered) and np.quantile(np.linalg.norm(covered - CENTRE, axis=1), 0.02) > RADIUS + 0.010


def test_a_bald_shaved_person_has_brows_only_where_there_are_no_lids(body: Body) -> None:
    assert [group.name for group in grow(replace(HAIR, style="bald"), body, np.random.default_rng(0))] == ["brows"]


def test_a_full_beard_hangs_lower_than_stubble(body: Body) -> None:
    low = {}
    for beard in ("stubble", "moustache", "short", "full"):
        group = grow(replace(HAIR, style="bald", beard=beard), body, np.random.default_rng(0))[-1]
        assert group.name == "beard"
        low[beard] = np.quantile(group.points[:, -1, 1] - group.points[:, 0, 1], 0.1)
    assert low["full"] < low["short"] < low["stubble"] < 0


def test_weights_are_where_hair_grows() -> None:
    crown, forehead, nose, chin, brow = (0, 0.107, -0.05), (0, 0.04, 0.025), (0, -0.03, 0.04), (0, -0.1, 0.02), BROW
    at = np.array([crown, forehead, nose, chin, brow], np.float32)
    bearded = replace(HAIR, beard="full")
    assert np.allclose(scalp_weight(at, HAIR)[[0, 1, 2, 3]], [1, 0, 0, 0], atol=0.02)
    assert np.allclose(beard_weight(at, bearded)[[0, 1, 2, 3]], [0, 0, 0, 1], atol=0.05)
    assert not beard_weight(at, HAIR).any()
    assert brow_weight(at, HAIR)[4] > 0.5 and brow_weight(at, HAIR)[:4].max() < 0.01


def test_receding_hair_covers_less(body: Body) -> None:
    sums = [scalp_weight(body.template, replace(HAIR, recession=share)).sum() for share in (0.0, 0.5, 1.0)]
    assert sums[0] > sums[1] > sums[2] > 0.2 * sums[0]


def test_drawn_hair_is_plausible_and_plain() -> None:
    rng = np.random.default_rng(0)
    kinds = [(age, gender) for age in (8.0, 25.0, 70.0) for gender in (0.0, 1.0)] * 60
    people = [(age, gender, draw_hair(rng, age, gender)) for age, gender in kinds]
    assert all(hair.style in STYLES and STYLES[hair.style].min_age <= age for age, _, hair in people)
    assert all(hair.beard == "none" for age, gender, hair in people if age < 18 or gender > 0.5)
    assert any(hair.beard != "none" for _, _, hair in people) and len({hair.style for _, _, hair in people}) >= 15
    assert np.mean([hair.grey for age, _, hair in people if age == 70]) > 0.4
    assert all(isinstance(value, (str, float, tuple)) for value in asdict(people[0][2]).values())


def test_shortened_strands_keep_their_roots_and_lose_their_tips() -> None:
    strand = np.zeros((1, 5, 3), np.float32)
    strand[0, :, 1] = [0, 1, 2, 3, 4]
    assert np.allclose(shorten(strand, np.array([0.5]))[0, :, 1], [0, 0.5, 1, 1.5, 2])
    crossed = np.array([[False, False, True, True, True], [False] * 5])
    assert np.allclose(share_before(crossed), [0.375, 1.0])


def test_the_collider_knows_its_distance_to_a_sphere() -> None:
    vertices, faces = sphere(RADIUS)
    collider = build_collider([surface("skin", vertices, faces)], np.zeros(len(vertices), bool))
    way = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.6, -0.8, 0.0]], np.float32)
    for height in (-0.01, 0.0, 0.02):
        depth, normal = collider.depth(CENTRE + (RADIUS + height) * way)
        assert np.allclose(depth, height, atol=0.001)
        assert ((normal * way).sum(axis=1) > 0.99).all()
