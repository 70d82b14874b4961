"""Rows that stand stack by stack: masks and padding hide what windows by themselves don't see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.packed import GRIDS, call, grids_of, plan, tower
from tokenprune import Signal
from tokenprune.engine.encoder import packed_state
from tokenprune.engine.encoder.allowance import BY_TYPE, LAUNCHING, Allowance
from tokenprune.engine.encoder.order import Order
from tokenprune.engine.encoder.packed_signals import PackedStep
from tokenprune.engine.encoder.pictures import Pictures
from tokenprune.engine.encoder.segments import Segments, Within
from tokenprune.engine.encoder.windows import Windows
from tokenprune.interface.signals import MASKED, BlockAttention

CPU = torch.device("cpu")
EDGES, FRAMES = [0, 4, 10, 12, 20, 24, 30, 32], [0, 12, 32]
ROWS = [11, 0, 7, 2, 9, 3, 31, 12, 20, 14, 21, 17]
"""Of two pictures, six rows of each in an order of their own; one window is empty."""
SIGNALS = [one for one in Signal.shipped().values() if one.needs is BlockAttention]


def step(within: Within) -> PackedStep:
    torch.manual_seed(0)
    order = Order.of([(1, 6), (1, 6)], torch.tensor(ROWS)[:, None], ascending=False)
    return PackedStep(*torch.randn(3, 1, 2, len(ROWS), 8, dtype=torch.float64), *within, order)


def kinds(bias: Tensor | None) -> dict[str, PackedStep]:
    """The same attention with masks, with padding, and without either."""
    parted, rows = Windows(EDGES, FRAMES, CPU), torch.tensor(ROWS)
    assert parted.inside
    assert not parted.whole
    made: dict[str, Pictures | Segments] = {
        "masked": Pictures.of([(1, 6), (1, 6)], bias, parted.number[rows]),
        "padded": parted.segments(rows, [6, 6], 2),
        "exact": parted.segments(rows, [6, 6]),
    }
    return {name: step((one, one.biases(bias))) for name, one in made.items()}


@pytest.mark.parametrize("biased", [False, True])
def test_masks_and_padding_change_neither_attention_nor_signals(biased: bool) -> None:
    bias = torch.linspace(-1, 1, len(ROWS), dtype=torch.float64) if biased else None
    steps = kinds(bias)
    heads = torch.stack([steps["exact"].query, steps["exact"].key, steps["exact"].value])
    number = torch.tensor([max(n for n, edge in enumerate(EDGES) if edge <= r) for r in ROWS])
    expected = torch.zeros_like(heads[0])
    for one in number.unique():
        own = number == one
        query, key, value = heads[..., own, :]
        logits = query @ key.mT / 8**0.5 + (0 if bias is None else bias[own])
        expected[..., own, :] = logits.softmax(dim=-1) @ value
    whole = steps["exact"].read(SIGNALS)
    for name, made in steps.items():
        torch.testing.assert_close(made.attended(made.order), expected, msg=name)
        known = [one for one in SIGNALS if name != "masked" or one.compute in MASKED]
        for found, wanted in zip(made.read(known), whole, strict=True):
            for signal, value in found.items():
                torch.testing.assert_close(value, wanted[signal], atol=1e-6, rtol=1e-5, msg=signal)


def test_padding_stays_within_twice_the_rows_and_calls_are_few() -> None:
    lengths = [64, 1, 3, 30, 0, 60, 2, 8, 64, 17]
    made = Segments.grouped(lengths, CPU, padded=2)
    assert sum(rows.numel() for rows in made.rows) <= 2 * sum(lengths)
    assert len(made.rows) <= 5
    once = Segments.grouped([64, 40, 24, 64], CPU, padded=2)
    assert [tuple(rows.shape) for rows in once.rows] == [(4, 64)]
    values = torch.arange(float(sum(lengths)))
    assert torch.equal(made.join(made.split(values)), values)


def test_masks_have_strides_that_kernels_take_as_they_are() -> None:
    window = torch.arange(10) // 3
    made = Pictures.of([(1, 10)], None, window)
    (mask,) = made._masks(torch.bfloat16)
    assert mask.shape == (1, 10, 10)
    assert mask.stride(1) % 16 == 0
    assert torch.equal(mask[0] == 0, window[:, None] == window)


FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"]
STAGES = {
    "drop": [
        {"strategy": "random", "layer": 0, "keep": 0.5},
        {"strategy": "fopru", "layer": 2, "keep": 0.3},
    ],
    "merge": [{"strategy": "evoprune", "layers": [0, 1], "keep": 0.55}],
    "revive": [{"strategy": "ipcv", "layer": 2, "keep": 0.5}],
}


@pytest.mark.parametrize("grids", [GRIDS, GRIDS[:1], GRIDS[3:]], ids=["several", "one", "clip"])
@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_blocks_by_halves_give_what_they_give_by_themselves(
    family: str,
    stages: list[dict[str, Any]],
    grids: tuple[tuple[int, int, int], ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """States too, in the order of the sequence; windows hidden, padded, and by themselves."""
    model = tower(family, torch.float64)
    given = call(grids_of(family, grids), torch.float64)
    begin, looping = packed_state.PackedState.begin, [True]

    def begun(*rest: Any, **more: Any) -> Any:
        return begin(*rest, **more | {"loops": more["loops"] and looping[0]})

    monkeypatch.setattr(packed_state.PackedState, "begin", begun)
    with tokenprune.attach(model, plan(*stages)):
        made = []
        for allowed in (LAUNCHING, replace(LAUNCHING, longest=0), Allowance(0, 0, 1)):
            monkeypatch.setitem(BY_TYPE, "cpu", allowed)
            made.append(model(**given))
        looping[0] = False
        expected = model(**given)
    for found in made:
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
        torch.testing.assert_close(found.pooler_output, expected.pooler_output)


@torch.no_grad()
def test_blocks_with_something_hung_on_their_attention_run_as_they_are() -> None:
    """Here a hook, which is told of each block behind the site."""
    model, given, seen = tower(), call(), []
    stage = {"strategy": "uniform", "layer": 1, "keep": 0.5}
    hook = model.blocks[2].attn.register_forward_hook(lambda *_: seen.append(None))
    try:
        with tokenprune.attach(model, plan(stage)):
            model(**given)
    finally:
        hook.remove()
    assert len(seen) == 1
