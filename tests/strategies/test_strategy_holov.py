"""`holov` against loops over the steps of its page."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.holov import HoloV, allotted
from torch import Tensor

from tests.strategies.cases import SITES, best_by_loops, budget, make_tokens
from tests.strategies.loops import dot
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal


def answer(hidden: Tensor, score: Tensor, keep: int, **params: Any) -> Reduction:
    signals = {Signal.CLS_ATTENTION: score}
    tokens = make_tokens(hidden, site=SITES["pre_llm"], signals=signals)
    return HoloV.from_params(**params).reduce(tokens, budget(tokens, keep))


def weight(hidden: list[list[float]], attention: list[float]) -> float:
    count = len(hidden)
    if count == 1:
        return attention[0]
    unit = [[x / (math.hypot(*row) + 1e-6) for x in row] for row in hidden]
    spread = []
    for i in range(count):
        alike = [0.0 if i == j else dot(unit[i], unit[j]) for j in range(count)]
        mean = sum(alike) / (count - 1)
        spread.append(sum((one - mean) ** 2 for one in alike) / (count - 1))
    look = [1000 * a for a in attention]
    level = (sum(look) / count) / (sum(spread) / count + 1e-6)
    return sum(a + 0.09 * v * level for a, v in zip(look, spread, strict=True)) / count


def quotas(weights: list[float], room: list[int], keep: int) -> list[int]:
    total = sum(weights) + 1e-6
    share = [math.floor(w / total * keep) for w in weights]
    heaviest = best_by_loops(weights, len(weights))
    for part in heaviest[: keep - sum(share)]:
        share[part] += 1
    quota = [min(pair) for pair in zip(share, room, strict=True)]
    for part in heaviest:
        quota[part] += min(room[part] - quota[part], keep - sum(quota))
    return quota


def by_loops(hidden: list[list[float]], score: list[float], keep: int, chunks: int) -> list[int]:
    """What stays, in the paper's order."""
    short, longer = divmod(len(score), chunks)
    sizes = [short + (part < longer) for part in range(chunks)]
    parts, begin = [], 0
    for size in sizes:
        parts += [list(range(begin, begin + size))] if size else []
        begin += size
    weights = [weight([hidden[i] for i in part], [score[i] for i in part]) for part in parts]
    found: list[int] = []
    for part, quota in zip(parts, quotas(weights, [*map(len, parts)], keep), strict=True):
        best = [part[n] for n in best_by_loops([score[i] for i in part], quota)]
        found += part if quota == len(part) else best
    return found


@pytest.mark.parametrize("order", ["raster", "paper"])
@given(st.integers(0, 10**6), st.sampled_from([1, 4, 16]), st.data())
@settings(deadline=None, max_examples=30)
def test_against_loops(order: str, seed: int, chunks: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(2, 50))
    keep = data.draw(st.integers(1, count - 1))
    # Equal weights of parts are a matter of rounding, so ties are for a single part.
    levels = 4 if chunks == 1 and seed % 2 else 10**6
    hidden, score = torch.randn(2, count, 5), torch.randint(1, levels, (2, count)) / levels
    found = answer(hidden, score, keep, chunks=chunks, order=order)
    states = found.apply(hidden, torch.ones(2, count))
    for sample in range(2):
        want = by_loops(hidden[sample].tolist(), score[sample].tolist(), keep, chunks)
        want = sorted(want) if order == "raster" else want
        assert torch.equal(states[sample], hidden[sample, want])
        assert found.slot is not None
        slots = {token: place for place, token in enumerate(want)}
        assert found.slot[sample].tolist() == [slots.get(token, -1) for token in range(count)]


def test_what_a_part_has_no_room_for_goes_to_the_heaviest_that_has() -> None:
    weights, room = torch.tensor([[8.0, 1.0, 1.0]]), torch.tensor([[2.0, 3.0, 9.0]])
    # 8, 1, 1 of 10, then 2, 1, 1: six are over, two of them fit into the second part
    assert allotted(weights, room, 10).tolist() == [[2, 3, 5]]
