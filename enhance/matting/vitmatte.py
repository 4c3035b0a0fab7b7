"""ViTMatte, a plain vision transformer with a small convolutional decoder, through the transformers library.

Yao, Wang, Yang, Wang 2023, "ViTMatte: Boosting Image Matting with Pretrained Plain Vision Transformers" (arXiv
2305.15272). The library holds the architecture; here its files are found, checked and read strictly. Only safetensors
are read, and nothing is ever fetched: a name of a hosted model means its copy in the local cache.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .checkpoint import load_strictly, read_state

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class ViTMatte(nn.Module):
    """Alpha alone of the library's network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Alpha [N, 1, H, W] in [0, 1].

        Args:
            x: [N, 4, H, W], the normalised image and the trimap in {0, 0.5, 1}; H and W multiples of 32.
        """
        alpha: Tensor = self.model(pixel_values=x).alphas
        return alpha


def load_vitmatte(name: str) -> tuple[ViTMatte, Path]:
    """The network and the file its weights came from.

    Args:
        name: a folder with config.json and model.safetensors, or a hosted model's name whose files are in the cache.

    Raises:
        FileNotFoundError: no such folder, and nothing of that name in the cache.
        ValueError: the transformers library is missing, or the files hold something else.
    """
    try:
        from transformers import VitMatteConfig, VitMatteForImageMatting
    except ImportError as error:
        raise ValueError(
            f"vitmatte:{name} needs the package transformers; install it with `pip install 'mattesmith[vitmatte]'`"
        ) from error
    folder = vitmatte_folder(name)
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; a ViTMatte folder holds {CONFIG} and {WEIGHTS}")
    settings = read_settings(folder / CONFIG)
    try:
        model = VitMatteForImageMatting(VitMatteConfig(**settings))
    except Exception as error:  # the library checks each setting in its own way
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{folder / CONFIG}: expected settings that make a ViTMatte, found ones that fail ({reason})"
        ) from error
    load_strictly(model, read_state(folder / WEIGHTS), file=folder / WEIGHTS)
    return ViTMatte(model), folder / WEIGHTS


def read_settings(file: Path) -> dict[str, Any]:
    """The configuration: a ViTMatte whose backbone is described in full, so that none is looked for elsewhere."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected JSON, found none ({error}); get it again") from error
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if kind != "vitmatte":
        raise ValueError(f"{file}: expected the model_type 'vitmatte', found {kind!r}")
    backbone = settings.get("backbone_config")
    if not isinstance(backbone, dict) or backbone.get("model_type") != "vitdet" or settings.get("backbone"):
        raise ValueError(f"{file}: expected a backbone_config of the model_type 'vitdet', found {str(backbone)[:60]}")
    checked: dict[str, Any] = settings
    return checked


def vitmatte_folder(name: str) -> Path:
    """The folder of that name, or that of a hosted model's copy in the cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, CONFIG)
    except ValueError:  # no name a model can have
        cached = None
    if not isinstance(cached, str):
        raise FileNotFoundError(
            f"{name}: neither a folder nor a model in the local cache; get it with `hf download {name}`, "
            "for instance hustvl/vitmatte-small-composition-1k"
        )
    return Path(cached).parent
