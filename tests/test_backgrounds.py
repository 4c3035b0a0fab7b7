"""Backgrounds: bytes of the right size, the same for the same seed, and as varied as they are meant to be."""

import numpy as np
import pytest

from mattesmith.enhance.light import linear_from_srgb, srgb_from_linear
from mattesmith.studio.backgrounds import (
    ALL,
    HELD_OUT,
    PHOTOGRAPHS,
    SOFT,
    UNSEEN,
    background,
    background_pool,
    family_name,
    photographs,
)


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.__name__)
def test_a_family_gives_linear_light_in_range(family):
    for seed in range(4):
        picture = family(np.random.default_rng(seed), 24)
        assert picture.shape == (24, 24, 3)
        assert picture.dtype == np.float32
        assert 0 <= picture.min() <= picture.max() <= 1


def test_a_background_is_bytes_and_a_seed_gives_the_same_one():
    first, again, other = (background(np.random.default_rng(seed), 32) for seed in (1, 1, 2))
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).any()


def test_a_background_of_a_pool_does_not_depend_on_how_many_there_are():
    assert (background_pool(5, 16, seed=3)[:2] == background_pool(2, 16, seed=3)).all()
    assert (background_pool(2, 16, seed=3) != background_pool(2, 16, seed=4)).any()


def test_soft_backgrounds_are_calmer_than_all():
    def steepness(families):
        pool = background_pool(40, 32, seed=0, families=families).astype(float)
        return np.abs(np.diff(pool, axis=1)).mean()

    assert steepness(SOFT) < 0.5 * steepness(ALL)


def test_srgb_and_linear_light_are_inverse_to_each_other():
    levels = np.arange(256, dtype=np.float32) / 255
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(levels)), levels, atol=1e-5)
    # IEC 61966-2-1: sRGB 0.5 is 21.4 % of white's light.
    assert linear_from_srgb(np.array([0.0, 0.5, 1.0], np.float32)).tolist() == pytest.approx([0, 0.21404, 1], abs=1e-5)


@pytest.mark.parametrize("names", [PHOTOGRAPHS, HELD_OUT])
def test_photographs_show_no_people(names):
    assert not {"astronaut.png", "camera.png"} & set(names)
    assert all(picture.dtype == np.uint8 and max(picture.shape) <= 512 for picture in photographs(names))


def test_tests_show_other_photographs_than_trainings_and_the_same_of_all_else():
    assert not set(HELD_OUT) & set(PHOTOGRAPHS)
    trained, tested = (background_pool(20, 16, seed=0, families=families) for families in (ALL, UNSEEN))
    for i in range(20):
        is_photograph = family_name(0, i, families=ALL) == "photograph"
        assert (family_name(0, i, families=UNSEEN) == "held_out_photograph") == is_photograph
        assert (trained[i] != tested[i]).any() == is_photograph
