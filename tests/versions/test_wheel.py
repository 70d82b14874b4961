"""The built wheel works by itself; and the README's main command on whatever is installed."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tokenprune.lab.compare.chosen import DOZEN
from tokenprune.plugins.host import host

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "tokenprune": ROOT,
    "tokenprune_strategies": ROOT / "strategies",
    "tokenprune_adapters": ROOT / "adapters",
}
LIMIT, KEEP = 2, 200
"""Few questions, and one budget, which all of the dozen reach; `tests/compare` holds the others."""

CUT = "-" * 9
MAIN = f"""
import importlib, runpy, sys
for name in {[*PACKAGES]}:
    print(importlib.import_module(name).__file__)
for command in (["list", "--json"], sys.argv[1:]):
    print("{CUT}")
    sys.argv[1:] = command
    try:
        runpy.run_module("tokenprune", run_name="__main__")  # as python -m does
    except SystemExit as end:
        assert not end.code, command
"""
"""Where the packages are, what is listed, and a command: in one process, as torch takes seconds."""


def python(*args: object, folder: Path, path: Path | None = None) -> str:
    """Standard output of a Python command in a folder, with `path` before what is installed."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(path)} if path else {}
    command = [sys.executable, *(str(arg) for arg in args)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder with nothing but the wheel's contents, which is how an installer lays them out."""
    folder = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_it_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    sources = {
        file.relative_to(root).as_posix()
        for name, root in PACKAGES.items()
        for file in (root / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert names >= {f"{name}/py.typed" for name in PACKAGES}
    assert names >= {
        "tokenprune/reference/weights/model.safetensors",
        "tokenprune/reference/video_weights/model.safetensors",
        "tokenprune/reference/detail_weights/model.safetensors",
        "tokenprune/lab/report/templates/report.html",
    }


def test_its_entry_points_and_requirements_are_those_of_pyproject(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        written = configparser.ConfigParser(delimiters="=")
        written.read_string(archive.read(name).decode())
        metadata = archive.read(name.replace("entry_points.txt", "METADATA")).decode()
    groups = {group: dict(written[group]) for group in written.sections()}
    assert groups == {"console_scripts": project["scripts"], **project["entry-points"]}
    for extra in project["optional-dependencies"]:
        assert f"Provides-Extra: {extra}\n" in metadata


def test_the_main_command_runs_from_it_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    compare = ("compare", "--limit", LIMIT, "--keep", KEEP)
    homes, listed, _ = python("-c", MAIN, *compare, folder=tmp_path, path=site).split(CUT, 2)
    assert [Path(line).parents[1] for line in homes.split()] == [site] * len(PACKAGES)
    assert {entry["name"] for entry in json.loads(listed)} == host().strategies.keys()
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert record["failures"] == []
    assert record["task"]["samples"] == LIMIT
    assert record["dense"]["accuracy"]["value"] > 0.5
    assert {row["name"] for row in record["results"]} >= {*DOZEN, "random"}
