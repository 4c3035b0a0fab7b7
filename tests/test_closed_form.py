"""Closed-form alpha and multi-level foregrounds by pymatting, in this project's ranges and shapes."""

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mattesmith.enhance.closed_form import FOREGROUNDS, closed_form_alpha, foreground_method, multilevel_foreground
from mattesmith.enhance.foreground import estimate_foreground
from mattesmith.enhance.light import decoded, encoded, linear_from_srgb

RED, BLUE = torch.tensor([0.8, -0.8, -0.8]).view(1, 3, 1, 1), torch.tensor([-0.8, -0.8, 0.8]).view(1, 3, 1, 1)


def ramp() -> Tensor:
    """Alpha [1, 1, 16, 24]: 0 on the left third, 1 on the right one, rising between."""
    return ((torch.arange(24) - 8) / 8).clamp(0, 1).expand(1, 1, 16, 24).contiguous()


def blend(alpha: Tensor) -> Tensor:
    return alpha * RED + (1 - alpha) * BLUE


def test_colours_on_a_line_are_solved_exactly(need_pymatting: Callable[[], None]) -> None:
    need_pymatting()
    alpha = ramp()
    trimap = torch.where((alpha > 0) & (alpha < 1), torch.tensor(0.5), alpha)
    found = closed_form_alpha(blend(alpha).expand(2, -1, -1, -1), trimap.expand(2, -1, -1, -1))
    assert found.shape == (2, 1, 16, 24) and found.dtype == torch.float32
    torch.testing.assert_close(found[:1], alpha, atol=0.02, rtol=0)
    assert torch.equal(found[0], found[1])


def test_both_colours_of_a_blend_are_found(need_pymatting: Callable[[], None]) -> None:
    need_pymatting()
    alpha = ramp()
    foreground, background = multilevel_foreground(blend(alpha), alpha)
    torch.testing.assert_close(foreground, RED.expand_as(foreground), atol=0.05, rtol=0)
    torch.testing.assert_close(background, BLUE.expand_as(background), atol=0.05, rtol=0)
    ours, _ = estimate_foreground(blend(alpha), alpha)
    torch.testing.assert_close(foreground, ours, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", FOREGROUNDS)
def test_a_method_undoes_a_mixture_of_light_for_sRGB_pictures(name: str, need_pymatting: Callable[[], None]) -> None:
    if name == "pymatting":
        need_pymatting()
    alpha = ramp()
    found = foreground_method(name)(encoded(blend(alpha)), alpha)
    for colours, light in zip(found, (RED, BLUE), strict=True):
        torch.testing.assert_close(colours, encoded(light).expand_as(colours), atol=0.05, rtol=0)
    assert (found[0] - estimate_foreground(encoded(blend(alpha)), alpha)[0]).abs().max() > 0.1  # sRGB mixes so


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown foreground method 'slow'; known: fast, pymatting"):
        foreground_method("slow")


def test_a_trimap_that_says_nothing_is_refused() -> None:
    unknown = torch.full((1, 1, 16, 24), 0.5)
    with pytest.raises(ValueError, match=r"needs a trimap with background \(0\) and foreground \(1\)"):
        closed_form_alpha(blend(ramp()), unknown)
    with pytest.raises(ValueError, match=r"alpha must be \[1, 1, 16, 24\] for this image, got \[1, 1, 8, 8\]"):
        multilevel_foreground(blend(ramp()), torch.zeros(1, 1, 8, 8))


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with pytest.raises(ValueError, match=re.escape("install it with `pip install 'mattesmith[pymatting]'`")):
        foreground_method("pymatting")


def test_the_number_of_torchs_threads_stays_what_it_was(need_pymatting: Callable[[], None]) -> None:
    need_pymatting()
    code = "import torch; torch.set_num_threads(1); from mattesmith.enhance.closed_form import pymatting as package; "
    code += "package(); print(torch.get_num_threads())"  # in a process of its own: only the first import does it
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_light_is_decoded_and_encoded_as_the_standard_says() -> None:
    srgb = torch.linspace(-1, 1, 256)
    levels = torch.from_numpy(linear_from_srgb((srgb.numpy() + 1) / 2))
    torch.testing.assert_close((decoded(srgb) + 1) / 2, levels, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded(decoded(srgb)), srgb, atol=1e-5, rtol=0)
    assert encoded(torch.tensor([-1.0, 1.0])).tolist() == pytest.approx([-1, 1], abs=1e-6)
    assert encoded(torch.tensor([float("nan")])).isnan().all()  # what diverged stays visible
