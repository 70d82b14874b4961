"""A model with a static plan gives the same under `torch.compile`."""

from __future__ import annotations

import sys

import pytest
import torch
from tokenprune_strategies.tome import ToMe

from tests import models
from tests.contract.cases import ENCODER_STAGES, attached
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens


@pytest.mark.parametrize("name", ["evoprune", "tome", "ipcv", "random", "fopru"])
def test_static_strategies_survive_compilation(name: str) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    torch._dynamo.reset()
    with attached(model, ENCODER_STAGES[name]) as handle, torch.no_grad():
        plain = model(pictures).last_hidden_state
        compiled = torch.compile(model, backend="aot_eager")
        for _ in range(2):  # traced, then from the cache
            torch.testing.assert_close(compiled(pictures).last_hidden_state, plain)
        assert len(handle.trace.images) == 2


def test_checks_do_not_run_under_compilation_and_strategies_are_not_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced, reduce = [], ToMe.reduce

    def noting(self: ToMe, tokens: Tokens, budget: Budget) -> Reduction:
        traced.append(torch.compiler.is_compiling())
        return reduce(self, tokens, budget)

    monkeypatch.setattr(ToMe, "reduce", noting)
    # so that the trace is the first to ask for it
    monkeypatch.delitem(sys.modules, "tokenprune.engine.uncompiled", raising=False)
    model, pictures = models.clip_vision(), models.pixels(2)
    torch._dynamo.reset()
    with attached(model, ENCODER_STAGES["tome"]) as handle, torch.no_grad():
        compiled = torch.compile(model, backend="eager")
        compiled(pictures)
        assert traced
        assert not any(traced)
        compiled(pictures * float("nan"))
        assert not handle.checks.passed
        model(pictures)
        assert len(handle.checks.passed) == len(handle.trace.image(0).steps)
