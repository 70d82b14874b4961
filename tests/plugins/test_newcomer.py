"""Where a thing goes: a plugin adds one of every kind in one place each, and all of them work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import tokenprune
from tests.compare.tiny import save_llava
from tests.plugin import registering
from tests.plugins import newcomer
from tests.plugins.newcomers_model import MyVit
from tests.studies.conftest import save_study
from tokenprune.lab.kinds import SERVERS
from tokenprune.lab.studies import Store, load_study, run_study
from tokenprune.lab.studies.plugs import make_runner
from tokenprune.plugins.hookspecs import TEXT_TOWERS
from tokenprune.plugins.host import host, register_plugin
from tokenprune.plugins.matrix import families, matrix
from tokenprune.testing.kinds import TINY_MODELS, tiny_models

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with register_plugin(newcomer, "newcomer"):
        yield
    assert "newcomer" not in {info.name for info in host().infos()}


def test_every_kind_is_listed_under_the_plugins_name() -> None:
    (info,) = [info for info in host().infos() if info.name == "newcomer"]
    assert info.brought.keys() == host().kinds().keys() - {"colours"}
    assert info.brought["strategies"] == ("loudest",)
    assert info.brought["kinds"] == ("colours",)


def test_the_serving_engine_is_found_by_its_name() -> None:
    server = host().things(SERVERS)["echo"]
    assert server.check(Path("plan.yaml"), "model")[0].left == 2


def test_a_text_tower_is_found_by_what_the_plan_names() -> None:
    kind = host().things(TEXT_TOWERS)["letters"]
    tower = kind.load("letters")
    assert tower is not None
    assert tower.encode(["a bad cab"], cut=True)[0][0, :4].tolist() == [3, 2, 1, 1]
    assert kind.load("another") is None


def test_the_method_runs_on_the_family_that_the_engine_never_heard_of() -> None:
    torch.manual_seed(0)
    model, pixels = MyVit().eval(), torch.randn(2, 3, 24, 24)
    plain = model(pixels)
    stage = {"at": "encoder", "strategy": "loudest", "keep": 4}
    with tokenprune.attach(model, {"stages": [stage]}):
        assert model(pixels).shape == (2, 1 + 4, 16)
    with tokenprune.attach(model, {"stages": [{**stage, "strategy": "tome"}]}):
        assert model(pixels).shape == (2, 1 + 4, 16)
    assert torch.equal(model(pixels), plain)
    (row,) = matrix({"loudest": newcomer.Loudest})
    runs = {cell.family.name: cell.runs for cell in row}
    assert runs["my-vit"] == ("encoder",)
    assert runs["llava + clip"] == ("encoder", "pre_llm")
    assert "my-vit" in {family.name for family in families()}


def test_loader_metric_runner_and_reporter_work_together_in_a_study(tmp_path: Path) -> None:
    path = save_study(save_llava(tmp_path / "llava"), tmp_path)
    data = yaml.safe_load(path.read_text())
    data["models"] = [{"name": f"mine:{tmp_path / 'llava'}", "title": "tiny"}]
    data["plans"] = [{"plan": {"stages": [{"at": "pre_llm", "strategy": "loudest", "keep": 4}]}}]
    data["metrics"] = ["words"]
    path.write_text(yaml.safe_dump(data))
    study, notes = load_study(path), newcomer.Notes()
    finished = run_study(study, make_runner("backwards"), reporters=[notes])
    assert not finished.failed
    labels = [label for label, _ in notes.seen]
    assert labels == finished.ran
    assert "dense" in labels[-1], "the first cell ran last"
    records, _ = Store(study.out).records()
    for sample in (sample for record in records for sample in record.result["samples"]):
        assert sample["scores"]["words"] == len(sample["answer"].split())


def test_a_kind_of_its_own_takes_things_of_others() -> None:
    with register_plugin(registering(newcomer.Teal(), hook="register_colours"), "paint"):
        assert [*host().things(newcomer.COLOURS)] == ["teal"]
    assert host().things(newcomer.COLOURS) == {}


def test_the_table_of_the_architecture_names_places_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("| to add | where |")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w/]+(?:/|\.py))`", table)
    assert "lab/plugin.py" in named
    packages = (ROOT, ROOT / "tokenprune", ROOT / "strategies", ROOT / "adapters")
    for name in named:
        places = [*(package / name for package in packages), *ROOT.glob(f"*/*/{name}")]
        assert any(place.exists() for place in places), name


def test_a_tiny_model_without_its_library_is_passed_over() -> None:
    assert "nowhere" in host().things(TINY_MODELS)
    assert "nowhere" not in [model.name for model in tiny_models()]
