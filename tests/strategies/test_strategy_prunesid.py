"""`prunesid` against loops over the steps of its page."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.prunesid import PruneSID
from tokenprune_strategies.prunesid.groups import principal
from tokenprune_strategies.prunesid.quotas import quotas, rounded
from torch import Tensor

from tests.strategies.cases import SITES, best_by_loops, budget, cosine, make_tokens
from tests.strategies.loops import dot
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal

Rows = list[list[float]]


def answer(hidden: Tensor, keep: int, looks: Tensor | None = None, **params: Any) -> Reduction:
    signals = {} if looks is None else {Signal.CLS_ATTENTION: looks}
    tokens = make_tokens(hidden, site=SITES["pre_llm"], signals=signals)
    return PruneSID.from_params(**params).reduce(tokens, budget(tokens, keep))


def eigenvectors(matrix: Rows) -> list[tuple[float, list[float]]]:
    """Eigenvalues, the largest first, with their vectors, by Jacobi's rotations."""
    size = len(matrix)
    a = [row[:] for row in matrix]
    v = [[float(i == j) for j in range(size)] for i in range(size)]
    for _ in range(30):
        for p, q in itertools.combinations(range(size), 2):
            if not a[p][q]:
                continue
            angle = 0.5 * math.atan2(2 * a[p][q], a[q][q] - a[p][p])
            cos, sin = math.cos(angle), math.sin(angle)
            for rows in (a, v):
                for row in rows:
                    row[p], row[q] = cos * row[p] - sin * row[q], sin * row[p] + cos * row[q]
            for n in range(size):
                a[p][n], a[q][n] = cos * a[p][n] - sin * a[q][n], sin * a[p][n] + cos * a[q][n]
    found = [(a[n][n], [v[i][n] for i in range(size)]) for n in range(size)]
    return sorted(found, key=lambda pair: -pair[0])


def grouped(rows: Rows, count: int) -> tuple[list[int], list[float]]:
    """The group of every token, and its part of that direction."""
    squashed = [[1 / (1 + math.exp(-x)) for x in row] for row in rows]
    centred = [[x - sum(row) / len(row) for x in row] for row in squashed]
    gram = [[dot(one, two) for two in centred] for one in centred]
    rank = min(len(rows), len(rows[0]) - 1)  # centring leaves one channel less
    directions = [vector for _, vector in eigenvectors(gram)[: min(count, rank)]]
    number, part = [], []
    for token in range(len(rows)):
        parts = [abs(vector[token]) for vector in directions]
        number.append(best_by_loops(parts, 1)[0])
        part.append(parts[number[-1]])
    return number, part


def shared(size: list[int], distinct: list[int], keep: int) -> list[int]:
    """The quotas, step by step as in the code."""
    most = [min(5 * math.ceil(keep / 64), s, d) for s, d in zip(size, distinct, strict=True)]
    while sum(most) < keep:
        most = [min(m + 1, s) for m, s in zip(most, size, strict=True)]
    least = [min(1, s) for s in size]
    others, ends = keep - sum(least), [0]
    for end in itertools.accumulate(distinct):
        ends.append(round(Fraction(end * others, sum(distinct))))
    given = [least[g] + ends[g + 1] - ends[g] for g in range(len(size))]
    found = [min(pair) for pair in zip(given, most, strict=True)]
    for group in best_by_loops([float(d) for d in distinct], len(size)):
        found[group] += min(most[group] - found[group], keep - sum(found))
    return found


def by_loops(rows: Rows, keep: int, score: list[float] | None, each: int, times: float) -> Rows:
    """What stays, group by group, in each the best first."""
    count = max(1, keep // each)
    number, part = grouped(rows, count)
    score = score or part
    pairs = [*itertools.combinations(rows, 2)]
    tau = times * keep / len(rows) * sum(cosine(*pair) for pair in pairs) / len(pairs)
    ranked, distinct = [], []
    for group in range(count):
        mine = [token for token in range(len(rows)) if number[token] == group]
        stays: list[int] = []
        repeats: list[int] = []
        for place in best_by_loops([score[token] for token in mine], len(mine)):
            token = mine[place]
            like = any(cosine(rows[token], rows[other]) > tau for other in stays)
            (repeats if like else stays).append(token)
        ranked.append(stays + repeats)
        distinct.append(len(stays))
    own = shared([len(group) for group in ranked], distinct, keep)
    return [group[:quota] for group, quota in zip(ranked, own, strict=True)]


@pytest.mark.parametrize("order", ["raster", "paper"])
@given(
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1.0, 3.0, 18.0]),
    st.data(),
)
@settings(deadline=None, max_examples=25)
def test_against_loops(
    order: str, seed: int, ranked: bool, each: int, times: float, data: st.DataObject
) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(2, 14))
    keep = data.draw(st.integers(1, count - 1))
    # positive features, for a mean cosine above zero; of 6 channels there are fewer than tokens
    hidden = torch.rand(2, count, data.draw(st.sampled_from([6, 20]))) + 0.2
    score = torch.rand(2, count) if ranked else None
    params = {"score": "cls"} if ranked else {}
    found = answer(
        hidden, keep, score, order=order, tokens_per_group=each, threshold=times, **params
    )
    states = found.apply(hidden, torch.ones(2, count))
    for sample in range(2):
        rows = hidden[sample].double().tolist()
        row = None if score is None else score[sample].tolist()
        groups = by_loops(rows, keep, row, each, times)
        want = [token for group in groups for token in group]
        want = sorted(want) if order == "raster" else want
        assert len(want) == keep
        assert torch.equal(states[sample], hidden[sample, want])


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=30), st.data()
)
@settings(deadline=None, max_examples=100)
def test_quotas(groups: list[tuple[int, int]], data: st.DataObject) -> None:
    size = [tokens for tokens, _ in groups]
    size[0] += 1
    distinct = [min(pair[1], tokens) for pair, tokens in zip(groups, size, strict=True)]
    least = sum(min(1, tokens) for tokens in size)
    keep = data.draw(st.integers(least, sum(size)))
    found = quotas(torch.tensor([size, size]), torch.tensor([distinct, distinct]), keep)
    want = shared(size, distinct, keep)
    assert sum(want) == keep
    assert all(own <= tokens for own, tokens in zip(want, size, strict=True))
    assert found.tolist() == [want, want]


def test_halves_are_rounded_to_the_even_number() -> None:
    over, under = torch.arange(1, 60), torch.tensor([4])
    assert rounded(over, under).tolist() == [round(Fraction(n, 4)) for n in range(1, 60)]


def test_the_papers_numbers() -> None:
    # 16 groups for 64 tokens, and a threshold of 64 / 32 times the mean cosine at 576 tokens
    assert PruneSID.from_params().params.threshold * 64 / 576 == 64 / 32
    torch.manual_seed(0)
    assert principal(torch.randn(1, 576, 24), 16).number.max() == 15


def test_pictures_of_one_colour() -> None:
    """Directions without variance take no token, and of equal tokens enough are left."""
    hidden = torch.full((2, 16, 8), 0.3)
    hidden[1] = torch.randn(8, generator=torch.Generator().manual_seed(0))
    found = answer(hidden, 8)
    assert found.anchor is not None
    assert found.anchor.tolist() == [[*range(8)]] * 2
    assert principal(hidden, 4).number.tolist() == [[0] * 16] * 2
