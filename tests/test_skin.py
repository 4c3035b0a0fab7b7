"""Skin and clothes are drawn widely, from a seed, within what light can do."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from mattesmith.studio.clothes import NECKS, PATTERNS, draw_clothes
from mattesmith.studio.skin import IRISES, TONES, SkinAttributes, draw_skin, linear, tone_colour, value_noise


def skin_of_tone(tone: float) -> SkinAttributes:
    return SkinAttributes(tone, *(0.0,) * 9, iris=0)


def test_linear_light_of_known_srgb_levels() -> None:
    assert linear(np.array([0, 255])) == pytest.approx([0, 1])
    assert float(linear(np.array(188.0))) == pytest.approx(0.5029, abs=1e-3)  # half of the light


def test_darker_tones_reflect_less() -> None:
    colours = np.array([tone_colour(skin_of_tone(tone)) for tone in np.linspace(0, 1, 13)])
    assert (np.diff(colours.sum(axis=1)) < 0).all()
    assert tone_colour(skin_of_tone(0.0)) == pytest.approx(linear(TONES[0]))
    assert tone_colour(skin_of_tone(1.0)) == pytest.approx(linear(TONES[-1]))


def test_noise_is_smooth_bounded_and_repeats_with_its_seed() -> None:
    points = np.random.default_rng(0).uniform(-0.2, 0.2, (500, 3))
    noise = value_noise(points, 0.05, np.random.default_rng(1))
    assert (noise == value_noise(points, 0.05, np.random.default_rng(1))).all()
    assert np.abs(noise).max() <= 1 and noise.std() > 0.1
    near = value_noise(points + 1e-4, 0.05, np.random.default_rng(1))
    assert np.abs(near - noise).max() < 0.02


def test_everybody_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    skins = [draw_skin(rng, age=age, gender=gender) for age in range(16, 82) for gender in (0.0, 1.0) for _ in range(4)]
    assert {skin.iris for skin in skins} == set(range(len(IRISES)))
    assert min(skin.tone for skin in skins) < 0.05 and max(skin.tone for skin in skins) > 0.95
    clothes = [draw_clothes(rng, gender=gender) for gender in (0.0, 1.0) for _ in range(200)]
    assert {one.neck for one in clothes} == set(NECKS) and {one.pattern for one in clothes} == set(PATTERNS)
    assert all(0 < channel < 1 for one in clothes for channel in (*one.colour, *one.second, *one.jacket_colour))
