"""Counting operations of whole models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

import tokenprune
from tests import models
from tests.contract.cases import shipped, stage_of
from tests.families.calls import case_of
from tokenprune.errors import UncountedWarning
from tokenprune.ops.flops import count_flops


def test_the_sum_is_that_of_torchs_counter() -> None:
    model, inputs = models.llava_clip("eager"), models.llava_inputs([[1, models.IMAGE_TOKEN, 7]])
    with torch.no_grad(), count_flops() as counter:
        model(**inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        model(**inputs)
    assert counter.total == plain.get_total_flops() > 0


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_operators_that_are_made_of_others_are_counted_by_these(
    guard: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is taken apart, which takes longer than most operators of small models."""
    kind, tried = torch._ops.OpOverload, []
    plain = kind.decompose

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(self)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(kind, "decompose", noted)
    with guard(), count_flops() as counter:
        found = torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3)).relu()
    assert found.shape == (2, 4)
    assert counter.total == 2 * 2 * 3 * 4
    # without inference mode the dispatcher itself takes composites apart
    assert (torch.ops.aten.linear.default in tried) == (guard is torch.inference_mode)
    assert not {torch.ops.aten.mm.default, torch.ops.aten.relu.default} & {*tried}


def test_learned_tokens_are_counted_without_gradients() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs([[1, models.IMAGE_TOKEN, 7]])
    counts = {}
    for name in ("vistog", "uniform"):
        plan = {"schema_version": 1, "stages": [stage_of(shipped()[name], "pre_llm")]}
        with tokenprune.attach(model, plan), torch.no_grad(), count_flops() as counter:
            model(**inputs)
        counts[name] = counter.total
    assert counts["vistog"] > counts["uniform"] > 0, "the tokens' own way through the encoder"


def test_experts_are_counted_however_they_run() -> None:
    """transformers runs them by `_grouped_mm`, for which torch's counter has no formula."""
    case = case_of("qwen3_vl_moe")
    model, inputs, counts = case.create(), case.inputs("one"), {}
    for way in ("grouped_mm", "eager", "batched_mm"):
        model.set_experts_implementation(way)
        with torch.no_grad(), count_flops() as counter:
            model(**inputs)
        counts[way] = counter.total
    assert counts["grouped_mm"] == counts["eager"] == counts["batched_mm"] > 0


def test_what_torchs_counter_leaves_out_is_counted() -> None:
    rows, matrices = torch.randn(12, 16), torch.randn(3, 16, 8)
    ends = torch.tensor([4, 4, 12], dtype=torch.int32)
    grouped = torch.nn.functional.grouped_mm
    forms: dict[str, tuple[Callable[[], object], int]] = {
        "rows": (lambda: grouped(rows, matrices, offs=ends), 2 * 12 * 16 * 8),
        "columns": (lambda: grouped(torch.randn(3, 5, 16), rows.t(), offs=ends), 2 * 5 * 16 * 12),
        "inner": (
            lambda: grouped(torch.randn(5, 12), torch.randn(12, 8), offs=ends),
            2 * 5 * 12 * 8,
        ),
        "all": (lambda: grouped(torch.randn(3, 5, 16), matrices), 2 * 3 * 5 * 16 * 8),
        "vector": (lambda: rows @ torch.ones(16), 2 * 12 * 16),
        "solved": (
            lambda: torch.linalg.solve_triangular(torch.eye(6), torch.ones(6, 4), upper=False),
            6 * 6 * 4,
        ),
        "turned": (lambda: torch.linalg.eigh(torch.randn(2, 6, 6)), 2 * 9 * 6**3),
    }
    for name, (call, expected) in forms.items():
        with torch.no_grad(), count_flops() as counter:
            call()
        assert counter.total == expected, name


def test_operators_of_other_packages_without_a_formula_are_named() -> None:
    """Such as attention of flash-attn: it counted as 0 in silence."""

    @torch.library.custom_op("somebody::attend", mutates_args=())
    def attend(query: torch.Tensor) -> torch.Tensor:
        return query @ query

    def counted(calls: int) -> int:
        with torch.no_grad(), count_flops() as counter:
            for _ in range(calls):
                attend(torch.ones(3, 3))
        return counter.total

    with pytest.warns(UncountedWarning, match=r"how many FLOPs somebody\.attend take") as warned:
        nothing = counted(2)
    assert nothing == 0
    assert len(warned) == 1
    register_flop_formula(torch.ops.somebody.attend)(lambda query, **_: 2 * query[0] ** 3)
    with warnings.catch_warnings(action="error"):
        assert counted(1) == 2 * 3**3
