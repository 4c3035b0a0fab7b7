"""The house's promises: stages import one way, every part is in the wheel, nothing else is."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "gen": set(),
    "enhance": {"gen"},
    "filters": {"gen", "enhance"},
    "shards": {"gen", "enhance", "filters"},
    "finetune": {"gen", "enhance", "filters", "shards"},
    "studio": {"gen", "enhance", "filters", "shards", "finetune"},  # nothing but cli.py imports it
}
STAGES = [stage for stage in MAY_IMPORT if (ROOT / stage).is_dir()]


def stages_imported(path: Path, stage: str) -> set[str]:
    """Other stages that a module imports, by relative imports that leave its own stage."""
    depth = len(path.relative_to(ROOT / stage).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {str(name).split(".")[0] for name in names}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_earlier_ones(stage: str) -> None:
    for path in (ROOT / stage).rglob("*.py"):
        assert stages_imported(path, stage) <= MAY_IMPORT[stage], path


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_command_line_names_the_package(stage: str) -> None:
    for path in (ROOT / stage).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert not str(node.module).startswith("mattesmith"), path
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("mattesmith") for alias in node.names), path


def test_only_cli_lies_at_the_root() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["cli.py"]


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        ".".join(["mattesmith", *path.parent.relative_to(ROOT).parts])
        for stage in STAGES
        for path in (ROOT / stage).rglob("__init__.py")
    }
    assert listed == there | {"mattesmith"}


def test_the_wheel_holds_code_and_weights_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(ROOT / name) if (ROOT / name).is_file() else None
    build = "from setuptools.build_meta import build_wheel; build_wheel(r'" + str(tmp_path) + "')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert all(name.startswith("mattesmith/") for name in names)
    assert "mattesmith/cli.py" in names and not any("tests/" in name or "bench/" in name for name in names)
    modules = {f"mattesmith/{path.relative_to(ROOT)}" for stage in STAGES for path in (ROOT / stage).rglob("*.py")}
    assert modules <= set(names)
    weights = {f"mattesmith/{path.relative_to(ROOT)}" for path in ROOT.glob("*/weights/*.safetensors")}
    assert weights and weights <= set(names)
