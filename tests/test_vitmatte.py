"""ViTMatte folders of the transformers library, tiny and of random weights, are read strictly and never fetched."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mattesmith.enhance.matting import load_matting

BACKBONE = {
    "model_type": "vitdet",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "pretrain_image_size": 32,
    "num_channels": 4,
    "window_size": 2,
    "window_block_indices": [0],
    "residual_block_indices": [1],
    "use_relative_position_embeddings": True,
    "out_features": ["stage2"],
}
SETTINGS: dict[str, Any] = {
    "model_type": "vitmatte",
    "backbone_config": BACKBONE,
    "hidden_size": 16,
    "convstream_hidden_sizes": [4, 8, 8],
    "fusion_hidden_sizes": [8, 8, 8, 8],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the library itself would write."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.VitMatteForImageMatting(transformers.VitMatteConfig(**SETTINGS))
    made = tmp_path_factory.mktemp("vitmatte")
    save_file(model.state_dict(), made / "model.safetensors")
    (made / "config.json").write_text(json.dumps(SETTINGS))
    return made


@pytest.mark.parametrize("setting", ["", "@imagenet"])
def test_it_is_the_librarys_network_in_the_normalisation_asked_for(setting: str, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    library = transformers.VitMatteForImageMatting(transformers.VitMatteConfig(**SETTINGS)).eval()
    library.load_state_dict(load_file(folder / "model.safetensors"))
    image = (torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1).requires_grad_()
    trimap = torch.full((1, 1, 64, 96), 0.5)
    trimap[..., :32], trimap[..., 64:] = 0, 1
    rgb = (image + 1) / 2
    mean = torch.tensor([0.485, 0.456, 0.406] if setting else [0.5] * 3).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225] if setting else [0.5] * 3).view(1, 3, 1, 1)
    expected = library(pixel_values=torch.cat([(rgb - mean) / deviation, trimap], 1)).alphas

    matting = load_matting(f"vitmatte:{folder}{setting}")
    alpha = matting(image, trimap)
    torch.testing.assert_close(alpha[..., 32:64], expected[..., 32:64])
    assert alpha[..., :32].max() == 0 and alpha[..., 64:].min() == 1
    (gradient,) = torch.autograd.grad(alpha.sum(), image)
    assert bool(gradient.isfinite().all()) and gradient.abs().sum() > 0
    assert matting.needs_trimap and matting.card["normalisation"] == (setting[1:] or "symmetric")


def test_any_size_goes_in(folder: Path) -> None:
    alpha = load_matting(f"vitmatte:{folder}")(torch.zeros(2, 3, 37, 20), torch.full((2, 1, 37, 20), 0.5))
    assert alpha.shape == (2, 1, 37, 20) and alpha.min() >= 0 and alpha.max() <= 1


def test_weights_must_fit_to_the_last(folder: Path, tmp_path: Path) -> None:
    """The library itself would fill what is missing with random numbers."""
    state = load_file(folder / "model.safetensors")
    del state["decoder.convstream.convs.0.conv.weight"]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(ValueError, match=r"1 missing \(first: decoder\.convstream\.convs\.0\.conv\.weight\)"):
        load_matting(f"vitmatte:{tmp_path}")


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ("<html>", "expected JSON, found none"),
        ("[]", "expected the model_type 'vitmatte', found None"),
        (json.dumps(SETTINGS | {"model_type": "bert"}), "expected the model_type 'vitmatte', found 'bert'"),
        (json.dumps(SETTINGS | {"backbone_config": None, "backbone": "resnet50"}), "expected a backbone_config"),
        (json.dumps(SETTINGS | {"backbone_config": BACKBONE | {"hidden_act": "none"}}), "expected settings that make"),
    ],
)
def test_bad_settings_are_one_clear_line(settings: str, found: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(settings)
    with pytest.raises(ValueError, match=rf"config\.json: {found}") as caught:
        load_matting(f"vitmatte:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_an_empty_folder_says_what_it_lacks(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match=re.escape("holds config.json and model.safetensors")):
        load_matting(f"vitmatte:{tmp_path}")


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no such model at all", "a/b/c"])
def test_a_model_that_is_not_in_the_cache_is_not_fetched(name: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match=rf"{name}: neither a folder nor a model in the local cache"):
        load_matting(f"vitmatte:{name}")


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=re.escape("install it with `pip install 'mattesmith[vitmatte]'`")):
        load_matting("vitmatte:somewhere")
