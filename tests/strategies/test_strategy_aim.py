"""`aim` against loops over the steps of its page."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.aim import AIM
from tokenprune_strategies.aim.importance import PAGE_RANK, page_rank
from tokenprune_strategies.aim.strategy import line
from torch import Tensor

import tokenprune
from tests import models
from tests.strategies.cases import SITES, best_by_loops, budget, cosine, make_tokens
from tests.strategies.loops import dot, mean
from tests.strategies.videos import GRIDS, Grid, clip
from tokenprune.interface.signals import LayerBefore, PromptText
from tokenprune.plan.budget import decoder_keeps

Group = tuple[int, list[float], dict[int, float]]
"""A place, its state, and the weights of the tokens in it."""


def one_round(groups: list[Group], target: int) -> list[Group]:
    """Even ones propose to odd ones; at most half merge, into plain means of what joins."""
    even, odd = groups[0::2], groups[1::2]
    going = min(len(groups) // 2, len(groups) - target)
    alike = [[cosine(a[1], b[1]) for b in odd] for a in even]
    best = [max(row) if row else -math.inf for row in alike]
    into: dict[int, list[int]] = {}
    for number in best_by_loops(best, going):
        into.setdefault(alike[number].index(best[number]), []).append(number)
    stays = [g for n, g in enumerate(even) if all(n not in some for some in into.values())]
    for number, (place, state, weights) in enumerate(odd):
        joining = [even[n] for n in into.get(number, [])]
        share = 1 / (1 + len(joining))
        shares = {t: w * share for g in joining for t, w in g[2].items()}
        shares |= {token: weight * share for token, weight in weights.items()}
        stays.append((place, mean([state, *(g[1] for g in joining)]), shares))
    return sorted(stays, key=lambda group: group[0])


def by_loops(rows: list[list[float]], index: list[int], inside: int, keep: int) -> list[Group]:
    """Frame by frame, in rounds; places are on the grid."""
    frames = sorted({place // inside for place in range(max(index) + 1)})
    found: list[Group] = []
    before = 0
    for frame in frames:
        mine = [n for n, place in enumerate(index) if place // inside == frame]
        until = before + len(mine)
        target = until * keep // len(index) - before * keep // len(index)
        before = until
        groups: list[Group] = [(index[n], rows[n], {n: 1.0}) for n in mine]
        while target and len(groups) > target:
            groups = one_round(groups, target)
        found += groups if target else []
    return found


@given(GRIDS, st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=60)
def test_merging_in_rounds(grid: Grid, seed: int, data: st.DataObject) -> None:
    full = math.prod(grid)
    count = data.draw(st.just(full) | st.integers(2, full)) if full > 1 else 1
    keep = data.draw(st.integers(1, count))
    generator = torch.Generator().manual_seed(seed)
    order = [torch.randperm(full, generator=generator)[:count].sort().values for _ in range(2)]
    index = torch.stack(order)
    hidden = clip(grid, seed).gather(1, index[..., None].expand(-1, -1, 6))
    tokens = make_tokens(hidden, site=SITES["pre_llm"], index=index, grid=grid)
    answer = AIM.from_params().reduce(tokens, budget(tokens, keep))
    if keep == count:
        assert not answer.changes
        return
    assert answer.anchor is not None
    assert answer.slot is not None
    states = answer.apply(hidden, tokens.size)
    for sample in range(2):
        places = index[sample].tolist()
        want = by_loops(hidden[sample].double().tolist(), places, grid[1] * grid[2], keep)
        assert [places[n] for n in answer.anchor[sample].tolist()] == [g[0] for g in want]
        slots = {token: n for n, group in enumerate(want) for token in group[2]}
        assert answer.slot[sample].tolist() == [slots.get(token, -1) for token in range(count)]
        torch.testing.assert_close(
            states[sample], torch.tensor([g[1] for g in want]), rtol=1e-4, atol=1e-4
        )


def view_of(
    query: Tensor, key: Tensor, valid: Tensor, last: Tensor, cap: float | None
) -> LayerBefore:
    batch, _, length, _ = query.shape
    none = torch.zeros(batch, length, dtype=torch.bool)
    text = PromptText(torch.zeros(batch, length, 1), valid, none, none, last, valid)
    return LayerBefore(lambda rotated: (query, key), text, softcap=cap)


def walked(query: Tensor, key: Tensor, slots: list[int], cap: float | None) -> dict[int, float]:
    """Where walks that begin at these slots end, for one sample `[H, T, d]`."""
    squares = dict.fromkeys(slots, 0.0)
    for head, rows in enumerate(query.double()):
        keys = key.double()[head // (len(query) // len(key))].tolist()
        walk = dict.fromkeys(slots, 1 / len(slots))
        for _ in range(5):
            after = dict.fromkeys(slots, 0.0)
            for slot in slots:
                q = rows[slot].tolist()
                seen = [other for other in slots if other <= slot]
                logits = [dot(q, keys[other]) / math.sqrt(len(q)) for other in seen]
                if cap is not None:
                    logits = [cap * math.tanh(logit / cap) for logit in logits]
                power = [math.exp((logit - max(logits)) / 0.1) for logit in logits]
                for other, value in zip(seen, power, strict=True):
                    after[other] += walk[slot] * value / sum(power)
            walk = after
        for slot in slots:
            squares[slot] += walk[slot] ** 2
    return {slot: math.sqrt(total / len(query)) for slot, total in squares.items()}


@pytest.mark.parametrize("cap", [None, 0.5])
def test_where_walks_end(cap: float | None) -> None:
    query, key = torch.randn(2, 4, 9, 3), torch.randn(2, 2, 9, 3)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, :2] = False
    last = torch.tensor([8, 7])
    found = page_rank(view_of(query, key, valid, last, cap))
    for sample, slots in enumerate([[*range(9)], [*range(2, 8)]]):
        want = walked(query[sample], key[sample], slots, cap)
        row = [want.get(slot, 0.0) for slot in range(9)]
        assert found[sample].tolist() == pytest.approx(row, rel=1e-4, abs=1e-7)


def test_the_most_important_stay() -> None:
    score = torch.randint(6, (3, 12)) / 6
    tokens = make_tokens(torch.randn(3, 12, 4), site=SITES["decoder"], signals={PAGE_RANK: score})
    found = AIM.from_params().reduce(tokens, budget(tokens, 5)).anchor
    assert found is not None
    assert found.tolist() == [sorted(best_by_loops(row, 5)) for row in score.tolist()]


@pytest.mark.parametrize(
    ("layers", "at"),
    [
        (28, [*range(15, 22)]),
        (32, [*range(14, 21)]),
        (40, [*range(21, 31)]),
        (6, [4]),
        (4, [2]),
        (2, [1]),
    ],
)
def test_its_layers(layers: int, at: list[int]) -> None:
    assert [step.layer for step in line(layers)] == at


@pytest.mark.parametrize("layers", [28, 32])
def test_it_goes_down_on_a_line(layers: int) -> None:
    steps = line(layers)
    found = decoder_keeps([s.keep for s in steps], [s.layer for s in steps], 1568, layers)
    assert found == (1372, 1176, 980, 784, 588, 392, 196)


def test_both_stages_and_the_end_of_the_line_in_a_model() -> None:
    model, picture = models.llava_clip(), models.IMAGE_TOKEN
    inputs = models.llava_inputs([[1, picture, 7, 8, 9], [1, picture, 11]])
    stages = [
        {"at": "pre_llm", "strategy": "aim", "keep": 0.25},
        {"at": "decoder", "strategy": "aim"},
        {"at": "decoder", "strategy": "vtw", "layer": 3},
    ]
    with tokenprune.attach(model, {"schema_version": 1, "stages": stages}) as handle:
        with torch.no_grad():
            model(**inputs)
        counts = handle.meter.tokens
    assert counts["pre_llm"] == 9
    assert counts["decoder[2]"] == 4
    assert counts["decoder[3]"] == 0
