"""What checks cost, counted in operations: nothing after the first call but the look for NaN."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tokenprune
from tests import models
from tests.contract.cases import ENCODER_STAGES, plan
from tests.mllm.calls import SHORT, inputs, model
from tokenprune.engine import answers, conditions
from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.conditions import Conditions
from tokenprune.errors import NonFiniteError

LLM = {
    "schema_version": 1,
    "stages": [
        {"at": "encoder", "strategy": "tome", "keep": 18},
        {"at": "pre_llm", "strategy": "random", "keep": 9},
        {"at": "decoder", "strategy": "fastv", "layer": 1, "keep": 6},
        {"at": "decoder", "strategy": "random", "layer": 2, "keep": 3},
    ],
}
WAITS = {"aten._local_scalar_dense.default", "aten.is_nonzero.default", "aten.nonzero.default"}
CASES: dict[str, Any] = {
    name: plan(ENCODER_STAGES[name]) for name in ("tome", "evoprune", "ipcv", "fopru")
} | {"four stages": LLM}


class Operations(TorchDispatchMode):
    """Counts every operation that reaches the dispatcher, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[func] += 1
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], Any]) -> Counter[str]:
    with torch.no_grad(), Operations() as operations:
        call()
    found: Counter[str] = Counter()
    for func, times in operations.counted.items():
        found[str(func)] += times
    return found


def prepared(name: str) -> tuple[Any, Callable[[], Any]]:
    if name == "four stages":
        of, given = model(), inputs(SHORT)
        return of, lambda: of(**given)
    vision, pictures = models.clip_vision(), models.pixels(2)
    return vision, lambda: vision(pixel_values=pictures)


@pytest.mark.parametrize("name", CASES)
def test_a_known_site_and_shape_costs_the_look_for_nan_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, call = prepared(name)
    counted(call)  # libraries may prepare something at the first call of all
    with tokenprune.attach(of, CASES[name]):
        first, second, third = counted(call), counted(call), counted(call)
    with monkeypatch.context() as without, tokenprune.attach(of, CASES[name]):
        without.setattr(Conditions, "wanted", lambda self, case: False)
        without.setattr(Conditions, "watch", lambda self, site, hidden: None)
        counted(call)
        bare = counted(call)
    assert second == third
    assert second - bare == {"aten.sum.dim_IntList": 1, "aten._local_scalar_dense.default": 1} or (
        second - bare == {"aten.sum.default": 1, "aten._local_scalar_dense.default": 1}
    )
    assert not bare - second
    assert first.total() > second.total() + 10


@pytest.mark.parametrize("name", CASES)
def test_always_costs_every_time(name: str) -> None:
    of, call = prepared(name)
    with tokenprune.attach(of, CASES[name], checks="always"):
        assert counted(call) == counted(call)
    with tokenprune.attach(of, CASES[name]):
        first = counted(call)
    with tokenprune.attach(of, CASES[name], checks="always"):
        counted(call)
        assert counted(call) == first


@pytest.mark.parametrize("name", CASES)
def test_where_reading_waits_a_call_waits_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of, call = prepared(name)
    for known in (conditions, answers):
        monkeypatch.setattr(known, "at_once", lambda value: False)
    with tokenprune.attach(of, CASES[name]):
        first, second = counted(call), counted(call)
    # a list of all conditions is read at once, and a number alone by itself
    assert first["aten.stack.default"] - second["aten.stack.default"] == 1
    assert sum(first[name] for name in WAITS) == sum(second[name] for name in WAITS) - 1


@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("name", CASES)
def test_nan_is_found_in_every_call_and_named_where_asked(name: str, kind: str) -> None:
    of, call = prepared(name)
    tower = of.model.vision_tower if name == "four stages" else of
    block = choose_adapter(tower, None).spec().blocks[0]
    with torch.no_grad(), tokenprune.attach(of, CASES[name]):
        call()
        bad = block.register_forward_pre_hook(lambda _, args: (_spoilt(args[0], kind), *args[1:]))
        with pytest.raises(NonFiniteError, match="here or before"):
            call()
        bad.remove()
        call()
    spoil = block.register_forward_pre_hook(lambda _, args: (_spoilt(args[0], kind), *args[1:]))
    handle = tokenprune.attach(of, CASES[name], checks="always")
    named = pytest.raises(NonFiniteError, match=r"^encoder\[\d\]: .*, here, so")
    with torch.no_grad(), handle, named:
        call()
    spoil.remove()


def _spoilt(hidden: torch.Tensor, kind: str) -> torch.Tensor:
    """One value of one token."""
    hidden = hidden.clone()
    hidden[-1, 5, 3] = float(kind)
    return hidden
