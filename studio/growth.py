"""How strands grow: roots scattered on the skin, guides swept along it, followers gathered in clumps around them.

All strands of one kind are moved together, one point along their length after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from .collision import Collider, build_collider, vertex_normals
from .styles import Array, Style, smoothstep

if TYPE_CHECKING:
    from .portraits import Body

CENTRE = np.array([0.0, 0.025, -0.075])  # of the skull, template frame
WHORL = np.array([0.008, 0.104, -0.108])
DOWN = np.array([0.0, -1.0, 0.0], np.float32)
FREE_LENGTH = 0.13  # metres; shorter hair is not swept out of the face, scissors keep it off


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Turns world points to the template's frame and back, for one person's cranium."""

    turn: Array  # [3, 3] neutral -> posed
    shift: Array  # [3]
    scale: Array  # [3] size against the template
    offset: Array  # [3]

    def to_template(self, at: Array) -> Array:
        """World points [..., 3] as if on the template."""
        return np.asarray(((at - self.shift) @ self.turn - self.offset) / self.scale)

    def to_world(self, at: Array) -> Array:
        """The reverse of to_template."""
        return np.asarray((at * self.scale + self.offset) @ self.turn.T + self.shift)


@dataclass(frozen=True, slots=True, eq=False)
class Roots:
    """Where strands start, all [S, 3]."""

    at: Array  # world
    normal: Array  # world, unit
    template: Array  # neutral template


def unit(vector: Array) -> Array:
    """[..., 3] at length 1."""
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9))


def fit_head(body: Body) -> Head:
    """Matches the template's cranium to the person's, axis by axis."""
    turn, shift = body.head[:3, :3].astype(np.float32), body.head[:3, 3].astype(np.float32)
    cranium = body.template[:, 1] > -0.02
    rest = (body.surfaces[0].vertices[cranium] - shift) @ turn
    there = body.template[cranium]
    scale = rest.std(axis=0) / there.std(axis=0)
    return Head(turn, shift, scale, rest.mean(axis=0) - there.mean(axis=0) * scale)


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What hair grows on and must not enter."""

    body: Body
    normals: Array  # [V, 3] of the skin, world, unit
    head: Head
    collider: Collider


def survey(body: Body) -> Ground:
    """The ground of one person; the inner sides of the ears do not push hair."""
    skin = body.surfaces[0]
    head = fit_head(body)
    normals = vertex_normals(skin.vertices, skin.faces)
    x, y, z = body.template.T
    ear = (np.abs(x) > 0.066) & (((y + 0.018) / 0.04) ** 2 + ((z + 0.082) / 0.03) ** 2 < 1)
    outward = (normals @ head.turn)[:, 0] * np.sign(x) > 0.25
    return Ground(body, normals, head, build_collider(body.surfaces, ear & ~outward))


def scatter(ground: Ground, weight: Array, num: int, rng: np.random.Generator) -> Roots:
    """`num` random roots on the skin, evenly by area times weight [V]."""
    skin = ground.body.surfaces[0]
    faces = skin.faces[weight[skin.faces].sum(axis=1) > 0.05]
    if not len(faces) or num == 0:
        none = np.zeros((0, 3), np.float32)
        return Roots(none, none, none)
    a, b, c = (skin.vertices[faces[:, k]] for k in range(3))
    share = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1) * weight[faces].mean(axis=1), dtype=np.float64)
    face = faces[np.searchsorted(share, rng.random(num) * share[-1]).clip(0, len(faces) - 1)]
    u, v = rng.random((2, num))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    mix = np.stack([1 - u - v, u, v], axis=1).astype(np.float32)[:, :, None]
    fields = (skin.vertices, ground.normals, ground.body.template)
    at, normal, template = ((field[face] * mix).sum(axis=1) for field in fields)
    return Roots(at, unit(normal), template)


def comb(style: Style, roots: Roots, fringe: Array, side: Array, head: Head) -> Array:
    """[S, 3] unit directions in which the roots are combed along the skin, world frame."""
    q, normal = roots.template, roots.normal @ head.turn
    # Away from the whorl; at its middle, where "away" has no direction, to the back.
    away = q - WHORL
    away = (away - normal * (away * normal).sum(axis=1, keepdims=True)) / 0.025
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1)
    away = away + (1 - np.linalg.norm(away, axis=1, keepdims=True)) * [0.15, -0.2, -0.9]
    front = smoothstep(-0.10, -0.04, q[:, 2])[:, None]
    if style.flow == "part":
        across = np.stack([side, np.full_like(side, -0.25), np.full_like(side, -0.35)], axis=1)
        way = unit(across) * front + away * (1 - front)
    elif style.flow == "back":
        way = np.stack([3 * q[:, 0], np.full_like(side, 0.1), np.full_like(side, -1.0)], axis=1)
    elif style.flow == "up":
        top = smoothstep(0.05, 0.08, q[:, 1])[:, None]
        way = top * np.array([0.15, 0.5, -1.0]) + (1 - top) * np.array([0.0, -0.8, -0.6])
    else:
        way = away + np.array([0.0, 0.0, 0.25])
    way = np.where(fringe[:, None], np.array([0.0, -0.2, 1.0]) + 0.25 * q * [[4, 0, 0]], way)
    way = unit(way - 0.85 * normal * (way * normal).sum(axis=1, keepdims=True))
    return np.asarray(way @ head.turn.T, np.float32)


def clear_face(at: Array, side: Array, head: Head, free: Array, step: Array) -> Array:
    """World points [S, 3] moved sideways, at most `step` [S], out of the column in front of the face."""
    q = head.to_template(at)
    half = np.interp(q[:, 1], [-0.17, -0.11, -0.05, 0.02, 0.045, 0.065], [0.0, 0.046, 0.058, 0.064, 0.056, 0.0])
    half = half * smoothstep(-0.055, -0.02, q[:, 2])
    push = np.clip(half - side * q[:, 0], 0, step) * ~free
    return np.asarray(at + (push * side)[:, None].astype(np.float32) * head.turn[:, 0])


def sweep(
    roots: Roots, style: Style, length: Array, clearance: Array, fringe: Array, side: Array,
    ground: Ground,
) -> Array:  # fmt: skip
    """Guides [S, P, 3]: combed at the root, bent by gravity, kept on the skin and out of the face."""
    head, collider = ground.head, ground.collider
    free = fringe | (length < FREE_LENGTH)
    segment = (length / (style.points - 1))[:, None].astype(np.float32)
    way = comb(style, roots, fringe, side, head)
    if style.flow == "out":
        way = unit(roots.at - head.to_world(CENTRE).astype(np.float32))
    lift = np.where(fringe, 0.30, style.lift)[:, None]
    direction = unit(lift * roots.normal + (1 - lift) * way)
    hold = 0.6 if style.flow == "up" else 0.25
    points = [roots.at]
    for step in range(1, style.points):
        arc = segment * step
        height, normal = collider.depth(points[-1])
        gap = np.clip(height[:, None] - clearance[:, None], 0, 0.03)
        hug = (1 - lift) * (style.flow != "up") * (head.to_template(points[-1])[:, 1:2] > -0.02)
        keep = np.exp(-arc / 0.04)  # the comb's hold on a strand ends a few centimetres from the root
        pull = style.gravity * segment / 0.02
        pull_back = hug * gap * segment / 0.0004
        direction = unit(direction + pull * DOWN + hold * keep * (1 - lift) * way - pull_back * normal)
        at = points[-1] + direction * segment
        for _ in range(2):
            at = clear_face(at, side, head, free, 0.8 * segment[:, 0])
            height, normal = collider.depth(at)
            room = clearance * np.clip(arc[:, 0] / 0.03, 0.1, 1)
            at = at + normal * np.clip(room - height, 0, None)[:, None]
            at = points[-1] + unit(at - points[-1]) * segment
        direction = unit(at - points[-1])
        points.append(at.astype(np.float32))
    return np.stack(points, axis=1)


def shorten(points: Array, share: Array) -> Array:
    """Strands [S, P, 3] cut after `share` [S] of their length, with as many points as before."""
    num = points.shape[1]
    place = np.linspace(0, 1, num)[None] * share[:, None] * (num - 1)
    low = np.minimum(place.astype(np.int32), num - 2)
    rest = (place - low)[..., None].astype(np.float32)
    row = np.arange(len(points))[:, None]
    return np.asarray(points[row, low] * (1 - rest) + points[row, low + 1] * rest)


def share_before(crossed: Array) -> Array:
    """[S] share of a strand before its first crossed point; `crossed` is [S, P], 1 where none is."""
    num = crossed.shape[1]
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1) - 0.5, num - 1)
    return np.asarray(np.clip(first / (num - 1), 0, 1), np.float32)


def settle(points: Array, side: Array, free: Array, ground: Ground) -> Array:
    """Strands pushed out of skin, cloth and face, each segment at its old length."""
    segment = np.linalg.norm(np.diff(points, axis=1), axis=2)[..., None]
    arc = np.cumsum(segment[..., 0], axis=1)
    out = [points[:, 0]]
    for step in range(1, points.shape[1]):
        at = points[:, step] + (out[-1] - points[:, step - 1]) * 0.7
        at = clear_face(at, side, ground.head, free, segment[:, step - 1, 0])
        room = np.clip(0.15 * arc[:, step - 1], 0.0003, 0.0018)
        for _ in range(2):  # the second push makes good what keeping the length undid
            height, normal = ground.collider.depth(at)
            at = out[-1] + unit(at + normal * np.clip(room - height, 0, None)[:, None] - out[-1]) * segment[:, step - 1]
        height, normal = ground.collider.depth(at)
        out.append(at + normal * np.clip(-height, 0, None)[:, None])
    return np.stack(out, axis=1).astype(np.float32)


def follow(roots: Roots, guide_roots: Roots, guides: Array, side: Array, guide_side: Array) -> Array:
    """Strands [S, P, 3] shaped like the three guides nearest to their roots on the same side of the parting."""
    apart = np.array([[0.03, 0.0, 0.0]])
    tree = cKDTree(guide_roots.template + apart * guide_side[:, None])
    distance, near = tree.query(roots.template + apart * side[:, None], k=3)
    weight = 1 / (distance + 0.002) ** 3
    weight = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    shape = guides - guides[:, :1]
    return np.asarray(roots.at[:, None] + sum(weight[:, k, None, None] * shape[near[:, k]] for k in range(3)))


def clump_and_curl(points: Array, keys: Array, style: Style, rng: np.random.Generator) -> tuple[Array, Array]:
    """Gathers tips, winds clumps and lets single strands wander.

    Args:
        points: [S, P, 3].
        keys: [S, 3] positions by which neighbours are found.

    Returns:
        (points, index of each strand's clump [S]).
    """
    num, size = points.shape[:2]
    if not num:
        return points, np.zeros(0, int)
    t = np.linspace(0, 1, size, dtype=np.float32)[None, :, None]
    centres = rng.choice(num, max(num // (80 if style.curl > 0.004 else 28), 1), replace=False)
    clump = cKDTree(keys[centres]).query(keys)[1]
    strength = (style.clump * rng.uniform(0.5, 1.25, len(centres))).clip(0, 0.93).astype(np.float32)[clump, None, None]
    loose = rng.random(num) < 0.05  # fly-aways keep to themselves
    strength[loose] *= 0.2
    points = points + strength * smoothstep(0.0, 0.8, t) * (points[centres[clump]] - points)

    arc = np.cumsum(np.linalg.norm(np.diff(points, axis=1, prepend=points[:, :1]), axis=2), axis=1)[..., None]

    def waves(count: int, turns: float) -> Array:
        phase = rng.uniform(0, 2 * np.pi, (count, 2, 1, 3)).astype(np.float32)
        rate = (turns * rng.uniform(0.5, 1.5, (count, 2, 1, 3))).astype(np.float32)
        both = np.sin(2 * np.pi * rate * t[:, None] + phase) - np.sin(phase)
        return np.asarray((both * rng.normal(0, 0.6, (count, 2, 1, 3))).sum(axis=1), np.float32)

    wander = style.frizz * np.where(loose, rng.uniform(1.5, 5.0, num), 1.0)[:, None, None].astype(np.float32)
    points = points + 0.5 * wander * waves(num, 1.2) + 1.5 * style.frizz * waves(len(centres), 0.7)[clump]

    if style.curl > 0:
        tangent = unit(np.gradient(points, axis=1))
        first = unit(np.cross(tangent, unit(rng.normal(size=(len(centres), 1, 3)))[clump]))
        second = np.cross(tangent, first)
        pitch = style.pitch * rng.uniform(0.75, 1.3, len(centres))
        angle = 2 * np.pi * arc / pitch[clump, None, None]
        angle = angle + (rng.uniform(0, 2 * np.pi, len(centres))[clump] + rng.normal(0, 0.25, num))[:, None, None]
        width = np.asarray(style.curl * rng.uniform(0.6, 1.2, num))[:, None, None]
        radius = width * smoothstep(0.0, 2.2 * style.curl + 0.008, arc)
        points = points + radius * (np.cos(angle) * first + np.sin(angle) * second)
    return points.astype(np.float32), clump
