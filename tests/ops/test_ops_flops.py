"""Counting operations of whole models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn
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
        "system": (
            lambda: torch.linalg.solve(torch.eye(6).expand(2, 6, 6), torch.ones(2, 6, 4)),
            2 * (2 * 6**3 // 3 + 2 * 6 * 6 * 4),
        ),
        "dot": (lambda: rows[0] @ rows[1], 2 * 16),
        "added": (lambda: torch.addmv(torch.ones(12), rows, torch.ones(16)), 2 * 12 * 16),
        "summed": (
            lambda: torch.addbmm(torch.ones(5, 8), torch.ones(3, 5, 16), matrices),
            2 * 3 * 5 * 16 * 8,
        ),
        "few": (lambda: torch.cdist(rows, rows[:5]), 2 * 12 * 5 * 16),
        "many": (lambda: torch.cdist(rows.repeat(3, 1), rows), 2 * 36 * 12 * 16),
    }
    for name, (call, expected) in forms.items():
        with torch.no_grad(), count_flops() as counter:
            call()
        assert counter.total == expected, name


WIDTH, HEADS, INNER, HIDDEN = 16, 4, 32, 8


def attention(rows: int, keys: int) -> int:
    """Of one sample: the projections of queries, keys, values and output, and the attention."""
    return 2 * WIDTH**2 * (2 * rows + 2 * keys) + 2 * 2 * rows * keys * WIDTH


def encoder_layer(rows: int) -> int:
    return attention(rows, rows) + 2 * 2 * rows * WIDTH * INNER


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_modules_that_run_as_one_operator_are_counted(
    guard: Callable[[], AbstractContextManager[None]],
) -> None:
    """Each by hand. They counted as 0 in silence, and with gradients as what they compute."""
    x, y = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    attend = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True).eval()
    encoder = nn.TransformerEncoder(layer, 2).eval()
    padded = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    lstm = nn.LSTM(WIDTH, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
    gates = 4 * HIDDEN * 2 * ((WIDTH + HIDDEN) + (2 * HIDDEN + HIDDEN))
    forms: dict[str, tuple[Callable[[], object], int]] = {
        "self": (lambda: attend(x, x, x, need_weights=False), 2 * attention(5, 5)),
        "weights": (lambda: attend(x, x, x), 2 * attention(5, 5)),
        "cross": (lambda: attend(x, y, y, need_weights=False), 2 * attention(5, 7)),
        "layer": (lambda: layer(x), 2 * encoder_layer(5)),
        "encoder": (lambda: encoder(x), 2 * 2 * encoder_layer(5)),
        "padded": (
            lambda: encoder(x, src_key_padding_mask=padded),
            2 * (encoder_layer(5) + encoder_layer(3)),
        ),
        "lstm": (lambda: lstm(x), 2 * 2 * 5 * gates),
        "gru": (
            lambda: nn.GRU(WIDTH, HIDDEN, batch_first=True)(x),
            2 * 2 * 5 * 3 * HIDDEN * (WIDTH + HIDDEN),
        ),
    }
    for name, (call, expected) in forms.items():
        with guard(), count_flops() as counter, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*nested tensors is in prototype")
            call()
        assert counter.total == expected, name


def test_operators_of_gpus_are_counted_by_their_shapes() -> None:
    """Torch 2.11 raised where heads of keys are fewer than those of queries."""
    aten = torch.ops.aten
    meta: dict[str, Any] = {"device": "meta", "dtype": torch.float16}
    query, key = torch.empty(2, 8, 5, 16, **meta), torch.empty(2, 2, 7, 16, **meta)
    with torch.no_grad(), count_flops() as counter:
        aten._scaled_dot_product_flash_attention(query, key, key)
    assert counter.total == 2 * 2 * 2 * 8 * 5 * 7 * 16
    gates = (4 * HIDDEN, WIDTH), (4 * HIDDEN, HIDDEN), (4 * HIDDEN,), (4 * HIDDEN,)
    weights = [torch.empty(*one, **meta) for one in gates]
    states, first = torch.empty(5, 2, WIDTH, **meta), torch.empty(1, 2, HIDDEN, **meta)
    with torch.no_grad(), count_flops() as counter:
        one_way = (2, HIDDEN, 0, 1, False, 0.0, False, False, [], None)
        aten._cudnn_rnn(states, weights, 4, None, first, first, *one_way)
    assert counter.total == 2 * 5 * 2 * 4 * HIDDEN * (WIDTH + HIDDEN)


def test_operators_of_torch_that_compute_much_without_a_formula_are_named() -> None:
    def count() -> None:
        with torch.no_grad(), count_flops():
            torch.linalg.svd(torch.eye(3))
            nn.functional.bilinear(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4, 3, 3))

    with pytest.warns(UncountedWarning, match=r"aten\._linalg_svd, aten\._trilinear take"):
        count()


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
