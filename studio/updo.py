"""Hair that is bound: ponytails, buns, knots and braids."""

from __future__ import annotations

import numpy as np

from .growth import CENTRE, DOWN, Ground, Roots, clump_and_curl, settle, unit
from .styles import Array, HairAttributes, Style, smoothstep


def bind(
    style: Style, hair: HairAttributes, roots: Roots, ground: Ground, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Hair combed to ties: (strands [S, P, 3], clump [S])."""
    head, collider = ground.head, ground.collider
    ties = np.array(style.ties, np.float32)
    which = np.where(roots.template[:, 0] > 0, 0, len(ties) - 1)
    num, size = len(roots.at), style.points
    flat = size * 9 // 20
    t = np.linspace(0, 1, flat)[None, :, None]

    # Over the skull: great circles from root to tie, laid on the skin.
    start, end = roots.template - CENTRE, (ties - CENTRE)[which]
    far, near = np.linalg.norm(start, axis=1)[:, None, None], np.linalg.norm(end, axis=1)[:, None, None]
    a, b = unit(start), unit(end)
    angle = np.arccos(np.clip((a * b).sum(axis=1), -0.999, 0.999))[:, None, None]
    arc = (np.sin((1 - t) * angle) * a[:, None] + np.sin(t * angle) * b[:, None]) / np.sin(angle)
    path = head.to_world(CENTRE + arc * (far * (1 - t) + near * t)).astype(np.float32)
    layer = (0.0008 + rng.uniform(0, 1, num)[:, None] * style.volume * (0.3 + t[0, :, 0][None])).astype(np.float32)
    bond = smoothstep(0.75, 0.97, t[0, :, 0])
    for step in range(1, flat):
        height, normal = collider.depth(path[:, step])
        path[:, step] += normal * ((layer[:, step] - height) * (1 - bond[step]))[:, None]

    tails = np.stack([_tail(style, hair, tie, ground, size - flat + 1) for tie in ties])[which]  # [S, T, 3]
    tail = tails + _coil(style, which, size - flat + 1, rng) @ np.asarray(head.turn.T, np.float32)
    path[:, -1] += 0.5 * (tail[:, 0] - path[:, -1])
    strands = np.concatenate([path, tail[:, 1:]], axis=1)
    strands, clump = clump_and_curl(strands, roots.template, style, rng)
    side = np.where(roots.template[:, 0] > 0, 1.0, -1.0).astype(np.float32)
    return settle(strands, side, np.zeros(num, bool), ground), clump


def _tail(style: Style, hair: HairAttributes, tie: Array, ground: Ground, size: int) -> Array:
    """[T, 3] middle line of the hair behind a tie: falling, or standing still for a bun."""
    head, collider = ground.head, ground.collider
    at = head.to_world(tie).astype(np.float32)
    out = unit((head.to_world(tie) - head.to_world(CENTRE.astype(np.float32))).astype(np.float32))
    if style.top < 0.2:
        return np.repeat((at + 0.004 * out)[None], size, axis=0)
    if len(np.atleast_2d(style.ties)) > 1:
        out = unit(out * [1, 0.2, 0.2] + head.turn[:, 2] * 0.6).astype(np.float32)
    segment, line, way = style.top * hair.length / (size - 1), [at], out
    for _ in range(1, size):
        way = unit(way + DOWN * segment / 0.022)
        nxt = line[-1] + way * segment
        height, normal = collider.depth(nxt[None])
        nxt = nxt + normal[0] * max(0.016 - float(height[0]), 0)
        way = unit(nxt - line[-1])
        line.append((line[-1] + way * segment).astype(np.float32))
    return np.stack(line)


def _coil(style: Style, which: Array, size: int, rng: np.random.Generator) -> Array:
    """[S, T, 3] offsets from the middle line, template axes: a bun's coil, a braid's three lobes, a tail's width."""
    num, t = len(which), np.linspace(0, 1, size)[None]
    radius, turn = np.sqrt(rng.random((num, 1))), rng.uniform(0, 2 * np.pi, (num, 1))
    if style.top < 0.2:
        out = unit(np.array(style.ties[0]) - CENTRE)
        across = unit(np.cross(out, [1.0, 0.0, 0.001]))
        along = np.cross(out, across)
        psi = turn + 2.5 * t
        phi = 2 * np.pi * (rng.random((num, 1)) + 1.1 * t)
        grow = smoothstep(0.0, 0.2, t)
        ring = grow * (0.014 + 0.013 * (0.8 + 0.2 * radius) * np.cos(psi))
        height = grow * 0.013 * (1.1 + (0.8 + 0.2 * radius) * np.sin(psi))
        coil = ring * np.cos(phi), ring * np.sin(phi), height
        return np.asarray(sum(c[..., None] * v for c, v in zip(coil, (across, along, out), strict=True)), np.float32)
    if len(style.ties) > 1:
        lobe = 2 * np.pi * rng.integers(0, 3, (num, 1)) / 3
        phase = 2 * np.pi * t * style.top / 0.055 + lobe
        thin = (1 - 0.35 * t) * smoothstep(0.0, 0.06, t + 0.02)
        x = thin * (0.0095 * np.sin(phase) + 0.0065 * radius * np.cos(turn))
        z = thin * (0.0060 * np.sin(2 * phase) + 0.0065 * radius * np.sin(turn))
        return np.stack([x, 0.003 * np.cos(turn) * t, z], axis=-1).astype(np.float32)
    width = 0.004 + 0.016 * smoothstep(0.0, 0.35, t) - 0.008 * smoothstep(0.5, 1.0, t)
    x, z = width * radius * np.cos(turn), width * radius * np.sin(turn)
    return np.stack([x, 0 * x, z], axis=-1).astype(np.float32)
