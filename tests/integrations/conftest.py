"""lmms-eval, or the fake of it, in `sys.modules`."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from tests.integrations import fake_lmms

MODELS = "tokenprune_adapters.lmms_eval.models"
SIMPLE = "tokenprune_adapters.lmms_eval.simple"


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake instead of whatever is installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "lmms_eval"]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in fake_lmms.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    fake_lmms.LOGGED.clear()


@pytest.fixture
def models(faked: None, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the model classes, on the fake's base class."""
    # set first, so that monkeypatch takes the module built on the fake out again
    monkeypatch.setitem(sys.modules, MODELS, ModuleType(MODELS))
    del sys.modules[MODELS]
    return importlib.import_module(MODELS)


@pytest.fixture
def simple(models: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the classes of the older protocol, on the fake's base class."""
    monkeypatch.setitem(sys.modules, SIMPLE, ModuleType(SIMPLE))
    del sys.modules[SIMPLE]
    return importlib.import_module(SIMPLE)
