"""A record must not outlive the code and the checkpoints that it measured."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests import text_towers
from tests.studies.test_studies import change
from tokenprune.lab.measure import code
from tokenprune.lab.measure.code import code_of, digest, method_facts, package_digest
from tokenprune.lab.studies import load_study, run_study
from tokenprune.lab.studies.execute import forget_models
from tokenprune.lab.studies.run import identified
from tokenprune.plan import load_plan
from tokenprune.plugins.host import register_plugin

PLUGIN = """
from tokenprune import ScoreStrategy, hookimpl
from tokenprune_strategies.baselines import Uniform


class Mine(Uniform):
    name = "mine"


@hookimpl
def register_strategies(register):
    register(Mine)
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    package_digest.cache_clear()
    yield
    package_digest.cache_clear()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "my_method.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    import my_method  # type: ignore[import-not-found]

    with register_plugin(my_method, "my-method"):
        yield my_method
    del sys.modules["my_method"]


def test_another_version_of_a_method_is_another_cell(
    study: Path, plugin: Any, tmp_path: Path
) -> None:
    stage = {"at": "pre_llm", "strategy": "mine", "keep": 4}
    change(study, plans=[{"name": "mine", "plan": {"stages": [stage]}}])
    first = run_study(load_study(study))
    assert len(first.ran) == 2
    assert first.records[1].identity["methods"]["code"].keys() == {"my_method"}
    package_digest.cache_clear()
    assert run_study(load_study(study)).ran == []
    (tmp_path / "my_method.py").write_text(PLUGIN.replace("Mine(", "Mine  ("))
    package_digest.cache_clear()
    again = run_study(load_study(study))
    assert again.ran == ["mine, asked, " + load_study(study).models[0].shown]
    assert again.records[0] == first.records[0]


def test_another_checkpoint_is_another_cell(tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    stage = {"at": "pre_llm", "strategy": "vistog", "keep": 16}
    plan = load_plan({"stages": [{**stage, "params": {"checkpoint": str(path)}}]})
    found = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        found.append(method_facts(plan)["files"])
    assert found[0].keys() == {"stages.0.params.checkpoint"}
    assert found[0] == found[2] != found[1]
    path.unlink()
    assert method_facts(plan)["files"] == {}


def test_every_file_of_a_package_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "counted"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("class One: ...")
    monkeypatch.syspath_prepend(tmp_path)
    import counted  # type: ignore[import-not-found]

    seen = set()
    for name, text in (("__init__.py", "x = 1"), ("inner/a.py", ""), ("inner/b.json", "{}")):
        (package / name).write_text(text)
        package_digest.cache_clear()
        seen.add(code_of([counted.One])["counted"])
    assert len(seen) == 3
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__/a.pyc").write_bytes(b"0")
    package_digest.cache_clear()
    assert code_of([counted.One])["counted"] in seen
    del sys.modules["counted"]


def test_code_without_a_file_has_an_empty_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    typed = type("Typed", (), {"__module__": "__main__"})
    assert code.code_of([typed]) == {"__main__": ""}


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("config.json", "vision_feature_layer", 1), ("generation_config.json", "num_beams", 2)],
)
def test_a_model_with_another_config_is_another_cell(
    study: Path, model: Path, tmp_path: Path, file: str, key: str, value: int
) -> None:
    folder = shutil.copytree(model, tmp_path / "copied")
    change(study, models=[{"name": str(folder)}])
    forget_models()
    first = identities(study)
    data = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(data | {key: value}))
    forget_models()
    again = identities(study)
    assert first.keys() == again.keys()
    for name, about in again.items():
        assert digest(about) != digest(first[name])
        assert about["weights"] == first[name]["weights"]


def identities(study: Path) -> dict[str, dict[str, Any]]:
    """What the record of every cell of a study is found by."""
    return {cell.name: about for cell, about in identified(load_study(study))}


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("strategy", ["trim", "cdpruner_clip"])
def test_another_text_tower_is_another_cell(
    study: Path, tmp_path: Path, strategy: str, file: str
) -> None:
    tower = shutil.copytree(text_towers.clip(), tmp_path / "tower")
    stage = {"at": "pre_llm", "strategy": strategy, "keep": 8, "params": {"text_tower": str(tower)}}
    change(study, plans=[{"name": "asked", "plan": {"stages": [stage]}}])
    first = identities(study)
    assert identities(study) == first
    if file == "model.safetensors":
        weights = load_file(tower / file)
        save_file({name: value + 1 for name, value in weights.items()}, tower / file)
    else:
        (tower / file).write_text((tower / file).read_text() + "\n")
    again = identities(study)
    assert again["dense"] == first["dense"]
    assert digest(again["asked"]) != digest(first["asked"])


def test_another_tokenizer_is_another_cell(tmp_path: Path) -> None:
    words = shutil.copytree(text_towers.tokenizer(), tmp_path / "words")
    params = {"text_tower": text_towers.clip(), "tokenizer": str(words)}
    plan = load_plan(
        {"stages": [{"at": "pre_llm", "strategy": "trim", "keep": 8, "params": params}]}
    )
    found = [method_facts(plan)["files"]]
    assert found[0].keys() == {"stages.0.text_tower", "stages.0.tokenizer"}
    (words / "model.safetensors").write_bytes(b"of the LLM")
    found.append(method_facts(plan)["files"])
    (words / "tokenizer.json").write_text("{}")
    found.append(method_facts(plan)["files"])
    assert found[0] == found[1] != found[2]
