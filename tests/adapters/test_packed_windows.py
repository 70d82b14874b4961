"""Windows padded to one length, as one graph needs them, against windows by themselves."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenprune import Signal
from tokenprune.engine.encoder.order import Order
from tokenprune.engine.encoder.packed_signals import PackedStep
from tokenprune.engine.encoder.segments import Segments
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.signals import PADDED, BlockAttention

EDGES = (0, 4, 12, 14, 22, 24)
"""Of five windows."""
MEMBERS = 2
CPU = torch.device("cpu")
SIGNALS = [one for one in Signal.shipped().values() if one.needs is BlockAttention]


def left(units: list[int]) -> Order:
    """The order of some units of one picture."""
    rows = torch.tensor(units)[:, None] * MEMBERS + torch.arange(MEMBERS)
    return Order.of([(1, len(units))], rows)


def lengths(rows: Tensor) -> list[int]:
    """How many rows are left of each window."""
    return [int(((rows >= start) & (rows < end)).sum()) for start, end in pairwise(EDGES)]


def steps(
    units: list[int], *, bias: bool, seed: int = 0
) -> tuple[PackedStep, PackedStep, Tensor | None]:
    """The same attention in padded windows, and in windows by themselves, and its bias."""
    order = left(units)
    torch.manual_seed(seed)
    heads = torch.randn(3, 1, 2, len(order.rows), 8, dtype=torch.float64)
    added = torch.randn(len(order.rows), dtype=torch.float64) if bias else None
    counts = torch.tensor([0, *(n for n in lengths(order.rows) if n)])
    alone = Segments.of(counts.cumsum(0).tolist(), CPU)
    padded = Segments.padded(EDGES, order.rows)
    made = [PackedStep(*heads, one, one.biases(added), order) for one in (padded, alone)]
    return made[0], made[1], added


UNITS = some.lists(some.integers(0, EDGES[-1] // MEMBERS - 1), min_size=1, unique=True).map(sorted)


@settings(max_examples=10, deadline=None)
@given(units=UNITS, bias=some.booleans(), seed=some.integers(0, 99))
def test_padding_changes_neither_attention_nor_signals(
    units: list[int], bias: bool, seed: int
) -> None:
    padded, alone, added = steps(units, bias=bias, seed=seed)
    found = padded.attended(padded.order)
    torch.testing.assert_close(found, alone.attended(alone.order))
    rows, start = [], 0
    for length in lengths(padded.order.rows):
        own = slice(start, start + length)
        query, key, value = (part[:, :, own] for part in (padded.query, padded.key, padded.value))
        mask = None if added is None else added[None, own]
        rows.append(scaled_dot_product_attention(query, key, value, attn_mask=mask))
        start += length
    torch.testing.assert_close(found, torch.cat(rows, dim=2))
    (shown,), (expected,) = padded.read(SIGNALS), alone.read(SIGNALS)
    for name, value in expected.items():
        torch.testing.assert_close(shown[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_gradients_are_those_of_windows_by_themselves() -> None:
    """Of three units, so that windows are empty."""
    found = []
    for step in steps([0, 1, 9], bias=True)[:2]:
        parts = (step.query, step.key, step.value)
        for part in parts:
            part.requires_grad_()
        found.append(torch.autograd.grad(step.attended(step.order).square().sum(), parts))
    torch.testing.assert_close(*found)


def test_every_signal_of_attention_that_ships_knows_padding() -> None:
    assert {signal.compute for signal in SIGNALS} == set(PADDED)


def test_other_signals_of_attention_are_refused_in_padded_windows() -> None:
    padded, alone, _ = steps([0, 3, 4, 8], bias=False)
    own = Signal("own", "[B, N] mean", BlockAttention, lambda view: view.key.mean(dim=(1, 3)))
    assert alone.read([own])[0]["own"].shape == (1, 4)
    with pytest.raises(UnsupportedCallError, match="'own' is computed from windows"):
        padded.read([own])
