"""The reader: each sample once an epoch, the same composite for everybody, exact mattes, clear refusals."""

import copy
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mattesmith import shards
from mattesmith.enhance import Enhanced
from mattesmith.enhance.light import LINEAR, blend
from mattesmith.filters import Scored
from mattesmith.gen import Latents, Sample
from mattesmith.shards import read
from mattesmith.shards.backgrounds import FAMILIES, PictureFolder, drawn
from mattesmith.shards.members import decode
from mattesmith.shards.read import Composites, block, window

CONFIG = {"n": 11, "shard_size": 4}
SIDE = 16
PLAIN = {"size": SIDE, "batch_size": 2, "augment": False, "originals": 0.0}
LOADERS = {"alone": {}, "workers": {"num_workers": 2}, "persistent": {"num_workers": 2, "persistent_workers": True}}
SEEDS = count(1)  # a loader draws one for each pass


def portraits(shard: int) -> Iterator[Scored]:
    for candidate in range(9):
        rng = np.random.default_rng([shard, candidate])
        image, foreground = torch.from_numpy(rng.uniform(-1, 1, (2, 3, SIDE, SIDE)).astype("float32"))
        alpha = torch.from_numpy(rng.uniform(0, 1, (1, SIDE, SIDE)).astype("float32"))
        sample = Sample(Latents(1, shard, candidate, torch.zeros(4)), torch.zeros(2, 4), (), image)
        yield Scored(Enhanced(sample, sample.ws, (), image, alpha, foreground, {}, 1), {"coverage": 0.5}, -1.0, None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    """Eleven portraits in three shards."""
    folder = tmp_path_factory.mktemp("made") / "dataset"
    return write_dataset(folder, portraits, n=11, shard_size=4, config=CONFIG)


def is_even(key: str) -> bool:
    return int(key) % 2 == 0


def stored(folder: Path, key: str, name: str) -> np.ndarray:
    for path in folder.glob("*.tar"):
        for found, files in shards.samples_of(path):
            if found == key:
                return np.array(decode(name, files[name]))
    raise AssertionError(key)


def keys_of(batches: list[read.Batch]) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


def assert_same(found: list[read.Batch], expected: list[read.Batch]) -> None:
    assert keys_of(found) == keys_of(expected)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(found, expected, strict=True))


def loader_of(reader: IterableDataset[read.Batch], kind: str) -> DataLoader[read.Batch]:
    options = LOADERS[kind]
    return DataLoader(reader, batch_size=None, multiprocessing_context="fork" if options else None, **options)


def in_turn(reader: Composites, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> list[read.Batch]:
    """Batches as a loader with workers hands them out: of each worker in turn, while it has any."""
    queues = []
    seed = next(SEEDS)
    for number in range(num_workers):
        info = SimpleNamespace(id=number, num_workers=num_workers, seed=seed + number)
        monkeypatch.setattr(read, "get_worker_info", lambda info=info: info)
        queues.append(list(copy.copy(reader)))
    return [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]


# Which samples, and when


@pytest.mark.parametrize("num_workers", [1, 3])
def test_samples_that_take_no_part_are_left_out_and_nothing_else_changes(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    everything = {batch["key"][0]: batch["image"] for batch in Composites(dataset, **PLAIN | {"batch_size": 1})}
    reader = Composites(dataset, keep=is_even, **PLAIN)
    batches = in_turn(reader, monkeypatch, num_workers)
    assert sorted(keys_of(batches)) == sorted(key for key in everything if is_even(key))
    assert reader.num_batches(num_workers=num_workers) == len(batches)
    for batch in batches:
        for key, image in zip(batch["key"], batch["image"], strict=True):
            assert torch.equal(everything[key][0], image)
    reader.start_at(0, 1)
    assert sorted(keys_of(in_turn(reader, monkeypatch, num_workers))) == sorted(keys_of(batches[1:]))


def test_a_choice_of_nobody_is_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match="none of the 11 samples"):
        Composites(dataset, keep=lambda key: False, **PLAIN)


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 1), (1, 3), (2, 1), (3, 2), (5, 3)])
def test_over_all_ranks_and_workers_each_sample_comes_once(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, world_size: int, num_workers: int
) -> None:
    found = []
    for rank in range(world_size):
        reader = Composites(dataset, **PLAIN, shuffle=3, rank=rank, world_size=world_size)
        batches = in_turn(reader, monkeypatch, num_workers)
        assert len(batches) == reader.num_batches(num_workers=num_workers)
        found += keys_of(batches)
    assert len(found) == 11
    assert set(found) == {f"{shard:05d}{rank:05d}" for shard in range(3) for rank in range(4)} - {"0000200003"}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12: forked with threads
def test_a_loader_with_real_workers_gives_each_sample_once_and_goes_on_where_it_stopped(dataset: Path) -> None:
    reader = Composites(dataset, **PLAIN)
    loader = DataLoader(reader, batch_size=None, num_workers=2, multiprocessing_context="fork")
    whole = list(loader)
    assert len(set(keys_of(whole))) == len(keys_of(whole)) == 11
    reader.start_at(0, 3)
    assert keys_of(list(loader)) == keys_of(whole[3:])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("kind", LOADERS)
def test_each_pass_is_the_next_epoch_from_its_first_batch(dataset: Path, kind: str) -> None:
    reader = Composites(dataset, **PLAIN)
    loader = loader_of(reader, kind)
    epochs = []
    for epoch in range(5):
        reader.start_at(epoch)
        epochs.append(list(loader))
    assert len({tuple(keys_of(epoch)) for epoch in epochs}) == 5
    reader.start_at(0)
    for epoch in epochs[:3]:
        assert_same(list(loader), epoch)
    next(iter(loader))  # a pass that is broken off is one, too
    assert_same(list(loader), epochs[4])
    reader.start_at(1, 3)
    assert_same(list(loader), epochs[1][3:])
    assert_same(list(loader), epochs[2])
    assert reader.epoch == 3


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("kind", LOADERS)
def test_all_workers_know_the_epoch_they_are_about_to_read(dataset: Path, kind: str) -> None:
    reader = Composites(dataset, **PLAIN)

    class Epochs(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            epoch = reader.epoch
            yield from (epoch for _ in reader)

    loader = loader_of(Epochs(), kind)
    reader.start_at(7)
    assert [set(loader) for _ in range(3)] == [{7}, {8}, {9}]


def test_more_passes_than_are_counted_are_refused(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_PASSES", 1)
    reader = Composites(dataset, **PLAIN)
    list(reader)
    with pytest.raises(ValueError, match=r"1 passes .* call start_at\(epoch\)"):
        list(reader)
    reader.start_at(1)
    assert len(keys_of(list(reader))) == 11


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_started_behind_any_batch_it_goes_on_exactly_there(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    reader = Composites(dataset, size=SIDE, batch_size=2, trimap_px=(1, 3), shuffle=3)
    reader.start_at(4)
    whole = in_turn(reader, monkeypatch, num_workers)
    for done in range(len(whole) + 1):
        reader.start_at(4, done)
        rest = in_turn(reader, monkeypatch, num_workers)
        assert_same(rest, whole[done:])


def test_epochs_and_seeds_have_their_own_order_and_composites(dataset: Path) -> None:
    def first(seed: int, epoch: int) -> tuple[list[str], dict[str, Tensor]]:
        reader = Composites(dataset, size=SIDE, batch_size=11, seed=seed)
        reader.start_at(epoch)
        (batch,) = reader
        return batch["key"], dict(zip(batch["key"], batch["image"], strict=True))

    runs = {(seed, epoch): first(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))}
    again = first(0, 0)
    assert again[0] == runs[0, 0][0] and all(torch.equal(again[1][key], runs[0, 0][1][key]) for key in again[0])
    for other in ((0, 1), (1, 0)):
        assert runs[other][0] != runs[0, 0][0]
        assert not any(torch.equal(runs[other][1][key], runs[0, 0][1][key]) for key in again[0])


def test_a_composite_does_not_depend_on_batch_worker_or_rank(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {
        key: image
        for batch in Composites(dataset, size=SIDE, batch_size=11)
        for key, image in zip(batch["key"], batch["image"], strict=True)
    }
    shared = Composites(dataset, size=SIDE, batch_size=3, shuffle=2, rank=1, world_size=2)
    for batch in in_turn(shared, monkeypatch, 2):
        for key, image in zip(batch["key"], batch["image"], strict=True):
            assert torch.equal(image, alone[key])


def test_blocks_are_as_even_as_they_can_be() -> None:
    assert [block(2, part, 4) for part in range(4)] == [(0, 1), (1, 2), (2, 2), (2, 2)]


# What a composite is


def test_a_plain_composite_blends_the_stored_foreground_in_linear_light(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = torch.full((3, SIDE, SIDE), 0.2)
    monkeypatch.setattr(read, "drawn", lambda rng, height, width: wall)
    batch = next(iter(Composites(dataset, **PLAIN)))
    key = batch["key"][1]
    alpha = torch.from_numpy(stored(dataset, key, "alpha.png")).float()[None] / 255
    light = LINEAR[torch.from_numpy(stored(dataset, key, "fg.png")).long()].permute(2, 0, 1)
    assert torch.equal(batch["alpha"][1], alpha)
    assert torch.equal(batch["image"][1], blend(light[None], alpha[None], wall[None])[0])
    # IEC 61966-2-1: half of white's light is sRGB 0.735, not 0.5.
    grey = blend(torch.ones(1, 3, 1, 1), torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, 3, 1, 1))
    assert (grey[0, 0, 0, 0] + 1) / 2 == pytest.approx(0.7354, abs=1e-3)


def test_originals_keep_their_background_and_have_their_share(dataset: Path) -> None:
    (batch,) = Composites(dataset, **(PLAIN | {"originals": 0.4, "batch_size": 11}))
    same = []
    for key, image in zip(batch["key"], batch["image"], strict=True):
        levels = ((image + 1) * 127.5).round().permute(1, 2, 0).numpy()
        same.append(np.abs(levels - stored(dataset, key, "image.png")).max() <= 1)
    assert 1 <= sum(same) <= 8
    (batch,) = Composites(dataset, **(PLAIN | {"originals": 1.0, "batch_size": 11}))
    for key, image in zip(batch["key"], batch["image"], strict=True):
        levels = ((image + 1) * 127.5).round().permute(1, 2, 0).numpy()
        assert np.abs(levels - stored(dataset, key, "image.png")).max() <= 1


def test_trimaps_have_three_levels_and_hold_every_soft_pixel(dataset: Path) -> None:
    (batch,) = Composites(dataset, size=24, batch_size=11, trimap_px=(0, 4))
    assert batch["trimap"].shape == (11, 1, 24, 24)
    assert set(batch["trimap"].unique().tolist()) <= {0, 0.5, 1}
    soft = (batch["alpha"] > 0.05) & (batch["alpha"] < 0.95)
    assert (batch["trimap"][soft] == 0.5).all()


def test_augmented_batches_are_in_range(dataset: Path) -> None:
    for epoch in range(3):
        reader = Composites(dataset, size=32, batch_size=4)
        reader.start_at(epoch)
        for batch in reader:
            assert batch["image"].shape[1:] == (3, 32, 32) and batch["alpha"].shape[1:] == (1, 32, 32)
            assert batch["image"].min() >= -1 and batch["image"].max() <= 1
            assert batch["alpha"].min() >= 0 and batch["alpha"].max() <= 1


def test_windows_lie_inside_and_close_ones_show_the_unknown_band() -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[30, 50] = 128
    sides = set()
    for seed in range(100):
        top, left, side = window(alpha, np.random.default_rng(seed), size=10, augment=True)
        assert 0 <= top <= 40 - side and 0 <= left <= 60 - side
        if side < 40:
            assert top <= 30 < top + side and left <= 50 < left + side
        sides.add(side)
    assert min(sides) < 25 and max(sides) == 40
    assert window(alpha, np.random.default_rng(0), size=10, augment=False) == (0, 10, 40)


def test_windows_are_never_enlarged() -> None:
    alpha = np.full((40, 60), 128, np.uint8)
    for size, smallest in ((32, 32), (40, 40), (64, 40)):
        sides = {window(alpha, np.random.default_rng(seed), size=size, augment=True)[2] for seed in range(100)}
        assert min(sides) == smallest and max(sides) == 40


# Backgrounds


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_family_gives_linear_light_in_range(family) -> None:
    for seed in range(4):
        picture = family(np.random.default_rng(seed), 24, 32)
        assert picture.shape == (3, 24, 32) and picture.dtype == torch.float32
        assert 0 <= picture.min() <= picture.max() <= 1


def test_drawn_backgrounds_follow_from_the_generator() -> None:
    first, again, other = (drawn(np.random.default_rng(seed), 16, 16) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_folder_of_pictures_is_used_and_a_broken_one_named(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    Image.fromarray(np.full((50, 80, 3), (188, 0, 0), np.uint8)).save(tmp_path / "more" / "red.PNG")
    picture = PictureFolder(tmp_path)(np.random.default_rng(0), 16, 24)
    assert picture.shape == (3, 16, 24)
    assert picture[:, 3, 3].tolist() == pytest.approx([LINEAR[188].item(), 0, 0])
    with pytest.raises(ValueError, match="holds no pictures"):
        Composites(dataset, **PLAIN, backgrounds=dataset)
    (tmp_path / "more" / "red.PNG").write_bytes(b"\x89PNG cut off")
    with pytest.raises(ValueError, match=r"background .*red\.PNG cannot be read"):
        next(iter(Composites(dataset, **PLAIN, backgrounds=tmp_path)))


# Elsewhere, and what is foreign


def test_a_url_gives_what_the_folder_gives(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    here, there = (list(Composites(place, **PLAIN)) for place in (dataset, f"file://{dataset}"))
    assert keys_of(here) == keys_of(there)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(here, there, strict=True))
    with pytest.raises(FileNotFoundError, match="is not a finished dataset"):
        Composites(f"file://{dataset.parent}", **PLAIN)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ModuleNotFoundError, match="needs fsspec"):
        Composites(f"file://{dataset}", **PLAIN)


def test_what_is_no_dataset_is_said_in_one_line(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Composites(tmp_path / "nowhere", **PLAIN)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Composites("pipe:touch /tmp/never", **PLAIN)
    with pytest.raises(FileNotFoundError, match="is not a dataset"):
        Composites(tmp_path, **PLAIN)
    shutil.copy(dataset / "00000.tar", tmp_path / "00000.tar")
    with pytest.raises(ValueError, match="tars of another format"):
        Composites(tmp_path, **PLAIN)


def test_cut_tars_and_missing_members_are_named(dataset: Path, tmp_path: Path) -> None:
    for name, num_bytes, said in (
        ("between", 512 * 2, r"00001\.tar (ended after 0 of 4 samples|is no whole tar)"),
        ("within", 700, r"00001\.tar is no whole tar"),
    ):
        broken = Path(shutil.copytree(dataset, tmp_path / name))
        with (broken / "00001.tar").open("r+b") as file:
            file.truncate(num_bytes)
        with pytest.raises(ValueError, match=said):
            list(Composites(broken, **PLAIN))

    reader = Composites(dataset, **PLAIN)
    sample = {"__key__": "0000000000", "__url__": "here/00000.tar", "alpha.png": b"no picture"}
    with pytest.raises(ValueError, match=r"here/00000\.tar: sample 0000000000: alpha\.png cannot be decoded"):
        reader.composite(sample, 0)
    del sample["alpha.png"]
    with pytest.raises(ValueError, match=r"sample 0000000000 lacks alpha\.png"):
        reader.composite(sample, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 20}, {"batch_size": 0}, {"originals": 1.5}, {"trimap_px": (3, 1)}, {"rank": 2, "world_size": 2}],
)
def test_impossible_settings_are_refused(dataset: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Composites(dataset, **(PLAIN | wrong))
