"""A model with a static plan gives the same under `torch.compile`."""

from __future__ import annotations

import pytest
import torch

from tests import models
from tests.contract.cases import ENCODER_STAGES, attached


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


def test_checks_do_not_run_under_compilation() -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    torch._dynamo.reset()
    with attached(model, ENCODER_STAGES["tome"]) as handle, torch.no_grad():
        compiled = torch.compile(model, backend="eager")
        compiled(pictures)
        compiled(pictures * float("nan"))
        assert not handle.checks.passed
        model(pictures)
        assert len(handle.checks.passed) == len(handle.trace.image(0).steps)
