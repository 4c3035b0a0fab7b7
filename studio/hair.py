"""The hair of one person: scalp hair in its style, brows, lashes and beard, as strands for the renderer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from .facial_hair import facial_hair
from .growth import (
    CENTRE,
    FREE_LENGTH,
    Ground,
    Head,
    Roots,
    clump_and_curl,
    follow,
    scatter,
    settle,
    share_before,
    shorten,
    survey,
    sweep,
)  # fmt: skip
from .styles import (
    STYLES,
    Array,
    HairAttributes,
    Style,
    beard_weight,
    brow_weight,
    draw_hair,
    scalp_weight,
    smoothstep,
    taper,
    tint,
)  # fmt: skip
from .surfaces import Strands
from .updo import bind

if TYPE_CHECKING:
    from .portraits import Body

__all__ = ["HairAttributes", "beard_weight", "brow_weight", "draw_hair", "grow", "scalp_weight"]

NUM_GUIDES = 700


def _lengths(style: Style, hair: HairAttributes, q: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """(length [S] metres, whether the strand belongs to the fringe [S]) of roots at template positions q."""
    top = smoothstep(0.035, 0.090, q[:, 1] + 0.15 * np.clip(q[:, 2] + 0.07, 0, 1))
    length = (style.side + (style.top - style.side) * top) * hair.length * rng.uniform(0.92, 1.08, len(q))
    if style.flow == "out":  # tips on a ball about the skull
        reach = 0.085 + style.top * hair.length - np.linalg.norm(q - CENTRE, axis=1)
        length = np.clip(reach, 0.02, None) * rng.uniform(0.95, 1.05, len(q))
    fringe = np.zeros(len(q), bool)
    if style.fringe > 0:
        fringe = (q[:, 2] > -0.035 - 0.3 * np.abs(q[:, 0])) & (np.abs(q[:, 0]) < 0.047) & (q[:, 1] > 0.045)
        reach = style.fringe + 0.5 * np.clip(-q[:, 2], 0, 0.05)
        length = np.where(fringe, reach * rng.uniform(0.9, 1.05, len(q)), length)
    return length.astype(np.float32), fringe


def _fall(
    style: Style, hair: HairAttributes, roots: Roots, ground: Ground, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Loose hair: (strands [S, P, 3], clump [S])."""
    picked = rng.choice(len(roots.at), min(NUM_GUIDES, len(roots.at)), replace=False)
    guide_roots = Roots(roots.at[picked], roots.normal[picked], roots.template[picked])

    def side_of(q: Array) -> tuple[Array, Array]:
        """Left -1 or right 1 of the parting, and how far; it wavers a little, so that no straight seam shows."""
        seam = hair.parting + 0.003 * np.sin(q[:, 2] * 150) - 0.25 * hair.parting * smoothstep(-0.05, -0.13, q[:, 2])
        return np.where(q[:, 0] > seam, 1.0, -1.0).astype(np.float32), np.abs(q[:, 0] - seam)

    parted = style.flow == "part"
    (side, _), (guide_side, guide_apart) = side_of(roots.template), side_of(guide_roots.template)
    length, guide_fringe = _lengths(style, hair, guide_roots.template, rng)
    layer = 0.0012 + style.volume * hair.volume * rng.uniform(0.1, 1.0, len(picked)) * (
        0.35 + 0.65 * smoothstep(0.0, 0.10, guide_roots.template[:, 1])
    )
    if parted:  # hair lies flat at its parting, or it stands in two horns
        layer *= 0.2 + 0.8 * smoothstep(0.0, 0.045, guide_apart)
    guides = sweep(guide_roots, style, length, layer.astype(np.float32), guide_fringe, guide_side, ground)

    _, fringe = _lengths(style, hair, roots.template, rng)
    near = cKDTree(guide_roots.template).query(roots.template)[1]
    fringe = guide_fringe[near]  # a strand is cut like the guides that it follows
    kind, guide_kind = side * parted + 4 * fringe, guide_side * parted + 4 * guide_fringe
    strands = follow(roots, guide_roots, guides, kind, guide_kind)
    strands = shorten(strands, rng.uniform(0.90 if style.flow == "out" else 0.80, 1.0, len(strands)))
    keys = roots.template + np.stack([0.03 * kind, 0 * kind, 0 * kind], axis=1)
    strands, clump = clump_and_curl(strands, keys, replace(style, curl=style.curl + hair.curl), rng)
    strands = settle(strands, side, fringe | (length[near] < FREE_LENGTH), ground)
    return _cut(strands, style, fringe, ground.head, rng), clump


def _cut(strands: Array, style: Style, fringe: Array, head: Head, rng: np.random.Generator) -> Array:
    """Scissors: a bob's level, a fringe's edge above the eyes, and whatever still hangs in the face."""
    q = head.to_template(strands)
    ragged = rng.normal(0, 1, (len(strands), 1))
    face = (np.abs(q[..., 0]) < 0.058) & (q[..., 2] > -0.01) & (q[..., 1] > -0.125)
    face &= q[..., 1] < np.where(fringe, 0.017 + 0.003 * ragged[:, 0], 0.030)[:, None]
    share = share_before(face)
    if style.trim is not None:
        share = np.minimum(share, share_before(q[..., 1] < -style.trim + 0.004 * ragged))
    return shorten(strands, share)


def _scalp(hair: HairAttributes, ground: Ground, rng: np.random.Generator) -> list[Strands]:
    """The hair of the head; none for a bald one."""
    style = STYLES[hair.style]
    num = int(style.strands * hair.density)
    if num == 0:
        return []
    template = ground.body.template
    weight = scalp_weight(template, hair) ** 1.5
    if style.flow == "part":  # combed apart, hair would show the skin of the parting
        weight *= 1 + 2.5 * np.exp(-(((template[:, 0] - hair.parting) / 0.007) ** 2)) * (template[:, 2] > -0.12)
    roots = scatter(ground, weight, num, rng)
    points, clump = (bind if style.ties else _fall)(style, hair, roots, ground, rng)
    long_enough = np.linalg.norm(np.diff(points, axis=1), axis=2).sum(axis=1) > 0.003
    points, clump = points[long_enough], clump[long_enough]
    radius = 5.0e-5 * np.sqrt(20000 / num)
    return [Strands("hair", points, taper(points, radius, rng), tint(hair, clump, rng), 0.28)]


def grow(hair: HairAttributes, body: Body, rng: np.random.Generator) -> list[Strands]:
    """All strands of one person, world frame, root to tip."""
    ground = survey(body)
    groups = _scalp(hair, ground, rng) + facial_hair(hair, ground, rng)
    return [group for group in groups if len(group.points)]
