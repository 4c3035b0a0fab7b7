"""Promises of verify: a sound dataset has no problem and loads everywhere; every kind of damage is found and named."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from mattesmith.enhance import Enhanced
from mattesmith.filters import Scored
from mattesmith.gen import Latents, Sample
from mattesmith.shards import Problem, read_shards, verify
from mattesmith.shards.members import decode, members_of, samples_of
from mattesmith.shards.verify import damaged
from mattesmith.shards.writer import publish_json

CONFIG = {"n": 5}
MEMBERS = ["image.png", "alpha.png", "fg.png", "trimap.png", "json", "alpha16.png", "ws.npy", "noise.npz"]


def portraits(shard: int, side: int = 8) -> Iterator[Scored]:
    for candidate in range(100):
        rng = np.random.default_rng([shard, candidate])
        image = torch.from_numpy(rng.uniform(-1, 1, (3, side, side)).astype("float32"))
        alpha = torch.from_numpy(rng.uniform(0, 1, (1, side, side)).astype("float32"))
        noise = (torch.ones(1, 4, 4),)
        sample = Sample(Latents(1, shard, candidate, torch.zeros(4)), torch.zeros(2, 4), noise, image)
        enhanced = Enhanced(sample, sample.ws, noise, image, alpha, image, {"entropy": 0.5}, candidate)
        yield Scored(enhanced, {"agreement": float(rng.uniform())}, -1.0, "holes" if candidate == 1 else None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("made") / "dataset", portraits, n=5, shard_size=2, config=CONFIG,
        networks=[{"licence": "Apache-2.0"}], with_latents=True, with_alpha16=True,
    )  # fmt: skip


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / "dataset"))


def test_a_sound_dataset_has_no_problem(out: Path) -> None:
    heard: list[str] = []
    assert verify(out, progress=lambda shard, problems: heard.append(shard)) == []
    assert heard == ["00000", "00001", "00002"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_every_sample_with_its_types(out: Path) -> None:
    urls = [str(out / f"{shard:05d}.tar") for shard in range(3)]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
    keys = ["0000000000", "0000000001", "0000100000", "0000100001", "0000200000"]
    assert [sample["__key__"] for sample in samples] == keys
    for sample in samples:
        assert (sample["image.png"].mode, sample["fg.png"].mode) == ("RGB", "RGB")
        assert np.asarray(sample["image.png"]).shape == (8, 8, 3)
        assert sample["json"]["key"] == sample["__key__"]
        assert type(sample["json"]["scores"]["agreement"]) is float
        assert sample["ws.npy"].dtype == np.float16
        assert sample["noise.npz"]["noise_00"].shape == (1, 4, 4)


def test_hugging_face_reads_every_sample_with_its_types(
    tmp_path: Path, monkeypatch: Any, write_dataset: Callable[..., Path]
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    small = tmp_path / "small"  # without latents, as by default
    write_dataset(small, portraits, n=5, shard_size=2, config=CONFIG, networks=[{"licence": "Apache-2.0"}])
    files = {"train": [str(small / f"{shard:05d}.tar") for shard in range(3)]}
    cache = str(tmp_path / "cache")
    by_files = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=cache)
    by_card = datasets.load_dataset(str(small), split="train", cache_dir=cache)
    for loaded in (by_files, by_card):
        assert loaded.num_rows == 5
        assert {"image.png", "alpha.png", "fg.png", "trimap.png", "json", "__key__"} <= set(loaded.column_names)
        assert [sample["json"]["key"] for sample in loaded] == loaded["__key__"][:]
        assert loaded[4]["alpha.png"].size == (8, 8)
        assert isinstance(loaded[4]["json"]["losses"]["entropy"], float)


# Damage to a file


def test_a_partial_file_is_named(out: Path) -> None:
    (out / "00001.tar.123.partial").write_bytes(b"half")
    assert "is left of a killed run" in whats(verify(out), "00001.tar.123.partial")


def test_shards_to_be_made_anew_are_those_with_problems() -> None:
    names = ["00001.tar", "00001.parquet", "00000.json", "dataset.json", "00002.tar.7.partial"]
    assert damaged([Problem(name, "", "is broken") for name in names]) == ["00000.json", "00001.json"]


def damage(path: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def flip(content: bytearray, at: int) -> bytearray:
    content[at] ^= 1
    return content


def whats(problems: list[Problem], shard: str) -> str:
    assert problems
    assert {problem.shard for problem in problems} == {shard}
    return "\n".join(str(problem) for problem in problems)


def test_a_flipped_bit_in_an_image_is_found_and_named(out: Path) -> None:
    path = out / "00001.tar"
    with tarfile.open(path) as tar:
        member = tar.getmembers()[8]
    damage(path, lambda content: flip(content, member.offset_data + member.size // 2))
    found = whats(verify(out), "00001.tar")
    assert "has another SHA-256 than recorded" in found
    assert f"00001.tar: {member.name}: cannot be decoded" in found


def test_a_tar_cut_between_two_members_is_found(out: Path) -> None:
    path = out / "00000.tar"
    with tarfile.open(path) as tar:
        second_sample = tar.getmembers()[len(MEMBERS)].offset
    damage(path, lambda content: content[:second_sample])
    assert len(list(samples_of(path))) == 1  # no loader would complain
    found = whats(verify(out), "00000.tar")
    assert f"is {second_sample} bytes long, recorded are" in found
    assert "holds 1 samples, recorded are 2" in found


def test_a_tar_cut_inside_a_member_is_found_and_the_other_shards_are_still_checked(out: Path) -> None:
    damage(out / "00000.tar", lambda content: content[: len(content) // 2])
    damage(out / "00002.parquet", lambda content: flip(content, len(content) // 2))
    problems = verify(out)
    assert {problem.shard for problem in problems} == {"00000.tar", "00002.parquet"}


@pytest.mark.parametrize("name", ["00001.tar", "00001.parquet", "00001.json"])
def test_a_missing_file_is_named(out: Path, name: str) -> None:
    (out / name).unlink()
    assert Problem(name, "", "is missing") in verify(out)


def test_an_unfinished_dataset_says_so(out: Path) -> None:
    (out / "dataset.json").unlink()
    assert verify(out) == [Problem("dataset.json", "", "is missing: the run has not finished")]
    (out / "00001.json").unlink()
    assert Problem("00001.tar", "", "belongs to no committed shard") in verify(out)


def test_a_changed_configuration_and_a_changed_shard_record_are_found(out: Path) -> None:
    publish_json(out / "config.json", {"n": 6})
    fields = read_shards(out)[0][2]
    publish_json(out / "00002.json", {**fields, "candidates": 77})
    found = [str(problem) for problem in verify(out)]
    assert found == [
        "dataset.json: has another configuration than config.json",
        "00002.json: differs from what dataset.json says of it",
    ]


@pytest.mark.parametrize("content", ["[]", "{}", '{"shards": [1]}', "not JSON"])
def test_a_broken_description_is_a_problem_not_a_crash(out: Path, content: str) -> None:
    (out / "dataset.json").write_text(content)
    assert "dataset.json: cannot be read" in str(verify(out)[0])
    (out / "00000.json").write_text(content)
    assert any(problem.shard == "00000.json" for problem in verify(out))


# Damage that comes with right sums: a tar written by someone else


def rewrite(out: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> list[Problem]:
    """Replace shard 0's tar and record the new sums, so that only its content can be wrong."""
    path = out / "00000.tar"
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]  # type: ignore[union-attr]
    change(members)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    (out / "dataset.json").unlink(missing_ok=True)
    fields = read_shards(out)[0][0]
    content = path.read_bytes()
    fields["tar"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    publish_json(out / "00000.json", fields)
    return [problem for problem in verify(out) if problem.shard != "dataset.json"]


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    "hostile",
    [
        member("0000000000.a.png", tarfile.SYMTYPE, "/etc/passwd"),
        member("0000000000.a.png", tarfile.LNKTYPE, "0000000000.image.png"),
        member("0000000000.a.png", tarfile.FIFOTYPE),
        member("0000000000.a.png", tarfile.CHRTYPE),
        member("folder.d", tarfile.DIRTYPE),
        member("/absolute.png"),
        member("../outside.png"),
        member("a/b.png"),
        member("no_dot"),
        member("UPPER.png"),
    ],
    ids=lambda hostile: f"{hostile.type!r} {hostile.name}",
)
def test_what_is_no_plain_member_is_refused_and_never_extracted(out: Path, tmp_path: Path, hostile: Any) -> None:
    before = set(tmp_path.rglob("*"))
    found = whats(rewrite(out, lambda members: members.append((hostile, b""))), "00000.tar")
    assert hostile.name in found
    assert "plain file" in found or "has a name that no sample's member has" in found
    with pytest.raises(ValueError, match=r"00000\.tar"):
        list(samples_of(out / "00000.tar"))
    assert set(tmp_path.rglob("*")) <= before


def test_an_oversized_member_is_refused_without_being_read(out: Path, monkeypatch: Any) -> None:
    from mattesmith.shards import members

    monkeypatch.setattr(members, "MAX_MEMBER_BYTES", 100)
    problems = [content for _, content in members_of(out / "00000.tar") if isinstance(content, Problem)]
    assert "more than 100" in problems[0].what


def rename(entry: tuple[tarfile.TarInfo, bytes], name: str) -> None:
    entry[0].name = name


def test_duplicates_order_and_gaps_are_found(out: Path) -> None:
    def swap(members: list[Any]) -> None:
        members[0], members[1] = members[1], members[0]

    assert "0000000000: has its members in another order" in whats(rewrite(out, swap), "00000.tar")
    found = whats(rewrite(out, lambda members: members.insert(2, members[0])), "00000.tar")
    assert "0000000000.alpha.png: stands there twice" in found
    assert "0000000001: lacks noise.npz" in whats(rewrite(out, lambda members: members.pop()), "00000.tar")


def test_a_sample_torn_apart_is_found(out: Path) -> None:
    found = whats(rewrite(out, lambda members: members.append(members.pop(0))), "00000.tar")
    assert "stands apart from the rest of its sample" in found


def test_other_keys_than_the_parquet_names_are_found(out: Path) -> None:
    def rename_first(members: list[Any]) -> None:
        for entry in members[: len(MEMBERS)]:
            rename(entry, entry[0].name.replace("0000000000", "9999999999"))

    problems = rewrite(out, rename_first)
    assert Problem("00000.tar", "", "holds other keys than 00000.parquet names") in problems
    assert Problem("00000.tar", "9999999999.json", "says its key is '0000000000'") in problems


def put(name: str, content: bytes, sample: int = 1) -> Callable[[list[Any]], None]:
    def change(members: list[Any]) -> None:
        index = sample * len(MEMBERS) + MEMBERS.index(name)
        members[index][0].size = len(content)
        members[index] = (members[index][0], content)

    return change


def picture(mode: str, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    "name, content, what",
    [
        ("alpha.png", picture("RGB"), "its mode is RGB, not L"),
        ("image.png", picture("RGBA"), "its mode is RGBA, not RGB"),
        ("image.png", picture("RGB", (9, 8)), "has images of different sizes"),
        ("image.png", b"", "cannot be decoded"),
        ("image.png", picture("RGB", kind="GIF"), "cannot be decoded"),
        ("trimap.png", Image.new("L", (8, 8), 7).tobytes(), "cannot be decoded"),
        ("json", b'{"key": NaN}', "it holds NaN"),
        ("json", b"[1]", "is not an object"),
        ("json", b'{"key": "0000000001"}', "has other keys or types than the first sample's"),
        ("ws.npy", b"\x93NUMPY", "cannot be decoded"),
        ("noise.npz", b"PK", "cannot be decoded"),
    ],
)
def test_a_member_that_is_not_what_it_should_be_is_named(out: Path, name: str, content: bytes, what: str) -> None:
    found = whats(rewrite(out, put(name, content)), "00000.tar")
    assert "0000000001" in found
    assert what in found


def test_a_trimap_with_other_levels_is_found(out: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (8, 8), 127).save(stream, "PNG")
    assert "other values than 0, 128 and 255" in whats(rewrite(out, put("trimap.png", stream.getvalue())), "00000.tar")


def test_a_trimap_that_does_not_follow_from_its_matte_is_found(out: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (8, 8), 0).save(stream, "PNG")
    found = whats(rewrite(out, put("trimap.png", stream.getvalue())), "00000.tar")
    assert "0000000001.trimap.png: does not follow from alpha.png" in found


def test_an_integer_in_a_floats_place_is_found(out: Path) -> None:
    fields = json.loads(dict(samples_of(out / "00000.tar"))["0000000001"]["json"])
    fields["scores"]["agreement"] = 1
    found = whats(rewrite(out, put("json", json.dumps(fields).encode())), "00000.tar")
    assert "other keys or types than the first sample's: scores.agreement" in found


def test_a_decompression_bomb_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(Exception, match="decompression bomb"):
        decode("image.png", picture("RGB"))


@pytest.mark.parametrize(
    "change",
    [{"shard": 7}, {"count": "2"}, {"members": []}, {"members": [1]}, {"tar": {"name": "../x"}}, {"dropped": 3}],
    ids=str,
)
def test_a_shards_record_is_trusted_in_nothing(out: Path, change: dict[str, Any]) -> None:
    fields = read_shards(out)[0][0]
    publish_json(out / "00000.json", fields | change)
    dataset = json.loads((out / "dataset.json").read_text())
    assert any(problem.shard == "00000.json" for problem in verify(out))
    publish_json(out / "dataset.json", dataset | {"shards": [fields | change]})
    assert any(problem.shard == "dataset.json" for problem in verify(out))
