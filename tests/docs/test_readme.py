"""README and pages that are written by hand say what the code does."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenprune_strategies import plugin

import tokenprune

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
VENV = "python3 -m venv .venv"
CEILINGS = "-c constraints.txt"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def nav(entries: list[Any]) -> set[str]:
    found: set[str] = set()
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found |= nav(value) if isinstance(value, list) else {value}
    return found


def test_the_set_up_commands_name_extras_and_programs_that_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    compare, tests = blocks(README, "sh")[:2]
    for command in (compare, tests):
        assert command.startswith(
            f"python3 -m venv .venv && .venv/bin/pip install {CEILINGS} -e '.["
        )
        assert re.search(r"\[(\w+)\]", command)[1] in project["optional-dependencies"]  # type: ignore[index]
    assert compare.split()[-2:] == [".venv/bin/tokenprune", "compare"]
    assert "tokenprune" in project["scripts"]
    assert tests.endswith(".venv/bin/pytest -n auto\n")


def test_ci_runs_the_same_tests_and_is_sound_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    steps = re.findall(r"^ *step (.*)$", script.read_text(), re.MULTILINE)
    assert any(f"install --quiet {CEILINGS} -e '.[dev]'" in step for step in steps)
    assert any(step.startswith('"$venv/bin/pytest" -n auto') for step in steps)


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_plans_and_names_in_code_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for plan in blocks(text, "yaml"):
        assert tokenprune.load_plan(yaml.safe_load(plan)).stages
    for code in blocks(text, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tokenprune":
                assert node.attr in tokenprune.__all__


def test_getting_started_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(blocks(text, "yaml")[0])
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for code in blocks(text, "python"):
        exec(code, found)
    assert found["pruned"].plan.stages[0].keep == found["pruned"].trace.images[0].kept
    assert found["answer"].strip()


def test_the_readme_names_every_strategy_and_its_links_lead_somewhere() -> None:
    names: list[str] = []
    plugin.register_strategies(lambda kind: names.append(kind.name))
    assert all(f"[`{name}`](docs/strategies/{name}.md)" in README for name in names)
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_page_is_in_the_navigation_and_every_public_name_in_the_reference() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    docs = ROOT / "docs"
    assert nav(config["nav"]) == {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
    reference = (docs / "api.md").read_text(encoding="utf-8")
    missing = [name for name in tokenprune.__all__ if not re.search(rf"\b{name}\b", reference)]
    assert missing == []


def test_the_table_of_example_plans_is_complete() -> None:
    examples = ROOT / "examples"
    listed = set(re.findall(r"^\| `([\w.-]+)` \|", (examples / "README.md").read_text(), re.M))
    assert listed == {path.name for path in (examples / "plans").glob("*.yaml")}
