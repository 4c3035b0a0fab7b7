"""The command line with the embedded networks: the main job end to end, and every bad input in one clear line."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pandas as pd
import pytest
from click.testing import CliRunner

from mattesmith import cli, shards
from mattesmith import enhance as enhancing

ROOT = Path(__file__).parents[1]
SMALL = ("--shard-size", "2", "--steps", "2", "--slots", "2")


def run(*words: object, code: int = 0) -> tuple[str, str]:
    """Run cli.py as a user would; what it printed on stdout and stderr."""
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def error_line(*words: object, code: int = 2) -> str:
    """The one line that a bad input ends with."""
    _, errors = run(*words, code=code)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    return lines[0]


def tree(folder: Path) -> dict[str, str]:
    """Name -> sum of every file but the lock."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != ".lock"
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five portraits in three shards, made by two workers."""
    out = tmp_path_factory.mktemp("made by") / "two wörkers"
    run("generate", "--n", 5, "--out", out, "--workers", 2, *SMALL)
    return out


def test_a_dataset_has_exactly_n_portraits_and_every_member(dataset: Path) -> None:
    samples = [sample for path in sorted(dataset.glob("*.tar")) for sample in shards.samples_of(path)]
    assert [key for key, _ in samples] == [
        "0000000000",
        "0000000001",
        "0000100000",
        "0000100001",
        "0000200000",
    ]
    assert all(list(files) == ["image.png", "alpha.png", "fg.png", "trimap.png", "json"] for _, files in samples)


def test_every_candidate_is_accounted_for(dataset: Path) -> None:
    rows = pd.concat([pd.read_parquet(path) for path in sorted(dataset.glob("*.parquet"))])
    assert (rows["key"] != "").sum() == 5
    assert ((rows["key"] == "") == (rows["dropped_by"] != "")).all()
    assert all(group["candidate"].tolist() == list(range(len(group))) for _, group in rows.groupby("shard"))


def test_one_worker_gives_the_same_bytes_as_two(dataset: Path, tmp_path: Path) -> None:
    run("generate", "--n", 5, "--out", tmp_path / "one", "--workers", 1, *SMALL)
    assert tree(tmp_path / "one") == tree(dataset)


def test_killed_in_the_middle_and_run_again_it_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "generate",
        "--n",
        "5",
        "--out",
        str(out),
        "--workers",
        "2",
        *SMALL,
    ]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob("*.json.*")) and not list(out.glob("0*.json")) and victim.poll() is None:
        time.sleep(0.01)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    run(*command[2:])
    assert tree(out) == tree(dataset)


def test_interrupted_it_leaves_no_partial_file_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "generate",
        "--n",
        "50",
        "--out",
        str(out),
        "--workers",
        "1",
        *SMALL,
    ]
    # A suite that runs in the background ignores SIGINT, and its children would, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        victim = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while not list(out.glob("*.tar*")) and victim.poll() is None:
        time.sleep(0.05)
    os.killpg(victim.pid, signal.SIGINT)
    _, errors = victim.communicate(timeout=60)
    assert victim.returncode == 130
    assert "run the same command again" in errors and "Traceback" not in errors
    assert not list(out.glob("*.partial"))


def test_run_again_a_finished_dataset_is_left_alone(dataset: Path) -> None:
    before = tree(dataset)
    printed, _ = run("generate", "--n", 5, "--out", dataset, *SMALL)
    assert "5 of 5 portraits are there already" in printed
    assert tree(dataset) == before


def test_other_settings_are_refused_and_named(dataset: Path) -> None:
    before = tree(dataset)
    assert "psi: 0.8 / 0.5" in error_line("generate", "--n", 5, "--out", dataset, *SMALL, "--psi", 0.5)
    assert tree(dataset) == before


def test_what_a_preset_means_is_part_of_the_settings(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later version may give the same preset other weights; half a dataset of each is none."""
    changed = replace(enhancing.PRESETS["default"], entropy=1.0)
    monkeypatch.setitem(enhancing.PRESETS, "default", changed)
    refused = CliRunner().invoke(cli.cli, ["generate", "--n", "5", "--out", str(dataset), *SMALL])
    assert refused.exit_code != 0 and "preset.entropy: 3000.0 / 1.0" in str(refused.exception)


def test_verify_passes_a_whole_dataset_and_names_a_broken_shard(dataset: Path, tmp_path: Path) -> None:
    assert "3 shards are whole" in run("verify", dataset)[0]
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(dataset), str(broken)], check=True)
    content = bytearray((broken / "00001.tar").read_bytes())
    content[5000] ^= 1
    (broken / "00001.tar").write_bytes(content)
    _, errors = run("verify", broken, code=1)
    assert "00001.tar" in errors and "00000.tar" not in errors
    assert "remove 00001.json from" in errors
    (broken / "00001.json").unlink()
    run("generate", "--n", 5, "--out", broken, "--workers", 1, *SMALL)
    assert tree(broken) == tree(dataset)


def test_stats_prints_tables_and_writes_the_report_and_the_sheet(dataset: Path, tmp_path: Path) -> None:
    html, sheet = tmp_path / "report.html", tmp_path / "sheet.png"
    printed, _ = run("stats", dataset, "--html", html, "--sheet", sheet)
    assert "kept" in printed and "soft_share" in printed
    outside = re.sub("data:image/png;base64,[A-Za-z0-9+/=]*", "", html.read_text())  # pictures spell anything by chance
    assert "<svg" in outside and "http" not in outside.replace("http://www.w3.org", "")
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_stats_names_a_shard_it_cannot_read_and_reports_the_rest(dataset: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(dataset), str(broken)], check=True)
    (broken / "00001.parquet").write_bytes(b"PAR1")
    printed, errors = run("stats", broken, code=1)
    assert "00001" in errors and "kept" in printed


def test_an_estimate_writes_nothing(tmp_path: Path) -> None:
    printed, _ = run("generate", "--n", 1000, "--out", tmp_path / "out", "--estimate", "--steps", 0, "--slots", 2)
    assert "1000 portraits: about" in printed and "GB" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("n", "num_workers", "longest"), [(0, 2, 0), (5, 1, 5), (5, 2, 3), (5, 3, 2), (5, 16, 2), (4, 3, 2)]
)
def test_a_run_is_as_long_as_its_busiest_worker(n: int, num_workers: int, longest: int) -> None:
    assert cli._longest(shards.plan(n, 2), num_workers) == longest


def test_idle_workers_are_named_and_what_would_use_them(capsys: pytest.CaptureFixture[str]) -> None:
    cli._say_idle(3, 4)
    assert capsys.readouterr().out == "busy workers: 3 of 4, a shard each; a smaller --shard-size uses more\n"
    cli._say_idle(4, 4)
    cli._say_idle(0, 4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--n", "-1"), "--n"),
        (("--n", "1", "--psi", "7"), "--psi"),
        (("--n", "1", "--psi", "nan"), "--psi"),
        (("--n", "1", "--max-expected-mad", "inf"), "--max-expected-mad"),
        (("--n", "1", "--seed", str(2**63)), "--seed"),
        (("--n", "1", "--steps", "-2"), "--steps"),
        (("--n", "1", "--generator", "no/such/file.pt"), "no/such/file.pt"),
        (("--n", "1", "--matting", "nonsense"), "nonsense"),
        (("--n", "1", "--matting", "modnet:no/such.ckpt"), "no/such.ckpt"),
        (("--n", "1", "--shard-size", "0"), "--shard-size"),
    ],
)
def test_bad_input_ends_in_one_line_that_names_it(words: tuple[str, ...], named: str, tmp_path: Path) -> None:
    assert named in error_line("generate", "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"<html><body>Too many requests</body></html>", b"PK\x03\x04 cut off"])
def test_a_weight_file_that_is_none_is_refused_before_any_work(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    out = tmp_path / "out"
    assert "weights.pt" in error_line("generate", "--n", 1, "--out", out, "--generator", file)
    assert "weights.pt" in error_line("generate", "--n", 1, "--out", out, "--matting", f"modnet:{file}")
    assert not out.exists()


def test_a_folder_with_foreign_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in error_line("generate", "--n", 1, "--out", tmp_path, *SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_portrait_at_all_is_a_dataset_too(tmp_path: Path) -> None:
    run("generate", "--n", 0, "--out", tmp_path / "none")
    assert "0 shards are whole" in run("verify", tmp_path / "none")[0]


def test_stats_of_what_is_no_dataset_says_so(tmp_path: Path) -> None:
    assert "is not a dataset" in error_line("stats", tmp_path)


def test_every_command_has_help() -> None:
    groups = {"studio": cli.studio, "models": cli.models}
    commands = [[name] for name in cli.cli.commands]
    commands += [[group, name] for group in groups for name in groups[group].commands]
    for words in commands:
        printed = CliRunner().invoke(cli.cli, [*words, "--help"])
        assert printed.exit_code == 0 and "Usage" in printed.output
        options = cli.cli.commands[words[0]] if len(words) == 1 else groups[words[0]].commands[words[1]]
        documented = [option for option in options.params if isinstance(option, click.Option)]
        assert all(option.help for option in documented), words
