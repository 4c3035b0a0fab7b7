"""What trainings share: the course of the learning rate, and an update that clips and averages."""

import pytest
import torch
from torch import nn

from mattesmith.finetune.snapshots import cosine_rate, update


def test_the_rate_rises_for_three_hundredths_and_then_falls_to_nothing() -> None:
    shares = [index / 1000 for index in range(1001)]
    rates = [cosine_rate(share) for share in shares]
    assert rates[0] == pytest.approx(1 / 30) and cosine_rate(0.5) == pytest.approx(0.5)
    assert max(rates) == cosine_rate(0.029) > 0.99
    assert rates[29:] == sorted(rates[29:], reverse=True) and rates[-1] == cosine_rate(1.2) == 0


def test_an_update_takes_a_clipped_step_and_the_average_follows_half_way() -> None:
    network, average = (nn.Linear(1, 1, bias=False) for _ in range(2))
    with torch.no_grad():
        network.weight.fill_(0.0)
        average.weight.fill_(2.0)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    update(network, average, optimiser, 100 * network.weight.sum(), half_life=1)
    assert network.weight.item() == pytest.approx(-0.5)  # a gradient of 100 counts as 1
    assert average.weight.item() == pytest.approx(0.75)
