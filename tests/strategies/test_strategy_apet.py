"""`apet` against loops over the steps of its page."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.apet import ApET, residual, spread

from tests.strategies.cases import SITES, axis_vectors, best_by_loops, budget, cosine, make_tokens
from tests.strategies.loops import dot, mean

Rows = list[list[float]]


def by_distance(rows: Rows, count: int) -> list[int]:
    picks = best_by_loops([dot(row, row) for row in rows], 1)
    while len(picks) < count:
        free = [i for i in range(len(rows)) if i not in picks]
        away = [min(math.dist(rows[i], rows[p]) ** 2 for p in picks) for i in free]
        picks.append(free[best_by_loops(away, 1)[0]])
    return sorted(picks)


def errors(rows: Rows, basis: Rows) -> list[float]:
    """Least squares with a ridge, by Gaussian elimination."""
    size, found = len(basis), []
    for row in rows:
        system = [
            [dot(a, b) + 1e-5 * (i == j) for j, b in enumerate(basis)] + [dot(a, row)]
            for i, a in enumerate(basis)
        ]
        for i in range(size):
            pivot = max(range(i, size), key=lambda n: abs(system[n][i]))
            system[i], system[pivot] = system[pivot], system[i]
            for n in range(size):
                if n != i:
                    factor = system[n][i] / system[i][i]
                    system[n] = [a - factor * b for a, b in zip(system[n], system[i], strict=True)]
        weights = [line[-1] / line[i] for i, line in enumerate(system)]
        near = [sum(w * b[c] for w, b in zip(weights, basis, strict=True)) for c in range(len(row))]
        found.append(math.dist(row, near))
    return found


@given(st.integers(0, 10**6), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=40)
def test_against_loops(seed: int, size: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(2, 16))
    keep = data.draw(st.integers(1, count - 1))
    hidden = torch.randn(2, count, 7)  # wider than any basis, so that every error is above zero
    tokens = make_tokens(hidden, site=SITES["pre_llm"])
    found = ApET.from_params(basis=size).reduce(tokens, budget(tokens, keep))
    states = found.apply(hidden, tokens.size)
    assert found.anchor is not None
    for sample in range(2):
        rows = hidden[sample].double().tolist()
        basis = by_distance(rows, min(size, keep))
        error = [
            0.0 if i in basis else e for i, e in enumerate(errors(rows, [rows[i] for i in basis]))
        ]
        top = best_by_loops(error, keep)
        targets, seats = sorted(top[: keep - len(basis)]), sorted(top[keep - len(basis) :])
        if keep > count - len(basis):
            continue  # tokens of the basis themselves have errors of rounding alone
        groups = {target: [target] for target in targets}
        for token in range(count):
            if token not in top and targets:
                likeness = [cosine(rows[token], rows[target]) for target in targets]
                groups[targets[best_by_loops(likeness, 1)[0]]].append(token)
        want = {target: mean([rows[i] for i in group]) for target, group in groups.items()}
        want |= {seat: rows[one] for seat, one in zip(seats, basis, strict=True)}
        assert found.anchor[sample].tolist() == sorted(want)
        made = torch.tensor([want[place] for place in sorted(want)], dtype=torch.float32)
        torch.testing.assert_close(states[sample], made, rtol=1e-4, atol=1e-5)


def test_a_basis_of_duplicates_and_ties() -> None:
    for seed in range(8):
        hidden = axis_vectors(12, 3, seed)
        for count in (1, 4, 12):
            assert spread(hidden[None], count)[0].tolist() == by_distance(hidden.tolist(), count)
        assert residual(hidden[None], hidden[None, :4]).isfinite().all()


@pytest.mark.parametrize("length", [1.0, 30.0, 3000.0])
def test_long_tokens_that_are_all_equal_are_approximated(length: float) -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        one = torch.randn(1, 1, 64)
        hidden = (one / one.norm() * length).expand(1, 24, 64).contiguous()
        hidden = hidden * (1 + 1e-7 * torch.randn_like(hidden))
        away = residual(hidden, hidden[:, :10])
        assert (away <= 1e-3 * length).all()


def test_what_the_basis_spans_has_no_error() -> None:
    hidden = torch.cat((torch.eye(3, 5), torch.tensor([[1.0, 2, 3, 0, 0], [0, 0, 0, 2, 0]])))
    found = residual(hidden[None], hidden[None, :3])[0]
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 0, 0, 2]), atol=1e-3, rtol=0)
