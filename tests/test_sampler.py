"""Portraits are sampled in order, each a function of its own latents."""

from collections.abc import Iterator

import pytest
import torch

from mattesmith.gen import Generator, Latents, draw_latents, draw_noise, sample


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(5)
    network = Generator(resolution=16, channels={4: 32, 8: 32, 16: 16}, z_dim=16, w_dim=16, num_mapping_layers=2)
    network.mean_w.normal_()
    for name, parameter in network.named_parameters():
        parameter.data += 0.3 if name.endswith("noise_strength") else 0
    return network


def latents(count: int) -> list[Latents]:
    return [draw_latents(1, 0, candidate, z_dim=16) for candidate in range(count)]


def test_one_sample_for_each_latents_in_order(generator: Generator) -> None:
    samples = list(sample(generator, latents(11), batch=4))
    assert [one.latents.candidate for one in samples] == list(range(11))
    for one in samples:
        assert one.ws.shape == (generator.num_ws, 16) and one.image.shape == (3, 16, 16)
        assert [tuple(map_.shape) for map_ in one.noise] == [(1, r, r) for r in generator.noise_sizes]
        assert one.image.dtype == torch.float32 and one.image.abs().max() <= 1
        assert not one.image.requires_grad and not one.ws.requires_grad


def test_a_portrait_is_the_same_wherever_it_stands(generator: Generator) -> None:
    forwards = {one.latents.candidate: one for one in sample(generator, latents(7), batch=4)}
    backwards = {one.latents.candidate: one for one in sample(generator, latents(7)[::-1], batch=4)}
    alone = next(iter(sample(generator, latents(7)[5:6], batch=4)))
    for candidate, one in forwards.items():
        assert torch.equal(one.image, backwards[candidate].image)
        assert torch.equal(one.ws, backwards[candidate].ws)
    assert torch.equal(alone.image, forwards[5].image)


def test_another_batch_changes_no_more_than_rounding(generator: Generator) -> None:
    fours, ones = (list(sample(generator, latents(5), batch=batch)) for batch in (4, 1))
    for one, other in zip(fours, ones, strict=True):
        assert (one.image - other.image).abs().max() < 1e-5


def test_the_image_follows_from_ws_and_noise(generator: Generator) -> None:
    one = next(iter(sample(generator, latents(1), psi=0.5)))
    noise = [map_[None] for map_ in draw_noise(one.latents, generator.noise_sizes)]
    assert torch.allclose(one.ws, generator.mapping(one.latents.z[None], 0.5)[0], atol=1e-6)
    again = generator.synthesis(one.ws[None], noise).clamp(-1, 1)[0]
    assert torch.allclose(one.image, again, atol=1e-5)
    assert all(torch.equal(map_, given[0]) for map_, given in zip(one.noise, noise, strict=True))


def test_samples_are_made_when_asked_for_and_leave_gradients_on(generator: Generator) -> None:
    taken = []

    def stream() -> Iterator[Latents]:
        for one in latents(100):
            taken.append(one)
            yield one

    samples = sample(generator, stream(), batch=3)
    next(samples)
    assert len(taken) == 3 and torch.is_grad_enabled()


def test_samples_share_no_memory(generator: Generator) -> None:
    first, second = sample(generator, latents(2), batch=2)
    first.image.zero_(), first.ws.zero_(), first.noise[0].zero_()
    assert second.image.abs().sum() > 0 and second.ws.abs().sum() > 0 and second.noise[0].abs().sum() > 0
    assert first.image.untyped_storage().nbytes() == 3 * 16 * 16 * 4


def test_no_latents_no_samples_and_an_empty_batch_is_refused(generator: Generator) -> None:
    assert list(sample(generator, [])) == []
    with pytest.raises(ValueError, match="batch must be 1 or more, got 0"):
        list(sample(generator, latents(1), batch=0))
