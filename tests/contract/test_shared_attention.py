"""What tokens receive comes with the attention itself; the choices are those of two products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import models
from tests.contract.cases import attached
from tokenprune.engine.encoder import attention
from tokenprune.ops.attend import apart


def in_two(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None, skip: int
) -> list[Tensor]:
    return apart(query, key, value, bias, skip, given=False)


def in_two_both(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None, skip: int
) -> list[Tensor]:
    return apart(query, key, value, bias, skip, given=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strategy", ["evoprune", "fopru"])
@torch.no_grad()
def test_the_same_tokens_go_as_with_two_products(
    strategy: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.timm_vit(depth=4).to(dtype)
    pictures = models.pixels(3).to(dtype)
    stage: dict[str, Any] = {"at": "encoder", "strategy": strategy, "keep": 10}
    if strategy == "fopru":
        stage["layer"] = 1

    def run() -> tuple[Tensor, list[Any]]:
        with attached(model, stage) as handle:
            return model(pictures), handle.trace.records

    once, mine = run()
    calls: list[str] = []
    for name, other in (("attend_once", in_two), ("attend_margins", in_two_both)):

        def call(*args: Any, _name: str = name, _other: Any = other, **named: Any) -> list[Tensor]:
            calls.append(_name)
            found: list[Tensor] = _other(*args, **named)
            return found

        monkeypatch.setattr(attention, name, call)
    twice, theirs = run()
    asked = "attend_once" if strategy == "evoprune" else "attend_margins"
    assert calls == [asked] * len(mine)
    assert len(mine) == len(theirs)
    for record, other in zip(mine, theirs, strict=True):
        assert torch.equal(record.slot, other.slot)
        torch.testing.assert_close(record.score, other.score, rtol=1e-2, atol=1e-4)
    slack = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(once, twice, rtol=slack, atol=slack)
