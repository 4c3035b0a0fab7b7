"""The second matting network: its promises with random weights, and that it can learn."""

import pytest
import torch

from mattesmith.enhance.matting.unet import UNet


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    return UNet().eval()


def test_alpha_has_the_images_size_and_lies_in_0_to_1(network: UNet) -> None:
    alpha = network(torch.rand(2, 3, 48, 32) * 2 - 1)
    assert alpha.shape == (2, 1, 48, 32)
    assert alpha.min() >= 0 and alpha.max() <= 1


def test_it_stays_small(network: UNet) -> None:
    assert 1.2e6 < sum(parameter.numel() for parameter in network.parameters()) < 1.6e6


def test_an_image_gives_the_same_alpha_whatever_its_batch(network: UNet) -> None:
    image = torch.rand(3, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(network(image)[1:2], network(image[1:2]))


def test_every_pixel_can_see_the_whole_image(network: UNet) -> None:
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.logits(image)[0, 0, 0, 0], image)
    assert (gradient.abs().sum(1) > 0).all()


def test_it_learns_a_matte() -> None:
    """A bright disc on dark ground, 12 steps: the loss falls to less than a third."""
    torch.manual_seed(0)
    network = UNet((8, 16))
    ys, xs = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    alpha = ((ys - 16) ** 2 + (xs - 16) ** 2 < 64).float().expand(2, 1, 32, 32)
    image = (alpha * 1.6 - 0.8).expand(2, 3, 32, 32)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    losses = []
    for _ in range(12):
        loss = (network(image) - alpha).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
