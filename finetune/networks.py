"""What a training starts from: a public network, an embedded one, or a module of one's own."""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..enhance import Matting, load_matting
from ..enhance.matting.checkpoint import load_strictly, read_card, read_state
from ..enhance.matting.load import ARCHITECTURES, EMBEDDED, Architecture
from .losses import modnet_loss, pyramid_loss

FACTORY = re.compile(r"([A-Za-z_][\w.]*:[A-Za-z_]\w*)(?::(.+))?")  # package.module:factory, and a file of its weights
NOT_TRAINED = ("deeplab", "onnx", "vitmatte")  # no matte of its own, or no file of ours could hold it
DIVISOR = 32  # what the sides of a picture are padded to for a network of one's own


def load_network(name: str, *, seed: int = 0) -> Matting:
    """As `load_matting`, and two more names: NAME.safetensors is one of our files, whose card names its architecture;
    "package.module:factory" is a network of one's own, and "package.module:factory:FILE" that with its weights.

    Args:
        name: a factory is called without arguments, and gives a module image [N, 3, H, W] in [-1, 1] -> alpha
            [N, 1, H, W]; H and W are multiples of 32.
        seed: of its first weights, where there is no file.

    Raises:
        FileNotFoundError, ValueError: as `load_matting`; nothing of that name can be imported, or it gives no module.
    """
    name = full_name(name)
    match = FACTORY.fullmatch(name)
    if name in EMBEDDED or not match or name.partition(":")[0] in (*ARCHITECTURES, *NOT_TRAINED):
        return load_matting(name)
    factory, file = match[1], match[2]
    architecture = Architecture(
        factory_of(factory), alpha_by(factory), DIVISOR, False,
        f"unknown: see where {factory} came from", factory,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # first weights are drawn from torch's own generator; its state is put back
        torch.default_generator.manual_seed(seed)
        network = architecture.build()
    if not isinstance(network, nn.Module):
        raise ValueError(f"{factory}() must return a torch.nn.Module, got {type(network).__name__}")
    card: dict[str, Any] = {"architecture": factory, "name": factory, "licence": architecture.licence}
    card |= {"source": factory, "sha256": f"none: first weights, seed {seed}"}
    if file:
        load_strictly(network, read_state(Path(file)), file=Path(file))
        card |= read_card(Path(file))
    return Matting(network, architecture, name=factory, card=card)


def alpha_by(factory: str) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The matte that a network of one's own makes of an image; what it does wrong is said in one line."""

    def alpha(network: nn.Module, image: Tensor, trimap: Tensor) -> Tensor:
        try:
            matte: Tensor = network(image)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{factory} fails on an image {list(image.shape)}: {reason}") from error
        if not isinstance(matte, Tensor) or matte.shape != trimap.shape:
            found = list(matte.shape) if isinstance(matte, Tensor) else type(matte).__name__
            raise ValueError(f"{factory} must give alpha {list(trimap.shape)}, got {found}")
        return matte

    return alpha


def full_name(name: str) -> str:
    """The name of a network; one of our files (NAME.safetensors) goes by the architecture in its card.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or its card names no architecture.
    """
    file = Path(name)
    if file.suffix != ".safetensors" or (":" in name and not file.is_file()):
        return name
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such checkpoint file")
    architecture = read_card(file).get("architecture")
    if architecture is None:
        raise ValueError(f"{file} has no card {file.with_suffix('.json').name} that names its architecture; "
                         f"say it: modnet:{file}")  # fmt: skip
    return f"{architecture}:{file}"


def factory_of(name: str) -> Callable[[], nn.Module]:
    """The callable that "package.module:factory" names."""
    module_name, _, attribute = name.partition(":")
    known = f"{', '.join(EMBEDDED)}, {', '.join(f'{each}:FILE' for each in ARCHITECTURES)}"
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"network {name!r}: no module {module_name} can be imported ({error}); known networks: {known}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ValueError(f"network {name!r}: {module_name} has no callable {attribute}")
    return factory  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained."""

    words: str  # what the card says
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor]  # network, image, true alpha, trimap


def recipe_of(matting: Matting) -> Recipe:
    """MODNet's own three losses for MODNet; alpha, Laplacian pyramid and composition for all others.

    Raises:
        ValueError: a network that cannot be trained here.
    """
    kind = str(matting.card["architecture"])
    if kind in NOT_TRAINED:
        reason = "it makes trimaps, not mattes" if kind == "deeplab" else "no file of ours could hold it afterwards"
        raise ValueError(f"network {kind} cannot be finetuned: {reason}; use modnet, unet, gca, indexnet, dim, p3m or "
                         "package.module:factory")  # fmt: skip
    if kind == "modnet":
        return Recipe(
            "semantic, detail and fusion losses of MODNet (arXiv:2011.11961)",
            lambda network, image, alpha, trimap: modnet_loss(network, image, alpha),
        )
    estimate = matting.architecture.alpha

    def loss(network: nn.Module, image: Tensor, alpha: Tensor, trimap: Tensor | None) -> Tensor:
        """Where a trimap is given, errors outside its unknown part do not count: there it says what alpha is."""
        given = torch.zeros_like(alpha) if trimap is None else trimap

        def predicted(image: Tensor) -> Tensor:
            matte = estimate(network, image, given).float()
            return matte if trimap is None else torch.where(trimap == 0.5, matte, alpha)

        return pyramid_loss(predicted, image, alpha)

    return Recipe("alpha, Laplacian pyramid and composition losses (arXiv:1909.09725)", loss)


def unfrozen(matting: Matting, *, seed: int = 0) -> nn.Module:
    """A second network of the same weights whose parameters take gradients as they were built to.

    Built anew rather than unfrozen: some tensors (spectral norm's vectors) are parameters that never take one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = matting.architecture.build()
    network.load_state_dict(matting.network.state_dict())
    return network
