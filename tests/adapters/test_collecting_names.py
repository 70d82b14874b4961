"""The private names by which transformers collects the states of blocks."""

from __future__ import annotations

import contextvars
import importlib

import pytest
import torch
from tokenprune_adapters.transformers import collecting_names as names

from tests import models

pytestmark = pytest.mark.versions


def test_hooks_that_collect_states_are_known() -> None:
    model = models.clip_vision()
    with torch.no_grad():
        assert model(models.pixels(1), output_hidden_states=True).hidden_states is not None
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert hooks
    assert all(map(names.is_hook, hooks))
    assert not names.is_hook(lambda *_: None)


def test_a_collector_is_seen_while_it_is_set() -> None:
    collector = getattr(importlib.import_module(names.MODULE), names.COLLECTOR)

    def inside() -> bool:
        collector.set({"hidden_states": []})
        return names.running()

    assert not names.running()
    assert contextvars.copy_context().run(inside)
    assert not names.running()
