"""The networks' promises beyond parity: shapes, gradients, precision, growth, independence of the batch."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mattesmith.gen import Discriminator, Generator, grow_from
from mattesmith.gen.layers import ModulatedConv, fir_up, minibatch_stddev

CHANNELS = {4: 8, 8: 8, 16: 6, 32: 4}


def generator(resolution: int = 16, **settings: Any) -> Generator:
    """A tiny generator whose every layer does something: noise strengths and biases are not zero."""
    torch.manual_seed(1)
    network = Generator(resolution=resolution, channels=CHANNELS, z_dim=6, w_dim=10, num_mapping_layers=2, **settings)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def discriminator(resolution: int = 16, **settings: Any) -> Discriminator:
    torch.manual_seed(2)
    return Discriminator(resolution=resolution, channels=CHANNELS, **settings)


def noise_maps(network: Generator, n: int) -> list[Tensor]:
    return [torch.randn(n, 1, size, size) for size in network.noise_sizes]


def test_shapes_and_row_counts() -> None:
    network = generator()
    assert network.noise_sizes == (4, 8, 8, 16, 16)
    assert (network.num_ws, network.z_dim, network.w_dim, network.resolution) == (6, 6, 10, 16)
    ws = network.mapping(torch.randn(3, 6))
    assert ws.shape == (3, 6, 10)
    assert network.synthesis(ws).shape == (3, 3, 16, 16)
    assert discriminator()(torch.randn(5, 3, 16, 16), group=1).shape == (5, 1)


def test_psi_zero_is_the_mean_portrait_and_one_leaves_w_alone() -> None:
    network = generator()
    network.mean_w.normal_()
    z = torch.randn(4, 6)
    assert torch.allclose(network.mapping(z, psi=0), network.mean_w.expand(4, 6, 10))
    halfway = (network.mapping(z, psi=1) + network.mean_w) / 2
    assert torch.allclose(network.mapping(z, psi=0.5), halfway, atol=1e-6)


def test_mapping_ignores_the_length_of_z() -> None:
    network = generator()
    z = torch.randn(2, 6)
    assert torch.allclose(network.mapping(z), network.mapping(100 * z), atol=1e-5)


def test_one_kernel_for_the_batch_is_the_kernel_of_every_sample() -> None:
    """Against the definition: each sample's own kernel, modulated and normalised (Eq. 1 and 3 of arXiv:1912.04958)."""
    torch.manual_seed(0)
    layer = ModulatedConv(5, 7, 9, noise_size=8)
    x, w = torch.randn(3, 5, 8, 8), torch.randn(3, 9)
    style = w @ layer.style.weight.T / 3 + layer.style.bias
    for i in range(3):
        kernel = layer.weight / 45**0.5 * style[i][None, :, None, None]
        kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = F.leaky_relu(F.conv2d(x[i : i + 1], kernel, padding=1), 0.2) * 2**0.5
        assert torch.allclose(layer(x, w)[i : i + 1], expected, atol=1e-5)


def test_up_sampling_keeps_a_constant_and_float32_and_doubles_the_side() -> None:
    up = fir_up(torch.ones(1, 3, 6, 6))
    assert up.shape == (1, 3, 12, 12)
    assert torch.allclose(up[..., 2:-2, 2:-2], torch.ones(1, 3, 8, 8))
    image = torch.rand(1, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(fir_up(image).double(), fir_up(image.double()), atol=1e-6)


def test_minibatch_stddev_by_hand() -> None:
    x = torch.tensor([0.0, 10.0, 2.0, 14.0]).reshape(4, 1, 1, 1)  # with 2 groups: images 0 and 2, 1 and 3
    assert torch.allclose(minibatch_stddev(x, 2).flatten(), torch.tensor([1.0, 2.0, 1.0, 2.0]))
    assert torch.allclose(minibatch_stddev(x, 1).flatten(), torch.full([4], 1e-4))
    with pytest.raises(ValueError, match="4 images does not divide into groups of 3"):
        minibatch_stddev(x, 3)


def test_with_group_one_a_logit_does_not_depend_on_its_neighbours() -> None:
    network = discriminator()
    images = torch.randn(4, 3, 16, 16)
    other = torch.cat([images[:1], torch.randn(3, 3, 16, 16)])
    assert torch.equal(network(images, group=1)[0], network(other, group=1)[0])
    assert not torch.equal(network(images)[0], network(other)[0])
    assert torch.equal(discriminator(group=None)(images), network(images))


def test_noise_is_zeros_stored_or_given_for_one_or_for_all() -> None:
    network = generator()
    ws = network.mapping(torch.randn(2, 6))
    silent = network.synthesis(ws)
    zeros = [torch.zeros(1, 1, size, size) for size in network.noise_sizes]
    assert torch.equal(silent, network.synthesis(ws, zeros))
    stored = [network.get_buffer(name) for name, _ in network.named_buffers() if name.endswith(".noise")]
    assert torch.equal(network.synthesis(ws, "const"), network.synthesis(ws, stored))
    own = noise_maps(network, 2)
    both = network.synthesis(ws, own)
    first = network.synthesis(ws, [map_[:1] for map_ in own])
    assert torch.allclose(both[0], first[0], atol=1e-6) and not torch.allclose(both[1], first[1], atol=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.mapping(torch.zeros(1, 5)), r"z must be \[N, 6\], got \[1, 5\]"),
        (lambda g: g.synthesis(torch.zeros(1, 10)), r"ws must be \[N, 6, 10\]"),
        (lambda g: g.synthesis(torch.zeros(1, 6, 10), "random"), "noise must be None"),
        (lambda g: g.synthesis(torch.zeros(1, 6, 10), noise_maps(g, 1)[:-1]), "noise must hold"),
        (lambda g: g.synthesis(torch.zeros(2, 6, 10), noise_maps(g, 3)), r"noise must hold \[2 or 1, 1, r, r\]"),
        (lambda g: discriminator()(torch.zeros(1, 3, 8, 8)), r"image must be \[N, 3, 16, 16\]"),
        (lambda g: Generator(resolution=48, channels=CHANNELS), "power of two"),
        (lambda g: Generator(resolution=64, channels=CHANNELS), r"missing \[64\]"),
    ],
)
def test_wrong_shapes_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(generator())


def test_every_parameter_gets_a_gradient() -> None:
    network, critic = generator(), discriminator()
    image = network.synthesis(network.mapping(torch.randn(4, 6)), noise_maps(network, 4))
    critic(image).square().sum().backward()
    for module in (network, critic):
        idle = [name for name, one in module.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
        assert idle == []


def test_gradients_reach_ws_and_noise_through_frozen_weights() -> None:
    network = generator().requires_grad_(False)
    ws = network.mapping(torch.randn(2, 6)).clone().requires_grad_()
    maps = [map_.requires_grad_() for map_ in noise_maps(network, 2)]
    network.synthesis(ws, maps).square().sum().backward()
    assert (ws.grad is not None) and (ws.grad.abs().sum(dim=(0, 2)) > 0).all()
    assert all(map_.grad is not None and map_.grad.abs().sum() > 0 for map_ in maps)


def test_gradients_are_right() -> None:
    network = generator(8).double()
    ws = torch.randn(1, 4, 10, dtype=torch.float64, requires_grad=True)
    direction, step = torch.randn_like(ws), 1e-3  # styles are float32 whatever the module, so no smaller step
    (slope,) = torch.autograd.grad(network.synthesis(ws).square().sum(), ws)
    ahead, behind = (network.synthesis(ws + sign * step * direction).square().sum() for sign in (1, -1))
    assert (slope * direction).sum().item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-2)


def test_the_gradient_penalty_can_be_trained() -> None:
    """R1 needs the gradient of a gradient."""
    critic = discriminator()
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    slope.square().sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in critic.parameters() if one.grad is not None)
    assert critic.from_rgb.weight.grad is not None and critic.from_rgb.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("how", ["autocast", "to"])
def test_bfloat16_gives_nearly_the_same_image_in_float32(how: str) -> None:
    network, critic = generator(), discriminator()
    z, maps = torch.randn(3, 6), noise_maps(network, 3)
    image = network(z, noise=maps)
    logit = critic(image, group=1)
    low, low_critic = (network.bfloat16(), critic.bfloat16()) if how == "to" else (network, critic)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        rounded = low(z, noise=maps)
        rounded_logit = low_critic(rounded, group=1)
    assert rounded.dtype == torch.float32 and rounded_logit.dtype == torch.float32
    assert (rounded - image).abs().max() < 0.05 * image.std() + 0.05
    assert (rounded_logit - logit).abs().max() < 0.1
    (rounded.sum() + rounded_logit.sum()).backward()
    assert all(torch.isfinite(one.grad).all() for one in network.parameters() if one.grad is not None)


def test_clamp_bounds_feature_maps_and_changes_nothing_below_it() -> None:
    z = torch.randn(2, 6)
    plain = generator()(z)
    assert torch.equal(generator(clamp=1e4)(z), plain)
    assert not torch.allclose(generator(clamp=0.1)(z), plain)
    loud = torch.randn(2, 3, 16, 16) * 1e6
    assert discriminator(clamp=1.0)(loud, group=1).abs().max() < 50 < discriminator()(loud, group=1).abs().max()


def test_a_grown_generator_starts_with_the_small_one_up_sampled() -> None:
    small, large = generator(16), generator(32)
    new = grow_from(large, small.state_dict())
    assert new and all(key.startswith("blocks.32.") for key in new)
    z = torch.randn(2, 6)
    assert torch.allclose(large(z), fir_up(small(z)), atol=1e-5)
    large(z).square().sum().backward()
    new_rgb = large.get_parameter("blocks.32.to_rgb.weight")
    assert new_rgb.grad is not None and new_rgb.grad.abs().sum() > 0


def test_a_grown_discriminator_keeps_the_common_blocks() -> None:
    small, large = discriminator(16), discriminator(32)
    new = grow_from(large, small.state_dict())
    assert sorted(new) == sorted(
        [key for key in large.state_dict() if key.startswith("blocks.32.")] + ["from_rgb.weight", "from_rgb.bias"]
    )
    assert torch.equal(large.get_parameter("blocks.16.conv.weight"), small.get_parameter("blocks.16.conv.weight"))
