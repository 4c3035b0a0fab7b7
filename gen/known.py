"""Public weight files: their names, sizes, sums and licences, and where their authors publish them.

Facts only; no file is in the repository, and none is fetched unasked. An address stands here only where it is its
authors' own and the file behind it has a known sum.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

NVIDIA_LICENCE = "non-commercial (NVIDIA Source Code License); trained on FFHQ, CC BY-NC-SA 4.0"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """One public file."""

    name: str  # what `models fetch` takes
    file: str  # its published file name
    use: str  # how the command line names it
    licence: str
    where: str  # where its authors publish it
    needs: str = "nothing else"
    size: int | None = None  # bytes, where known to the byte
    about: str = ""  # a rough size, where it is not
    sha256: str | None = None
    url: str | None = None


_ffhq = partial(KnownFile, use="--generator FILE", licence=NVIDIA_LICENCE)
_converted = partial(
    _ffhq,
    file="stylegan2-ffhq-config-f.pt",
    where="conversions of NVIDIA's file by github.com/rosinality/stylegan2-pytorch",
)
GENERATOR_FILES = (
    _ffhq(
        name="ffhq-nvidia-tensorflow",
        file="stylegan2-ffhq-config-f.pkl",
        where="github.com/NVlabs/stylegan2",
        size=381_673_535,
        sha256="adf127ea7bb8a7788c8bdeda3c9937f7310b669b09ecf799ca53a631ff46948d",
        url="https://nvlabs-fi-cdn.nvidia.com/stylegan2/networks/stylegan2-ffhq-config-f.pkl",
    ),
    _ffhq(
        name="ffhq-nvidia-pytorch",
        file="ffhq.pkl",
        where="github.com/NVlabs/stylegan2-ada-pytorch, folder pretrained of its data repository",
    ),
    _ffhq(
        name="ffhq-nvidia-smaller",
        file="stylegan2-ffhq-256x256.pkl, -512x512.pkl, -1024x1024.pkl",
        where="NVIDIA's model page of StyleGAN2, linked from github.com/NVlabs/stylegan3",
    ),
    _converted(
        name="ffhq-converted-with-d",
        about="381 MB (g, d, g_ema)",
        sha256="bae494ef77e32a9cd1792a81a3c167692a0e64f6bcd8b06592ff42917e2ed46e",
    ),
    _converted(
        name="ffhq-converted",
        needs="a discriminator: it holds g_ema and latent_avg only",
        size=132_717_355,
        sha256="646c7e7c5e3fc4cf8e83dcfe5dce505cc74b61d8982c09563932aa15c4baf18c",
    ),
    _converted(
        name="ffhq-converted-again",
        needs="a discriminator: it holds the generator only",
        about="133 MB",
        sha256="d0d7c5e71531c816b8cf01037393ee4fb65ed09dcb6434cc0197771e3051199b",
    ),
)


def embedded_file(weights: Path, *, name: str, use: str) -> KnownFile:
    """One of the files that lie in the repository, as its card describes it."""
    card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    return KnownFile(
        name=name,
        file=weights.name,
        use=use,
        licence=card["licence"],
        where="embedded: it came with this program",
        size=weights.stat().st_size,
        sha256=card["sha256"],
    )


def file_of(files: Iterable[KnownFile], sha256: str) -> KnownFile | None:
    """The file with this sum."""
    return next((each for each in files if each.sha256 == sha256), None)
