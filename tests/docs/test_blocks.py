"""Every block of the pages is run, or read by what would read it; few are marked as not run.

Blocks of Python run page by page, in order, with the names that the page itself imports. Commands
are parsed by the program that they call, options and values included, and the quick ones run.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.docs.blocks import ALL, MARKED, ROOT, Block, name, of
from tokenprune.cli.app import app
from tokenprune.lab.data.rows import DataRow
from tokenprune.lab.studies import load_study
from tokenprune.lab.studies.model import TaskEntry
from tokenprune.plan import load_plan

#: Commands that are run, and not only parsed: those that take a second or two.
QUICK = ("list", "describe", "validate", "schema", "plugins", "doctor", "show", "report")

#: Output, drawings and folder trees.
TEXTS = ("text", "")

#: The study of the page on studies, which `tests/studies/test_journey.py` runs from its blocks.
JOURNEY = "three"

SHELL = ("sh", "bash")
PYTHON = ("python", "py")
PLAN = {"schema_version": 1, "stages": [{"at": "pre_llm", "strategy": "fopru", "keep": 49}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader of the pages would stand: with a plan, pictures and the examples."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for plan in ("plan.yaml", "mine.yaml", "other.yaml", "a.yaml", "b.yaml"):
        (tmp_path / plan).write_text(yaml.safe_dump(PLAN))
    for picture in ("photo.jpg", "a.jpg", "b.jpg", "cat.png"):
        Image.new("RGB", (48, 32), "teal").save(tmp_path / picture)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_language_is_known_and_few_blocks_are_not_run() -> None:
    known = {*TEXTS, *SHELL, *PYTHON, "yaml", "json", "toml"}
    assert {block.language for block in ALL} <= known
    assert [name(block) for block in ALL if block.marked][MARKED:] == []


@pytest.fixture
def own_module() -> Iterator[ModuleType]:
    """`my_package`, which holds what the page has defined so far."""
    module = ModuleType("my_package")
    sys.modules["my_package"] = module
    yield module
    del sys.modules["my_package"]


@pytest.mark.parametrize("page", sorted({block.page for block in of(*PYTHON)}))
def test_python_runs_with_the_pages_own_imports(
    page: str, folder: Path, own_module: ModuleType
) -> None:
    names: dict[str, Any] = {"__name__": "my_package"}
    torch.manual_seed(0)
    for plan in [block.code for block in of("yaml") if block.page == page][:1]:
        (folder / "plan.yaml").write_text(plan)
    for block in of(*PYTHON):
        if block.page == page and f'"{JOURNEY}/' not in block.code:
            exec(compile(block.code, name(block), "exec"), names)
            own_module.__dict__.update(names)


@pytest.mark.parametrize("block", of("yaml"), ids=name)
def test_yaml_is_a_plan_a_study_or_a_part_of_one(block: Block, folder: Path) -> None:
    data = yaml.safe_load(block.code)
    if "apiVersion" in data:  # of a cluster
        assert data["spec"]["entrypoint"].startswith("tokenprune ")
    elif "plans" in data:
        path = folder / "examples" / "studies" / "mine.yaml"
        path.write_text(block.code)
        load_study(path)
    elif "tasks" in data:
        for task in data["tasks"]:
            TaskEntry.model_validate(task)
    else:
        assert load_plan(data).stages


@pytest.mark.parametrize("block", of("json"), ids=name)
def test_json_is_a_row(block: Block) -> None:
    row = DataRow(json.loads(block.code), name(block))
    assert row.text("question").strip()
    assert row.answers()


@pytest.mark.parametrize("block", of("toml"), ids=name)
def test_toml_is_an_entry_point(block: Block) -> None:
    (entry,) = tomllib.loads(block.code)["project"]["entry-points"]["tokenprune"].values()
    assert all(map(str.isidentifier, entry.split(".")))


@pytest.mark.parametrize("block", of(*SHELL), ids=name)
def test_commands_are_understood_by_what_they_call(block: Block, folder: Path) -> None:
    for words in block.commands:
        program = Path(words[0]).name
        if program == "tokenprune":
            understood(words[1:], folder)
        elif words[:2] == ["python", "-m"]:
            has_options(words[2], [word for word in words if word.startswith("--")])
        else:
            # see test_readme and test_lmms_page; `eval` starts a server of another package
            known = ("pip", "pytest", "python3", "lmms-eval", "eval", "gpu.sh")
            assert program in known, words


def understood(words: list[str], folder: Path) -> None:
    """Parse a command as the program does, or run it where that is quick."""
    output = words.index(">") if ">" in words else len(words)
    words = words[:output]
    if "[OPTIONS]" in words or any(word.isupper() for word in words[1:2]):
        return  # the usage line of the reference, which is generated from the command itself
    group: Any = typer.main.get_command(app)
    given = group.understood(words)
    assert given[0] == words[0], "studies have a command of their own"
    command, rest = group.commands[given[0]], given[1:]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(given[0], list(rest))
    needs = any("/" in word or ":" in word or word == "records" for word in given[1:])
    mine = any(word.startswith("my_") or word == JOURNEY for word in given)
    if given[0] in QUICK and not needs and not mine:
        result = CliRunner().invoke(app, given)
        assert result.exit_code == 0, result.output


def has_options(module: str, options: list[str]) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None, module
    assert found.origin is not None
    place = Path(found.origin)
    files = [place, *place.parent.glob("*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    for option in options:
        assert f'"{option.partition("=")[0]}"' in text, f"{module} has no {option}"
