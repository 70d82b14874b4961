"""Extras come from the repository: PyPI's project of the name tokenprune is another one."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from tokenprune.errors.installing import pip_install

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "tokenprune",
    "strategies",
    "adapters",
    "docs",
    "examples",
    "README.md",
    "CONTRIBUTING.md",
)
FILES = [
    file
    for folder in FOLDERS
    for file in ([ROOT / folder] if "." in folder else sorted((ROOT / folder).rglob("*")))
    if file.suffix in (".py", ".md", ".html")
]


def test_no_sentence_installs_from_pypi() -> None:
    named = re.compile(r"pip install '?tokenprune\b|`tokenprune\[")
    wrong = [str(file.relative_to(ROOT)) for file in FILES if named.search(file.read_text("utf-8"))]
    assert FILES
    assert wrong == []


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("examples/*/pyproject.toml")), ids=lambda file: file.parent.name
)
def test_no_package_to_copy_depends_on_pypis(file: Path) -> None:
    project = tomllib.loads(file.read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    assert not [one for one in wanted if one.startswith("tokenprune")]


def test_every_extra_that_is_named_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    named = re.compile(r"""pip_install\(["'](\w+)["']\)|pip install -e '\.\[(\w+)\]'""")
    found = {
        match for file in FILES for pair in named.findall(file.read_text("utf-8")) for match in pair
    }
    assert {"report", "ray", "train"} <= found
    assert found - {""} <= extras


@pytest.mark.parametrize(("extra", "source"), [("report", "'.[report]'"), ("", ".")])
def test_the_command_says_where(extra: str, source: str) -> None:
    said = pip_install(extra)
    assert said == f"pip install -e {source} in the folder of tokenprune's repository"
