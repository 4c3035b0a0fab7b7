"""Promises of the folder: foreign files, other settings and a second run are refused, and nothing is lost by it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mattesmith.shards import config_hash, finish, open_dataset, read_config, read_shards
from mattesmith.shards.card import croissant, dataset_card, dataset_licence
from mattesmith.shards.manifest import differences
from mattesmith.shards.writer import publish_json, publish_text

CONFIG = {"n": 2, "psi": 0.7, "knobs": {"steps": 8, "limits": [0.1, 0.9]}}


def commit(out: Path, shard: int, *, count: int = 1) -> None:
    """A shard that looks whole from outside."""
    files = {kind: publish_text(out / f"{shard:05d}.{kind}", f"{kind} {shard}") for kind in ("tar", "parquet")}
    fields = {"shard": shard, "count": count, "members": ["image.png", "alpha.png", "json"], "candidates": count + 1}
    publish_json(out / f"{shard:05d}.json", {**fields, "dropped": {"holes": 1}, **files})


def tree(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_the_hash_sees_every_setting_and_not_their_order() -> None:
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
    hashes = {config_hash(config) for config in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"b": 1}, {"a": {"a": 1}})}
    assert len(hashes) == 5


def test_differing_settings_are_named_there_and_here() -> None:
    there = {"psi": 0.7, "old": 1, "knobs": {"steps": 8, "lr": 0.1}}
    here = {"psi": 0.5, "new": None, "knobs": {"steps": 8, "lr": 0.2}}
    assert differences(there, here) == [
        *("knobs.lr: 0.1 / 0.2", "new: (not set) / None", "old: 1 / (not set)", "psi: 0.7 / 0.5")
    ]
    assert differences(there, there) == []


def test_a_new_folder_is_made_with_its_configuration_in_it(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "Ordner mit Leerzeichen, größer"
    with open_dataset(out, CONFIG) as committed:
        assert committed == set()
    assert read_config(out) == CONFIG


def test_another_configuration_is_refused_with_its_differences_and_nothing_changes(tmp_path: Path) -> None:
    with open_dataset(tmp_path, CONFIG):
        commit(tmp_path, 0)
    (tmp_path / "00001.tar.77.partial").write_bytes(b"half")
    before = tree(tmp_path)
    other = {**CONFIG, "psi": 0.5, "knobs": {"steps": 9, "limits": [0.1, 0.9]}}
    with pytest.raises(ValueError, match=r"knobs\.steps: 8 / 9; psi: 0\.7 / 0\.5; use the same settings"):
        open_dataset(tmp_path, other).__enter__()
    assert tree(tmp_path) == before


def test_tuples_and_lists_are_the_same_setting(tmp_path: Path) -> None:
    with open_dataset(tmp_path, {"limits": (0.1, 0.9)}):
        pass
    with open_dataset(tmp_path, {"limits": [0.1, 0.9]}) as committed:
        assert committed == set()


def test_a_setting_that_json_cannot_hold_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        open_dataset(tmp_path / "out", {"psi": float("nan")}).__enter__()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["holiday.jpg", "123.tar", "00000.tar.bak", "config.json.old"])
def test_foreign_files_are_refused_by_name_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"files that are not this dataset's: {name}; use an empty folder"):
        open_dataset(tmp_path, CONFIG).__enter__()
    assert tree(tmp_path) == {name: b"mine"}


def test_many_foreign_files_are_counted_and_folders_are_foreign(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"photo{index}").mkdir()
    with pytest.raises(ValueError, match="photo0, photo1, photo2, photo3, photo4 and 3 more"):
        open_dataset(tmp_path, CONFIG).__enter__()


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out is a file; name a folder"):
        open_dataset(tmp_path / "out", CONFIG).__enter__()
    with pytest.raises(OSError, match=r"cannot write .*deeper: Not a directory"):
        open_dataset(tmp_path / "out" / "deeper", CONFIG).__enter__()


def test_shards_without_a_configuration_are_nobodys(tmp_path: Path) -> None:
    commit(tmp_path, 0)
    with pytest.raises(ValueError, match=r"shards but no config\.json"):
        open_dataset(tmp_path, CONFIG).__enter__()


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"psi": ')
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        open_dataset(tmp_path, CONFIG).__enter__()


def test_partials_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    with open_dataset(tmp_path, CONFIG):
        pass
    (tmp_path / "00000.tar.123.partial").write_bytes(b"half")
    with open_dataset(tmp_path, CONFIG):
        assert sorted(tree(tmp_path)) == [".lock", "config.json"]


def test_a_partial_of_a_worker_that_died_in_this_run_is_swept_when_the_dataset_is_finished(tmp_path: Path) -> None:
    with open_dataset(tmp_path, CONFIG):
        commit(tmp_path, 0)
        commit(tmp_path, 1)
        (tmp_path / "00001.tar.123.partial").write_bytes(b"half")
        finish(tmp_path, config=CONFIG, n=2, networks=[])
    assert not list(tmp_path.glob("*.partial"))


def test_only_whole_shards_count_as_committed(tmp_path: Path) -> None:
    with open_dataset(tmp_path, CONFIG):
        for shard in range(5):
            commit(tmp_path, shard)
    (tmp_path / "00001.tar").write_bytes(b"cut")
    (tmp_path / "00002.parquet").unlink()
    (tmp_path / "00003.json").write_text('{"shard": 3')
    with open_dataset(tmp_path, CONFIG) as committed:
        assert committed == {0, 4}
    assert set(read_shards(tmp_path)[0]) == {0, 4}


def test_a_second_run_on_the_folder_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    with (
        open_dataset(tmp_path, CONFIG),
        pytest.raises(ValueError, match="another run is working on"),
        open_dataset(tmp_path, CONFIG),
    ):
        pass
    with open_dataset(tmp_path, CONFIG):
        pass


def test_the_lock_of_a_killed_process_does_not_stay(tmp_path: Path) -> None:
    holder = (
        "import fcntl, os, sys, time\n"
        f"lock = os.open({str(tmp_path / '.lock')!r}, os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another run is working on"):
            open_dataset(tmp_path, CONFIG).__enter__()
        process.kill()
        process.wait()
        with open_dataset(tmp_path, CONFIG) as committed:
            assert committed == set()


def described(tmp_path: Path, networks: list[dict[str, str]]) -> dict[str, object]:
    with open_dataset(tmp_path, CONFIG):
        commit(tmp_path, 0)
        commit(tmp_path, 1)
        return finish(tmp_path, config=CONFIG, n=2, networks=networks)


NETWORKS = [{"name": "generator", "licence": "Apache-2.0", "source": "here", "sha256": "ab"}]


def test_a_finished_dataset_is_described_for_each_kind_of_reader(tmp_path: Path) -> None:
    dataset = described(tmp_path, NETWORKS)
    assert json.loads((tmp_path / "dataset.json").read_text()) == dataset
    assert (dataset["count"], dataset["config"], dataset["config_hash"]) == (2, CONFIG, config_hash(CONFIG))
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    assert index["shardlist"][1] == {"url": "00001.tar", "nsamples": 1, "filesize": 5}
    assert json.loads((tmp_path / "sizes.json").read_text()) == {"00000.tar": 1, "00001.tar": 1}


def test_the_card_says_that_machines_made_it_and_under_which_licence(tmp_path: Path) -> None:
    dataset = described(tmp_path, NETWORKS)
    _, front, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert "license: apache-2.0\n" in front
    assert "- machine-generated\n" in front
    assert 'path: "*.tar"' in front
    assert '"{00000..00001}.tar"' in text
    assert dataset["config_hash"] in text


def test_a_dataset_is_no_freer_than_its_networks() -> None:
    free, other = {"licence": "Apache-2.0"}, {"licence": "CC-BY-NC-SA-4.0"}
    assert dataset_licence([free, free]) == "Apache-2.0"
    assert dataset_licence([free, other]) == dataset_licence([free, {}]) == dataset_licence([]) == "other"


def test_a_hostile_name_cannot_break_the_card(tmp_path: Path) -> None:
    networks = [{"name": "a | b\n---\n<script>`", "licence": "x: [", "source": "s"}]
    card = dataset_card(described(tmp_path, networks))
    assert "license: other\n" in card
    assert "<script>" not in card
    assert "| a &#124; b --- &lt;script>&#96; | x: [ | s |" in card


def test_croissant_lists_every_shard_with_its_sum(tmp_path: Path) -> None:
    dataset = described(tmp_path, NETWORKS)
    description = croissant(dataset)
    assert json.loads((tmp_path / "croissant.json").read_text()) == description
    objects = {item["name"]: item for item in description["distribution"] if item["@type"] == "cr:FileObject"}
    assert objects["00001.tar"]["sha256"] == dataset["shards"][1]["tar"]["sha256"]
    assert [record_set["name"] for record_set in description["recordSet"]] == ["image.png", "alpha.png", "json"]


def test_an_unfinished_dataset_is_not_described(tmp_path: Path) -> None:
    with open_dataset(tmp_path, CONFIG):
        commit(tmp_path, 1)
        with pytest.raises(ValueError, match="has 1 of 2 portraits in 1 shards; run the same command again"):
            finish(tmp_path, config=CONFIG, n=2, networks=NETWORKS)
    assert not (tmp_path / "dataset.json").exists()


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a dataset: it has no config\.json"):
        read_config(tmp_path)
