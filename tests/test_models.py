"""`models`, and every bad weight file through the command line: one line, exit code 2, nothing begun."""

import hashlib
import json
import pickle
import runpy
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mattesmith import cli, enhance, gen
from mattesmith.enhance.matting.unet import UNet

ROOT = Path(__file__).parents[1]
CHANNELS = {4: 16, 8: 16, 16: 16}
nvidia_names = runpy.run_path(str(ROOT / "tests" / "test_pickles.py"))["nvidia_names"]


class Line(Exception):
    """The one line that a command ended with, and its code."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command line in this process; what it printed, or a Line."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["mattesmith", *map(str, words)])
        try:
            cli._run_command()
        except SystemExit as left:
            assert left.code == 2
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1 and lines[0].isprintable()
            raise Line(lines[0]) from None
        return capsys.readouterr().out

    return run


def refused(command: Callable[..., str], *words: object) -> str:
    with pytest.raises(Line) as caught:
        command(*words)
    return str(caught.value)


@pytest.fixture(scope="module")
def pair() -> tuple[gen.Generator, gen.Discriminator]:
    torch.manual_seed(0)
    generator = gen.Generator(resolution=16, channels=CHANNELS, z_dim=16, w_dim=16, num_mapping_layers=2, clamp=256.0)
    discriminator = gen.Discriminator(resolution=16, channels=CHANNELS, group=2, clamp=256.0)
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        parameter.data += 0.1 * torch.randn_like(parameter)
    return generator.requires_grad_(False), discriminator.requires_grad_(False)


@pytest.fixture(scope="module")
def stylegan(pair: tuple[gen.Generator, gen.Discriminator], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pt with generator and discriminator."""
    path = tmp_path_factory.mktemp("stylegan") / "g.pt"
    torch.save({"g_ema": nvidia_names(pair[0]), "d": nvidia_names(pair[1])}, path)
    return path


# list, fetch


def test_the_list_names_every_file_with_its_facts(command: Callable[..., str]) -> None:
    printed = command("models", "list")
    for each in (*gen.GENERATOR_FILES, *enhance.MATTING_FILES):
        assert all(fact in printed for fact in (each.name, each.file, each.licence, each.use, each.needs))
        assert each.sha256 is None or each.sha256 in printed
    assert "381,673,535 bytes" in printed and "models fetch ffhq-nvidia-tensorflow" in printed
    assert "default (generator)" in printed and "default (matting)" in printed


def test_known_files_are_well_formed() -> None:
    files = (*gen.GENERATOR_FILES, *enhance.MATTING_FILES)
    sums = [each.sha256 for each in files if each.sha256]
    assert len({each.name for each in files}) == len(files) and len(set(sums)) == len(sums) == 5
    for each in files:
        assert each.sha256 is None or (len(each.sha256) == 64 and int(each.sha256, 16) > 0)
        assert each.url is None or (each.url.startswith("https://") and each.sha256 and each.size)
    sources = {each.use.removeprefix("--matting ").partition(":")[0] for each in enhance.MATTING_FILES}
    assert sources == {"modnet", "gca", "indexnet", "dim", "p3m", "deeplab", "onnx", "vitmatte"}


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A folder that this machine serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}", folder
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_fetch_takes_a_known_file_from_a_mirror_and_no_other(
    mirror: tuple[str, Path], command: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = mirror
    content = b"\x80" + bytes(5000)
    (folder / "good.pkl").write_bytes(content)
    (folder / "bad.pkl").write_bytes(content[:-1] + b"!")
    (folder / "page.pkl").write_bytes(b"<html>quota exceeded</html>")
    known = replace(gen.GENERATOR_FILES[0], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(gen, "GENERATOR_FILES", (known,))
    out = tmp_path / "out"
    out.mkdir()
    line = ("models", "fetch", known.name, "--out", out, "--url")
    assert "expected the file with sha256" in refused(command, *line, f"{address}/bad.pkl")
    assert "a web page (HTML)" in refused(command, *line, f"{address}/page.pkl")
    assert "404" in refused(command, *line, f"{address}/none.pkl")
    assert "only https" in refused(command, *line, "http://example.org/good.pkl")
    assert not list(out.iterdir())
    printed = command(*line, f"{address}/good.pkl")
    assert "its sum is right" in printed and "non-commercial" in printed and "--generator" in printed
    assert [path.name for path in out.iterdir()] == [known.file] and (out / known.file).read_bytes() == content


def test_what_cannot_be_checked_or_has_no_address_is_not_fetched(command: Callable[..., str]) -> None:
    assert "its sum is not known here" in refused(command, "models", "fetch", "gca", "--url", "https://example.org/x")
    assert "name a mirror with --url" in refused(command, "models", "fetch", "ffhq-converted-with-d")
    assert "unknown file 'stylegan9'; known: ffhq-" in refused(command, "models", "fetch", "stylegan9")
    assert "--out" in refused(command, "models", "fetch", "gca", "--out", "no/such/folder")


# convert, check


def test_a_converted_generator_gives_the_same_bits_with_its_discriminator(
    stylegan: Path, command: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "c.safetensors"
    assert "generator and discriminator" in command("models", "convert", stylegan, "--out", out)
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["source_sha256"] == hashlib.sha256(stylegan.read_bytes()).hexdigest() != card["sha256"]
    assert card["architecture"]["resolution"] == 16 and card["licence"].startswith("unknown")
    assert card["precision"] == "float32" and card["converted_from"] == "g.pt"
    before, after = gen.load_generator(stylegan), gen.load_generator(out)
    z = torch.randn(2, 16)
    image = before.synthesis(before.mapping(z, psi=0.7), "const")
    assert torch.equal(image, after.synthesis(after.mapping(z, psi=0.7), "const"))
    assert torch.equal(gen.load_discriminator(stylegan)(image), gen.load_discriminator(out)(image))
    before_again = out.read_bytes()
    assert "--out" in refused(command, "models", "convert", stylegan, "--out", out)
    assert out.read_bytes() == before_again


def test_a_generator_without_a_discriminator_is_converted_alone(
    pair: tuple[gen.Generator, gen.Discriminator], command: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "alone.pt"
    torch.save({"g_ema": nvidia_names(pair[0])}, path)
    assert "and discriminator" not in command("models", "convert", path)
    assert gen.load_generator(tmp_path / "alone.safetensors").resolution == 16
    with pytest.raises(gen.Absent):
        gen.load_discriminator(tmp_path / "alone.safetensors")


def test_a_broken_discriminator_is_named_and_the_generator_beside_it_is_used(
    pair: tuple[gen.Generator, gen.Discriminator], command: Callable[..., str], tmp_path: Path
) -> None:
    broken = nvidia_names(pair[1])
    del broken["b4.out.bias"]
    path, out = tmp_path / "broken.pt", tmp_path / "out"
    torch.save({"g_ema": nvidia_names(pair[0]), "d": broken}, path)
    told = f"there, does not load ({path}: not a whole discriminator: missing out.bias)\n"
    assert f"discriminator:      {told}" in command("models", "check", path, "--picture", tmp_path / "portraits.png")
    printed = command("models", "convert", path)
    assert "generator, use it as" in printed and printed.endswith(f"\ndiscriminator: {told}")
    assert gen.load_generator(path.with_suffix(".safetensors")).resolution == 16
    for file in (path, path.with_suffix(".safetensors")):
        assert "--discriminator none" in refused(command, "generate", "--n", 1, "--out", out, "--generator", file)
    assert not out.exists()


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("matting") / "unet.pth"
    torch.save({"state_dict": UNet().state_dict()}, path)
    return path


def test_a_converted_matting_network_gives_the_same_bits(
    unet: Path, command: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "ours.safetensors"
    assert f"--matting unet:{out}" in command("models", "convert", f"unet:{unet}", "--out", out)
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["architecture"] == "unet" and card["licence"] == "Apache-2.0" and len(card["source_sha256"]) == 64
    image = torch.rand(1, 3, 40, 24) * 2 - 1
    before, after = enhance.load_matting(f"unet:{unet}"), enhance.load_matting(f"unet:{out}")
    assert torch.equal(before(image), after(image)) and after.card["converted_from"] == "unet.pth"
    assert enhance.matting_name(str(out)) == f"unet:{out}"  # its card tells
    assert enhance.matting_name(str(unet)) is None


@pytest.mark.parametrize("name", ["onnx:net.onnx", "vitmatte:folder"])
def test_what_is_used_as_it_is_is_not_converted(name: str, command: Callable[..., str]) -> None:
    assert "used as they are" in refused(command, "models", "convert", name)


@pytest.mark.parametrize("name", ["default", "second"])
def test_the_embedded_networks_are_converted_already(name: str, command: Callable[..., str]) -> None:
    assert "safetensors with a card already" in refused(command, "models", "convert", name)


def test_check_knows_the_second_network_by_its_name(command: Callable[..., str], tmp_path: Path) -> None:
    photo = tmp_path / "me.png"
    Image.new("RGB", (64, 64), "white").save(photo)
    printed = command("models", "check", "second", "--photo", photo, "--picture", tmp_path / "matte.png")
    assert "matting network unet" in printed


def test_check_says_what_a_generator_is_and_shows_it(
    stylegan: Path, command: Callable[..., str], tmp_path: Path
) -> None:
    picture = tmp_path / "portraits.png"
    printed = command("models", "check", stylegan, "--picture", picture)
    facts = dict(line.split(":", 1) for line in printed.splitlines())
    told = {key: value.strip() for key, value in facts.items()}
    assert told["resolution"] == "16" and told["channels"] == str(CHANNELS) and told["num_mapping_layers"] == "2"
    assert told["discriminator"] == "there, loads" and told["known file"] == "no"
    assert "nvidia layout" in told["what"] and told["licence"].startswith("unknown")
    with Image.open(picture) as opened:
        assert opened.size == (4 * 20 + 4, 2 * 20 + 4)  # two rows of four, and gaps
        assert len(np.unique(np.asarray(opened))) > 20


def test_check_shows_the_matte_of_a_photo(unet: Path, command: Callable[..., str], tmp_path: Path) -> None:
    photo, picture = tmp_path / "me.jpg", tmp_path / "matte.png"
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)).save(photo, exif=turned)
    printed = command("models", "check", f"unet:{unet}", "--photo", photo, "--picture", picture)
    assert "matting network unet" in printed and "Apache-2.0" in printed
    with Image.open(picture) as opened:
        assert opened.size == (4 * 80 + 8, 100 + 8)
    photo.write_bytes(b"no picture")
    line = refused(command, "models", "check", f"unet:{unet}", "--photo", photo)
    assert "me.jpg: is no picture" in line


# Bad weight files


class Shell:
    """Pickles as a call of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self.command,)


def lying_safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


def saved(contents: Any, path: Path) -> bytes:
    torch.save(contents, path)
    content = path.read_bytes()
    path.unlink()
    return content


BAD = {
    "truncated": "whole",
    "empty": "an empty file",
    "page": "HTML",
    "text": "bad.",
    "wrong architecture": "layer1.0.conv1.weight",
    "wrong shape": "[7]",
    "missing key": "missing",
    "extra key": "encoder.weight",
    "hostile": "posix.system",
    "directory": "a folder|a directory",
}


def bad_content(kind: str, good: dict[str, Tensor], folder: Path) -> bytes:
    """What stands in the bad file; `good` is a state dict that loads."""
    first = next(key for key in good if key.endswith("bias"))
    others = {
        "wrong architecture": {"layer1.0.conv1.weight": torch.zeros(4, 4)},
        "wrong shape": good | {first: torch.zeros(7)},
        "missing key": {key: value for key, value in good.items() if key != first},
        "extra key": good | {"encoder.weight": torch.zeros(2)},
        "hostile": Shell(f"touch {folder}/owned"),
    }
    whole = saved({"state_dict": others.get(kind, good)}, folder / "scratch")
    plain = {"empty": b"", "page": b"\n<!DOCTYPE html><html>quota exceeded</html>", "text": b"not a checkpoint"}
    return plain.get(kind, whole[: len(whole) // 2] if kind == "truncated" else whole)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("option", ["--generator", "--matting"])
def test_a_bad_weight_file_is_one_line_before_any_work(
    option: str, kind: str, pair: tuple[gen.Generator, gen.Discriminator], command: Callable[..., str], tmp_path: Path
) -> None:
    good = nvidia_names(pair[0]) if option == "--generator" else dict(UNet().state_dict())
    file, out = tmp_path / "bad.pt", tmp_path / "out"
    if kind == "directory":
        file.mkdir()
    else:
        file.write_bytes(bad_content(kind, good, tmp_path))
    name = file if option == "--generator" else f"unet:{file}"
    line = refused(command, "generate", "--n", 1, "--out", out, option, name)
    assert str(file) in line and len(line) < 700
    expected = "damaged" if kind == "truncated" and option == "--matting" else BAD[kind]
    assert any(part in line for part in expected.split("|")), line
    assert not out.exists() and not (tmp_path / "owned").exists()


@pytest.mark.parametrize("option", ["--generator", "--matting"])
def test_a_safetensors_file_with_a_lying_header_is_one_line(
    option: str, command: Callable[..., str], tmp_path: Path
) -> None:
    file, out = tmp_path / "lying.safetensors", tmp_path / "out"
    for content in (lying_safetensors(), struct.pack("<Q", 2**62) + b"{}", lying_safetensors()[:20]):
        file.write_bytes(content)
        name = file if option == "--generator" else f"unet:{file}"
        line = refused(command, "generate", "--n", 1, "--out", out, option, name)
        assert str(file) in line and "safetensors file" in line and not out.exists()


def test_a_hostile_nvidia_pickle_is_one_line(command: Callable[..., str], tmp_path: Path) -> None:
    file, out = tmp_path / "ffhq.pkl", tmp_path / "out"
    file.write_bytes(pickle.dumps({"G_ema": Shell(f"touch {tmp_path}/owned")}))
    line = refused(command, "generate", "--n", 1, "--out", out, "--generator", file)
    assert "ffhq.pkl: refused: it names posix.system" in line
    assert not out.exists() and not (tmp_path / "owned").exists()


@pytest.mark.parametrize("option", ["--generator", "--matting"])
def test_a_file_that_may_not_be_read_is_one_line(
    option: str, command: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is put in by hand: root, who may run this, can read every file."""
    file, out = tmp_path / "secret.pt", tmp_path / "out"
    file.write_bytes(b"PK\x03\x04")
    opens = Path.open

    def refusing(path: Path, *words: Any, **named: Any) -> Any:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *words, **named)

    monkeypatch.setattr(Path, "open", refusing)
    name = file if option == "--generator" else f"unet:{file}"
    line = refused(command, "generate", "--n", 1, "--out", out, option, name)
    assert f"{file}: may not be read" in line and "expected" in line and not out.exists()


def test_a_real_process_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    file = tmp_path / "page.pt"
    file.write_bytes(b"<html>quota exceeded</html>")
    words = [sys.executable, ROOT / "cli.py", "models", "check", file]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"error: {file}: an HTML page") and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["page.pt"]
