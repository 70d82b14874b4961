"""What lmms-eval finds: the entry point, its lightness, and that it never raises."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType

import pytest
from tokenprune_adapters.lmms_eval.manifests import MODELS, manifests
from tokenprune_adapters.mllms_plugin import ADAPTERS

GROUP = "lmms_eval.models"
LIGHT = """
import sys
from importlib.metadata import entry_points
(found,) = entry_points(group="lmms_eval.models", name="tokenprune")
found.load()
heavy = {"torch", "transformers", "lmms_eval", "numpy", "tokenprune"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
REAL = """
import sys
from lmms_eval.models import get_model, list_available_models
for name in sys.argv[1:]:
    assert name in list_available_models(), name
    kind = get_model(name)
    print(kind.__module__, kind.__name__, kind.is_simple)
"""


def fresh(code: str, *arguments: str) -> str:
    """What an interpreter of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_entry_point_is_installed() -> None:
    (found,) = entry_points(group=GROUP, name="tokenprune")
    assert found.load() is manifests


def test_loading_the_entry_point_imports_nothing_heavy() -> None:
    assert fresh(LIGHT) == "[]"


@pytest.mark.usefixtures("faked")
def test_every_manifest_names_a_class_of_each_protocol(
    models: ModuleType, simple: ModuleType
) -> None:
    found = {one.model_id: one for one in manifests()}
    assert found.keys() == MODELS.keys()
    for one in found.values():
        kinds = []
        for path in (one.chat_class_path, one.simple_class_path):
            module, _, name = path.rpartition(".")
            kinds.append(getattr(importlib.import_module(module), name))
        assert all(issubclass(kind, models.lmms) for kind in kinds)
        assert [kind.is_simple for kind in kinds] == [False, True]
        assert kinds[0].families == kinds[1].families


def test_every_family_has_an_adapter(models: ModuleType) -> None:
    served = {adapter.name for adapter in ADAPTERS}
    named = {family for kind in MODELS.values() for family in getattr(models, kind).families}
    assert named
    assert named <= served


@pytest.mark.usefixtures("faked")
def test_another_lmms_eval_gives_no_models(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(sys.modules["lmms_eval.models.registry_v2"], "ModelManifest")
    assert manifests() == []
    assert "not registered" in caplog.text


@pytest.mark.usefixtures("faked")
def test_a_manifest_of_another_form_gives_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["lmms_eval.models.registry_v2"], "ModelManifest", object)
    assert manifests() == []


def test_without_lmms_eval_there_are_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", None)
    assert manifests() == []


@pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval isn't installed")
def test_lmms_eval_itself_finds_the_classes() -> None:
    home = "tokenprune_adapters.lmms_eval.models"
    lines = [line for line in fresh(REAL, *MODELS).splitlines() if line.startswith(home)]
    assert lines == [f"{home} {kind} False" for kind in MODELS.values()]
