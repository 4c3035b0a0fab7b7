"""Every random number is a function of its name alone."""

import numpy as np
import pytest
import torch

from mattesmith.gen import draw_latents, draw_noise, random_stream


def test_the_same_name_gives_the_same_numbers_on_every_machine() -> None:
    first = random_stream(7, 1, 2, "z").random(3)
    assert np.array_equal(first, random_stream(7, 1, 2, "z").random(3))
    assert first == pytest.approx([0.6489026831861491, 0.0297959261897347, 0.14119125136286115], abs=1e-15)


@pytest.mark.parametrize("name", [(8, 1, 2, "z"), (7, 2, 1, "z"), (7, 1, 3, "z"), (7, 1, 2, "noise"), (71, 2, 2, "z")])
def test_any_other_name_gives_other_numbers(name: tuple[int, int, int, str]) -> None:
    assert not np.array_equal(random_stream(7, 1, 2, "z").random(3), random_stream(*name).random(3))


def test_numpy_integers_are_the_same_name_and_fractions_are_refused() -> None:
    name = (np.int64(7), np.uint8(1), np.int32(2))
    assert np.array_equal(random_stream(*name, "z").random(3), random_stream(7, 1, 2, "z").random(3))
    with pytest.raises(TypeError):
        random_stream(7.5, 1, 2, "z")  # type: ignore[arg-type]


def test_negative_and_huge_seeds_are_fine() -> None:
    draws = [random_stream(seed, 0, 0, "z").random() for seed in (-1, 1, 2**64, 2**200)]
    assert len(set(draws)) == 4


def test_latents_are_standard_normal_and_know_their_name() -> None:
    latents = draw_latents(3, 4, 5, z_dim=20_000)
    assert (latents.seed, latents.shard, latents.candidate) == (3, 4, 5)
    assert latents.z.shape == (20_000,) and latents.z.dtype == torch.float32
    assert latents.z.mean().item() == pytest.approx(0, abs=0.03)
    assert latents.z.std().item() == pytest.approx(1, abs=0.03)


def test_noise_of_a_size_does_not_depend_on_finer_maps() -> None:
    latents = draw_latents(3, 4, 5, z_dim=8)
    coarse, fine = draw_noise(latents, [4, 8, 8]), draw_noise(latents, [4, 8, 8, 16, 16])
    assert [tuple(map_.shape) for map_ in fine] == [(1, 4, 4), (1, 8, 8), (1, 8, 8), (1, 16, 16), (1, 16, 16)]
    assert all(torch.equal(one, other) for one, other in zip(coarse, fine[:3], strict=True))
    assert not torch.equal(fine[1], fine[2])


def test_drawing_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    draw_noise(draw_latents(1, 2, 3, z_dim=8), [4, 8])
    assert torch.equal(torch.rand(2), expected)
