"""Folding: another network with the same answers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mattesmith.enhance.matting.folding import folded
from mattesmith.enhance.matting.modnet import Depthwise, IBNorm, MODNet, Normed, pixel_means
from mattesmith.enhance.matting.p3m import P3MNet
from mattesmith.enhance.matting.unet import UNet


def with_statistics(network: nn.Module) -> nn.Module:
    """In double precision and eval mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(5)
    for norm in [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]:
        for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -1, 1), (norm.running_mean, -1, 1),
                                  (norm.running_var, 0.5, 2)):  # fmt: skip
            assert tensor is not None
            tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return network.double().eval().requires_grad_(False)


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_a_folded_modnet_has_no_batch_norm_and_gives_the_same_mattes() -> None:
    torch.manual_seed(0)
    network = with_statistics(MODNet())
    image = torch.rand(2, 3, 64, 96, dtype=torch.float64) * 2 - 1
    before, num_before = network(image), num_norms(network)
    lean = folded(network)
    assert num_before == num_norms(network) == 69 and num_norms(lean) == 0
    for mine, theirs in zip(lean(image), before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    assert network is not lean and folded(lean) is lean
    assert network.hr_branch.conv_enc2x.layers[0].weight.is_contiguous()  # the original lies as it lay


@pytest.mark.parametrize("build", [P3MNet, UNet])
def test_other_networks_give_the_same_too(build: type[nn.Module]) -> None:
    torch.manual_seed(1)
    network = with_statistics(build())
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    before, after = network(image), folded(network)(image)
    pairs = zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_depthwise_is_the_strided_convolution() -> None:
    torch.manual_seed(2)
    x = torch.rand(2, 6, 9, 8, dtype=torch.float64)
    ours = Depthwise(6, 2).double()
    theirs = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


LAYOUTS = pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])


@LAYOUTS
def test_instance_norm_is_torchs_with_its_gradient(memory_format: torch.memory_format) -> None:
    torch.manual_seed(3)
    x = (3 * torch.rand(2, 5, 6, 7, dtype=torch.float64) - 1).contiguous(memory_format=memory_format)
    gradient = torch.rand(2, 5, 6, 7, dtype=torch.float64)
    x.requires_grad_(True)
    ours = Normed.apply(x, None, None, 2)[0]
    theirs = torch.cat([x[:, :2], F.instance_norm(x[:, 2:])], 1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    mine, expected = (torch.autograd.grad(y, x, gradient)[0] for y in (ours, theirs))
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


@LAYOUTS
def test_in_training_half_is_torchs_batch_norm_with_its_gradients_and_statistics(
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(6)
    ours, theirs = IBNorm(6).double(), nn.BatchNorm2d(3).double()
    for norm in (ours.bnorm, theirs):
        norm.load_state_dict({"weight": torch.tensor([0.5, 1, 2]), "bias": torch.tensor([0.0, 1, -1])}, strict=False)
    x = (3 * torch.rand(2, 6, 4, 5, dtype=torch.float64) - 1).contiguous(memory_format=memory_format)
    gradient = torch.rand(2, 6, 4, 5, dtype=torch.float64)
    x.requires_grad_(True)
    pairs = []
    for norm, y in ((ours.bnorm, ours(x)), (theirs, torch.cat([theirs(x[:, :3]), F.instance_norm(x[:, 3:])], 1))):
        pairs.append((y, *torch.autograd.grad(y, [x, *norm.parameters()], gradient), *norm.buffers()))
    for mine, expected in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


def test_means_over_pixels_are_exact_but_for_the_rounding_of_rows() -> None:
    torch.manual_seed(7)
    x = (torch.randn(3, 8, 32, 16) + 2).bfloat16().contiguous(memory_format=torch.channels_last)
    means = pixel_means(x)
    assert means.dtype == torch.float32
    torch.testing.assert_close(means.double(), x.double().mean((2, 3)), rtol=2e-3, atol=0)
    assert torch.equal(pixel_means(x.flip(0)), means.flip(0))  # neighbours enter no bit


def test_in_bfloat16_a_folded_modnets_gradient_is_as_near_as_the_original_ones() -> None:
    torch.manual_seed(4)
    network = with_statistics(MODNet()).float()
    image = torch.rand(2, 3, 64, 64) * 2 - 1

    def slope(net: nn.Module, *, bf16: bool) -> Tensor:
        x = image.clone().contiguous(memory_format=torch.channels_last).requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total = net(x).detail.float().sum()
        return torch.autograd.grad(total, x)[0].flatten()

    exact = slope(network, bf16=False)
    likeness = [torch.cosine_similarity(exact, slope(net, bf16=True), 0) for net in (network, folded(network))]
    assert likeness[1] > 0.6 and likeness[1] > likeness[0] - 0.05
