"""What was drawn for a scene becomes standard normal latents: nothing lost of an order, of a word, of a name."""

import numpy as np
import pytest
import torch

from mattesmith.studio.codes import background_codes, latents, normal_scores, scene_codes, traits, word_scores
from mattesmith.studio.train_generator import resemblance


def test_normal_scores_are_normal_and_keep_the_order() -> None:
    rng = np.random.default_rng(0)
    column = rng.exponential(size=1001)
    scores = normal_scores(column, rng)
    assert (np.argsort(scores) == np.argsort(column)).all()
    assert scores.mean() == pytest.approx(0, abs=1e-6) and scores.std() == pytest.approx(1, abs=0.01)
    assert np.median(scores) == 0


def test_equal_numbers_get_scores_in_random_order() -> None:
    scores = normal_scores(np.zeros(100), np.random.default_rng(0))
    assert len(set(scores.tolist())) == 100 and abs(np.corrcoef(scores, np.arange(100))[0, 1]) < 0.3


def test_a_words_place_holds_the_largest_of_normal_numbers() -> None:
    words = ["bob", "afro", "bun"] * 500
    scores = word_scores(words, np.random.default_rng(0))
    assert (scores.argmax(1) == np.array([1, 0, 2] * 500)).all()
    assert abs(scores.mean()) < 0.05 and abs(scores.std() - 1) < 0.05


def test_traits_are_numbers_and_words_by_their_path_without_what_is_not_seen() -> None:
    record = {
        "identity": 3,
        "light": "low-city",
        "attributes": {"age": 41, "gaze": [1.0, 2.0], "changes": {"head-fat-incr": 0.1, "l-ear-flap-incr": 0.2}},
    }
    assert traits(record) == {
        "light.key": "low",
        "light.environment": "city",
        "attributes.age": 41.0,
        "attributes.gaze.0": 1.0,
        "attributes.gaze.1": 2.0,
        "attributes.changes.head-fat-incr": 0.1,
    }


def test_a_trait_that_never_varies_is_left_out() -> None:
    records = [{"age": age, "height": 0.5, "style": style} for age, style in ((20, "bob"), (30, "bun"), (40, "bob"))]
    assert scene_codes(records).shape == (3, 1 + 2)


def test_background_codes_follow_the_quarters_colours() -> None:
    backgrounds = np.zeros((3, 8, 8, 3), np.uint8)
    backgrounds[0, :4, :4, 0], backgrounds[1, :4, :4, 0] = 100, 200  # the upper left quarter's red
    codes = background_codes(backgrounds)
    assert codes.shape == (3, 12)
    assert codes[2, 0] < codes[0, 0] < codes[1, 0]


def test_latents_are_filled_up_with_fresh_normal_numbers() -> None:
    codes = np.ones((2, 3), np.float32)
    z = latents([codes, codes], dim=8, draws=torch.Generator().manual_seed(0))
    assert z.shape == (2, 8) and (z[:, :6] == 1).all() and (z[0, 6:] != z[1, 6:]).all()
    with pytest.raises(ValueError, match="6 traits do not fit into 5"):
        latents([codes, codes], dim=5, draws=torch.Generator())


def test_the_anchor_is_0_for_the_same_portraits_and_blind_to_the_others() -> None:
    real = torch.rand(4, 3, 16, 16)
    fake = real.clone()
    fake[2:] = 0
    real_features, fake_features = [[real]], [[fake]]
    assert resemblance(fake, real, fake_features, real_features, num=2) == 0
    assert resemblance(fake, real, fake_features, real_features, num=3) > 0
