"""Which arithmetic is used where: bfloat16 only where it pays, and one dataset in one precision."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from mattesmith import cli, shards
from mattesmith.enhance import autocast, bf16_pays, check_device, chosen_precision


@pytest.fixture(params=[True, False], ids=["bf16 pays", "bf16 is slow"])
def pays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A machine with the instructions, and one without."""
    machine(monkeypatch, pays=request.param)
    return bool(request.param)


def machine(monkeypatch: pytest.MonkeyPatch, *, pays: bool) -> None:
    for place in ("mattesmith.enhance.precision.bf16_pays", "mattesmith.enhance.bf16_pays"):
        monkeypatch.setattr(place, lambda device: pays)


def begin(out: Path, *words: str) -> Result:
    return CliRunner().invoke(cli.cli, ["generate", "--n", "0", "--out", str(out), *words])


def recorded(out: Path) -> str:
    return str(shards.read_config(out)["enhancement"]["precision"])


def test_auto_is_what_pays_and_a_word_is_a_word(pays: bool) -> None:
    assert chosen_precision("auto", "cpu") == ("bf16" if pays else "float32")
    assert [chosen_precision(word, "cpu") for word in ("bf16", "float32")] == ["bf16", "float32"]
    with pytest.raises(ValueError, match="fp8"):
        chosen_precision("fp8", "cpu")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_products_have_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast("cpu", precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    with autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if bf16_pays("cpu") else torch.float32)


def test_a_dataset_says_which_precision_it_was_made_in(pays: bool, tmp_path: Path) -> None:
    assert begin(tmp_path / "auto").exit_code == 0
    assert recorded(tmp_path / "auto") == ("bf16" if pays else "float32")
    assert begin(tmp_path / "named", "--precision", "bf16").exit_code == 0
    assert recorded(tmp_path / "named") == "bf16"


@pytest.mark.parametrize("begun", ["bf16", "float32"])
def test_a_dataset_goes_on_in_the_precision_it_was_begun_in(begun: str, pays: bool, tmp_path: Path) -> None:
    assert begin(tmp_path / "d", "--precision", begun).exit_code == 0
    done = begin(tmp_path / "d")
    assert done.exit_code == 0 and recorded(tmp_path / "d") == begun
    assert ("goes on in bf16" in done.output) == (begun == "bf16" and not pays)
    other = {"bf16": "float32", "float32": "bf16"}[begun]
    refused = begin(tmp_path / "d", "--precision", other)
    assert f"enhancement.precision: {begun} / {other}" in str(refused.exception)
    assert refused.exit_code != 0 and recorded(tmp_path / "d") == begun


def test_a_gpu_that_is_not_there_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device("cpu")
    with pytest.raises(ValueError, match=r"^--device cuda: torch finds no CUDA device here; use --device cpu$"):
        check_device("cuda")
