"""The generated plan reference."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from tokenprune.plan import Plan, StagePlan

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("generate")


def test_a_stale_page_is_noticed(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["plan-reference", "--check"], tmp_path) == 1, "it isn't there yet"
    assert generate.main(["plan-reference"], tmp_path) == 0
    assert generate.main(["plan-reference", "--check"], tmp_path) == 0
    page = tmp_path / "plan-reference.md"
    page.write_text(page.read_text().replace("`seed`", "`sed`"))
    assert generate.main(["plan-reference", "--check"], tmp_path) == 1
    assert "is stale; run: python docs/generate.py plan-reference" in capsys.readouterr().err


def test_every_key_and_param_is_on_it(generate: ModuleType, tmp_path: Path) -> None:
    generate.main(["plan-reference"], tmp_path)
    text = (tmp_path / "plan-reference.md").read_text()
    for key in (*Plan.model_fields, *StagePlan.model_fields):
        assert f"| `{key}` |" in text
    assert "### toy_merge" in text
    assert "| `weight` | number > 0 | `1.0` |" in text
    assert "| `width` | number or `auto` | `1.0` |" in text


def test_an_unknown_page_is_refused(generate: ModuleType) -> None:
    with pytest.raises(SystemExit) as caught:
        generate.main(["plan-refrence"])
    assert caught.value.code == 2
