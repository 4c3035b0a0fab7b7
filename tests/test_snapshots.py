"""What trainings share: the course of the learning rate, and an update that clips and averages."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from mattesmith.finetune.snapshots import check_settings, cosine_rate, follow, load_state, save_state, update


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


def test_the_average_of_a_network_with_spectral_norm_is_normalised_as_it_is() -> None:
    torch.manual_seed(0)
    network = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6, bias=False))
    average = copy.deepcopy(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    for _ in range(60):
        update(network, average, optimiser, network(torch.ones(1, 6)).square().sum(), half_life=0.01)
    assert not torch.equal(average.parametrizations.weight[0]._u, torch.zeros(6))
    for name, buffer in network.named_buffers():
        assert torch.equal(average.get_buffer(name), buffer), name
    assert torch.linalg.matrix_norm(average.eval().weight, 2).item() == pytest.approx(1, abs=0.02)


def test_a_buffer_of_the_average_s_own_is_kept() -> None:
    network, average = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    network.running_mean.fill_(3), network.running_var.fill_(4)
    follow(average, network, half_life=1, keep=("running_var",))
    assert (average.running_mean.item(), average.running_var.item()) == (3, 1)


@pytest.mark.parametrize("num_bytes", [0, 100, 900])
def test_a_state_cut_short_is_named_in_one_line(tmp_path: Path, num_bytes: int) -> None:
    file = tmp_path / "net.state.pt"
    save_state(file, {"weight": torch.ones(200)})
    file.write_bytes(file.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"net\.state\.pt \(.* bytes\) cannot be read as a snapshot; restore") as error:
        load_state(file)
    assert "\n" not in str(error.value)


def test_a_snapshot_of_other_settings_is_refused_and_one_that_records_less_is_not() -> None:
    file = Path("state/net.pt")
    check_settings(file, {"seed": 1}, {"seed": 1, "batch": 4}, otherwise="another --state")
    check_settings(file, {}, {"seed": 1}, otherwise="another --state")
    with pytest.raises(ValueError, match=r"net\.pt was made with other settings .*: seed: 1 / 2; use .*--state"):
        check_settings(file, {"seed": 1}, {"seed": 2, "batch": 4}, otherwise="another --state")
