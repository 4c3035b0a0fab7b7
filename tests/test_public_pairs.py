"""The whole pipeline for every pair of public generator and public matting network, and what may go wrong with both.

The files are of the published forms: the packs' keys with weights made from the keys' names. StyleGAN2 is a sixteenth
as wide as published.
"""

import json
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from mattesmith import cli, filters, gen, shards
from mattesmith.enhance import load_matting

HERE = Path(__file__).parent
FILL = runpy.run_path(str(HERE / "fill.py"))
PICKLES = runpy.run_path(str(HERE / "test_pickles.py"))
fake_modules = PICKLES["fake_modules"]
PREFIX = {"gca": "module.", "indexnet": "module."}
LICENCES = {
    "modnet": "Apache-2.0",
    "gca": "code MIT; weights trained on Adobe's matting set: non-commercial",
    "indexnet": "non-commercial; trained on Adobe's matting set: non-commercial",
    "dim": "code MIT; weights trained on Adobe's matting set: non-commercial",
    "onnx": "unknown: see where the file came from",
}
NARROW = {512: 32, 513: 33, 8192: 512}  # channels, channels and the deviation's, channels of 4 x 4 pixels
pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")


def pack(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((HERE / "data" / "parity" / name / "manifest.json").read_text())
    return manifest


def filled(keys: dict[str, Any]) -> dict[str, Tensor]:
    """A pack's state dict, made from the names of its keys."""
    return {key: torch.from_numpy(np.array(value)) for key, value in FILL["state"](keys).items()}


def narrow(name: str) -> dict[str, Tensor]:
    """A StyleGAN2 pack's state dict, a sixteenth as wide."""
    keys = pack(name)["keys"]
    thin = {key: entry | {"shape": [NARROW.get(n, n) for n in entry["shape"]]} for key, entry in keys.items()}
    scale = {key: entry.get("post_scale", 1.0) for key, entry in keys.items()}
    return {key: value * scale[key] if scale[key] != 1 else value for key, value in filled(thin).items()}


@pytest.fixture
def write_generator(fake_modules: None, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a file with a generator and a discriminator of 64 px."""

    def write(kind: str) -> Path:
        generator, discriminator = narrow(f"stylegan2_{kind}_g"), narrow(f"stylegan2_{kind}_d")
        if kind == "rosinality":
            path = tmp_path / "generator.pt"
            torch.save({"g_ema": generator, "d": discriminator, "latent_avg": torch.zeros(32)}, path)
            return path
        path = tmp_path / "ffhq.pkl"
        trees = {"G_ema": PICKLES["tree"](generator, {}), "D": PICKLES["tree"](discriminator, {})}
        path.write_bytes(pickle.dumps(trees))
        return path

    return write


@pytest.fixture(scope="module")
def matting_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A network's file, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("matting")

    def file(name: str) -> Path:
        path = folder / (name + (".onnx" if name == "onnx" else ".pth"))
        if not path.exists() and name == "onnx":
            write_onnx(path)
        elif not path.exists():
            keys = pack("deeplab_trimap" if name == "deeplab" else name)["keys"]
            torch.save({"state_dict": {PREFIX.get(name, "") + key: value for key, value in filled(keys).items()}}, path)
        return path

    yield file
    for path in folder.iterdir():
        path.unlink()  # a quarter of a gigabyte


def write_onnx(path: Path) -> None:
    """One convolution and a sigmoid."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    weight = FILL["tensor"]("onnx", [1, 3, 5, 5], "weight")
    nodes = [
        onnx.helper.make_node("Conv", ["image", "weight"], ["logit"], pads=[2, 2, 2, 2]),
        onnx.helper.make_node("Sigmoid", ["logit"], ["alpha"]),
    ]
    value = onnx.helper.make_tensor_value_info
    image, alpha = value("image", 1, ["n", 3, "h", "w"]), value("alpha", 1, ["n", 1, "h", "w"])
    graph = onnx.helper.make_graph(nodes, "matte", [image], [alpha], [onnx.numpy_helper.from_array(weight, "weight")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`generate` in this process, one portrait, with nothing filtered out: random weights make silly mattes."""

    def in_this_process(tasks: Any, start: Any, *, num_workers: int, progress: Any) -> list[int]:
        work = start()
        for shard, quota in tasks:
            work(shard, quota, lambda kept, reason, shard=shard: progress(shard, kept, reason))
        return []

    def run(*words: object) -> Path:
        out = tmp_path / "out"
        command = ["generate", "--n", "1", "--out", out, "--preset", "paper", "--steps", "2", "--slots", "1", *words]
        done = CliRunner().invoke(cli.cli, [str(word) for word in command])
        assert done.exit_code == 0, done.exception or done.output
        return out

    load, loaded = cli.Pipeline.networks, {}

    def once(pipeline: cli.Pipeline) -> dict[str, Any]:
        loaded.update({} if loaded else load(pipeline))
        return loaded

    monkeypatch.setattr(cli.Pipeline, "networks", once)  # the worker is this process: its networks are there already
    monkeypatch.setattr(cli, "run_shards", in_this_process)
    monkeypatch.setattr(filters, "decide", lambda one, scores, **limits: filters.Scored(one, scores, -1.0, None))
    num_threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(num_threads)


def losses_of(out: Path) -> dict[str, float]:
    """The losses of a dataset's only portrait."""
    ((_, files),) = shards.samples_of(out / "00000.tar")
    losses: dict[str, float] = json.loads(files["json"])["losses"]
    return losses


def cards_of(out: Path) -> dict[str, dict[str, Any]]:
    """The cards in a dataset's manifest, by the network's role."""
    return {card["role"]: card for card in json.loads((out / "dataset.json").read_text())["networks"]}


FOUR = {"entropy_before", "entropy_after", "adversarial_before", "adversarial_after", "pixel", "perceptual"}


@pytest.mark.parametrize("matting", ["modnet", "gca", "indexnet", "dim", "onnx"])
@pytest.mark.parametrize("kind", ["rosinality", "nvidia"])
def test_every_pair_makes_a_dataset(
    kind: str, matting: str, write_generator: Any, matting_files: Any, generate: Any
) -> None:
    generator, file = write_generator(kind), matting_files(matting)
    out = generate("--generator", generator, "--matting", f"{matting}:{file}")
    losses = losses_of(out)
    assert losses.keys() >= FOUR and all(np.isfinite(value) for value in losses.values())
    assert losses["diverged"] == 0 and losses["entropy_before"] > 0 and losses["adversarial_before"] > 0
    assert shards.verify(out) == []

    cards, readme = cards_of(out), (out / "README.md").read_text()
    assert cards["generator"]["source"] == generator.name and cards["matting"]["name"] == file.name
    assert cards["matting"]["licence"] == LICENCES[matting]
    for card in cards.values():
        assert card["licence"] and f"| {card['licence']} |" in readme
    assert ("trimap" in cards) == (matting in ("gca", "indexnet", "dim"))
    assert cards["perceptual"]["name"] == "perceptual" and json.loads((out / "dataset.json").read_text())["count"] == 1


def test_deeplabs_classes_are_the_trimap_and_the_entropy(
    write_generator: Any, matting_files: Any, generate: Any
) -> None:
    gca, deeplab = matting_files("gca"), matting_files("deeplab")
    out = generate(
        "--generator", write_generator("rosinality"), "--matting", f"gca:{gca}", "--trimap", f"deeplab:{deeplab}"
    )
    losses = losses_of(out)
    assert 0 < losses["entropy_before"] <= np.log(3) and cards_of(out)["trimap"]["licence"] == "none stated"
    config = json.loads((out / "config.json").read_text())
    assert config["networks"]["trimap"] == cards_of(out)["trimap"]["sha256"]


def test_what_makes_the_trimaps_changes_the_matte(matting_files: Any) -> None:
    name, image = f"gca:{matting_files('gca')}", torch.linspace(-1, 1, 64 * 64).view(1, 1, 64, 64).expand(1, 3, -1, -1)
    derived, classes = load_matting(name), load_matting(name, coarse=f"deeplab:{matting_files('deeplab')}")
    logits = classes.trimap_network().network(image)
    assert torch.equal(classes.derive_trimap(image) * 2, logits.argmax(1, keepdim=True))
    assert not torch.equal(classes.derive_trimap(image), derived.derive_trimap(image))


# The command itself, its filters, and its refusals


def rosinality_names(generator: gen.Generator) -> dict[str, Tensor]:
    """A generator's state dict under rosinality's names and shapes, written out independently of gen/rosinality.py."""
    names = {}
    for key, value in generator.state_dict().items():
        parts = key.split(".")
        if parts[0] == "dense":
            names[f"style.{int(parts[1]) + 1}.{parts[2]}"] = value
        elif key == "blocks.4.const":
            names["input.input"] = value
        elif parts[0] == "blocks":
            level, inside = int(parts[1]).bit_length() - 3, ".".join(parts[3:])  # 0 at side 4
            number = 2 * level - (parts[2] == "up")
            layer = "conv1" if number == 0 else f"convs.{number - 1}"
            layer = ("to_rgb1" if level == 0 else f"to_rgbs.{level - 1}") if parts[2] == "to_rgb" else layer
            if inside == "noise":
                names[f"noises.noise_{number}"] = value
            elif inside == "weight":
                names[f"{layer}.conv.weight"] = value[None]
            elif inside.startswith("style"):
                names[f"{layer}.conv.modulation{inside[5:]}"] = value
            elif inside == "noise_strength":
                names[f"{layer}.noise.weight"] = value[None]
            else:
                names[f"{layer}.bias" if "rgb" in layer else f"{layer}.activate.bias"] = (
                    value.view(1, -1, 1, 1) if "rgb" in layer else value
                )
    return names


@pytest.fixture(scope="module")
def published_default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded generator as a file that holds only g_ema and latent_avg."""
    path = tmp_path_factory.mktemp("default") / "g_ema_only.pt"
    generator = gen.load_generator()
    torch.save({"g_ema": rosinality_names(generator), "latent_avg": generator.mean_w}, path)
    return path


def run(*words: object, code: int = 0) -> str:
    """cli.py as a user runs it; what it printed."""
    command = [sys.executable, str(HERE.parent / "cli.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_a_published_pair_with_a_discriminator_of_its_own_passes_the_filters(
    published_default: Path, tmp_path: Path
) -> None:
    """The embedded networks under the published names, through every stage in workers of their own."""
    matting = tmp_path / "modnet.ckpt"
    state = load_matting("default").network.state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, matting)
    discriminator = tmp_path / "discriminator.pt"
    torch.save({"d": PICKLES["nvidia_names"](gen.load_discriminator())}, discriminator)
    out = tmp_path / "out"
    run("generate", "--n", 1, "--out", out, "--generator", published_default, "--discriminator", discriminator,
        "--matting", f"modnet:{matting}", "--preset", "paper", "--steps", 2, "--slots", 1)  # fmt: skip
    assert losses_of(out).keys() >= FOUR and shards.verify(out) == []
    cards, config = cards_of(out), json.loads((out / "config.json").read_text())
    files = {"generator": published_default, "discriminator": discriminator, "matting": matting}
    for role, file in files.items():
        assert cards[role]["name"] == file.name and config["networks"][role] == cards[role]["sha256"]
    assert f"| {discriminator.name} | {cards['discriminator']['licence']} |" in (out / "README.md").read_text()


def pipeline(**changed: Any) -> cli.Pipeline:
    fixed: dict[str, Any] = {
        "generator": "default", "discriminator": None, "matting": "default", "trimap": None, "perceptual": "embedded",
        "device": "cpu", "seed": 0, "psi": 0.8, "slots": 1, "encoding": {}, "out": Path("none"),
        "enhancement": {"preset": "paper", "steps": 2, "foreground": "fast"},
    }  # fmt: skip
    return cli.Pipeline(**fixed | changed)


def test_a_generator_without_a_discriminator_says_what_to_name(published_default: Path) -> None:
    with pytest.raises(ValueError, match=r"no discriminator for --generator \(.*g_ema_only\.pt: holds no") as caught:
        pipeline(generator=str(published_default)).networks()
    line = str(caught.value)
    assert "--discriminator FILE" in line and "--discriminator none" in line and "\n" not in line


def test_without_the_adversarial_term_neither_loss_nor_score_nor_card_speaks_of_it(published_default: Path) -> None:
    without = pipeline(generator=str(published_default), discriminator="none")
    networks = without.networks()
    scored = next(without.portraits(networks, 0))
    assert "discriminator" not in networks and scored.dropped_by is None
    assert not [name for name in (*scored.enhanced.losses, *scored.scores) if name.startswith(("adv", "realism"))]


def test_a_discriminator_of_another_size_is_named(write_generator: Any) -> None:
    with pytest.raises(ValueError, match=r"--discriminator default: expected one for .* 64 px, found one for 128 px"):
        pipeline(generator=str(write_generator("rosinality")), discriminator="default").networks()


def test_a_trimap_network_that_nobody_asks_is_named() -> None:
    with pytest.raises(ValueError, match=r"--trimap second: --matting default takes no trimap; leave --trimap out"):
        pipeline(trimap="second").networks()


def config_of(matting: str, foreground: str) -> dict[str, Any]:
    made = pipeline(matting=matting, enhancement={"preset": "paper", "foreground": foreground})
    return cli._config(made, n=1, shard_size=1, networks={"matting": load_matting(made.matting)})


def test_how_pictures_are_normalised_is_in_the_configuration(matting_files: Any) -> None:
    file = f"onnx:{matting_files('onnx')}"
    base, unit = config_of(file, "fast"), config_of(f"{file}@unit", "fast")
    assert base["networks"] == unit["networks"] and base["normalisations"] != unit["normalisations"]
    assert "onnx2torch" in base["versions"]


def test_how_foregrounds_are_estimated_is_in_the_configuration(need_pymatting: Callable[[], None]) -> None:
    need_pymatting()
    base, slow = config_of("default", "fast"), config_of("default", "pymatting")
    assert base["enhancement"] != slow["enhancement"]
    assert "pymatting" in slow["versions"] and "pymatting" not in base["versions"]
