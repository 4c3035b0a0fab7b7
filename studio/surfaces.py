"""What the renderer is given: painted triangle meshes and strands, world frame in metres, y up, the face along +z."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """One painted triangle mesh."""

    name: str  # "skin", "eyes", "cloth"
    vertices: np.ndarray  # [V, 3] float32
    faces: np.ndarray  # [F, 3] int32
    colour: np.ndarray  # [V, 3] linear RGB albedo
    roughness: float  # 0 mirror .. 1 matte
    specular: float  # 0 .. 1
    opacity: np.ndarray | None = None  # [V]; the surface exists where its interpolated value is above 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Strands:
    """Hair of one kind."""

    name: str  # "hair", "brows", "lashes", "beard"
    points: np.ndarray  # [S, P, 3] root to tip
    radius: np.ndarray  # [S, P] metres
    colour: np.ndarray  # [S, 3] linear RGB
    roughness: float


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """One posed, painted, dressed person without hair."""

    surfaces: list[Surface]  # [0] is the skin
    template: np.ndarray  # [V, 3] neutral positions of the skin's vertices
    head: np.ndarray  # [4, 4] neutral template -> posed head, rigid
