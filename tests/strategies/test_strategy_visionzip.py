"""`visionzip` against loops over the steps of its page."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenprune_strategies.visionzip import VisionZip
from torch import Tensor

from tests.strategies.cases import (
    SITES,
    axis_vectors,
    best_by_loops,
    budget,
    cosine,
    make_tokens,
)
from tokenprune.errors import BudgetError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens


def picture(hidden: Tensor, score: Tensor, keys: Tensor) -> Tokens:
    prefix = 100 + torch.arange(2.0)[None, :, None].expand(len(hidden), -1, hidden.shape[2])
    signals = {Signal.CLS_ATTENTION: score, Signal.KEYS: keys, Signal.PREFIX_FEATURES: prefix}
    return make_tokens(hidden, site=SITES["pre_llm"], signals=signals)


def answer(tokens: Tokens, keep: int, **params: object) -> Reduction:
    return VisionZip.from_params(**params).reduce(tokens, budget(tokens, keep))


Group = tuple[int, list[int]]


def by_loops(score: list[float], keys: list[list[float]], keep: int, share: float) -> list[Group]:
    """Dominant tokens, then targets, each with the members that join it."""
    made = int(keep * share)
    dominant = sorted(best_by_loops(score, keep - made))
    rest = [token for token in range(len(score)) if token not in dominant]
    if not made:
        return [(token, []) for token in dominant]
    step = max(1, len(rest) // made)
    targets = rest[::step][:made]
    joined: dict[int, list[int]] = {token: [] for token in targets}
    for token in rest:
        if token not in targets:
            likeness = [cosine(keys[token], keys[target]) for target in targets]
            joined[targets[best_by_loops(likeness, 1)[0]]].append(token)
    return [(token, []) for token in dominant] + list(joined.items())


def state(hidden: list[list[float]], group: Group) -> list[float]:
    token, members = group
    extra = [0.0] * len(hidden[0])
    for member in members:
        extra = [a + b / len(members) for a, b in zip(extra, hidden[member], strict=True)]
    return [a + b for a, b in zip(hidden[token], extra, strict=True)]


@pytest.mark.parametrize("order", ["raster", "paper"])
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.15625, 0.5, 1.0]), st.data())
@settings(deadline=None, max_examples=30)
def test_against_loops(order: str, seed: int, share: float, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(2, 40))
    keep = data.draw(st.integers(1, count - 1))
    hidden, score = torch.randn(2, count, 5), torch.rand(2, count)
    keys = torch.stack([axis_vectors(count, 3, seed), torch.randn(count, 3)])  # with and without
    tokens = picture(hidden, score, keys)
    found = answer(tokens, keep, contextual=share, order=order)
    states = found.apply(hidden, tokens.size)
    assert found.anchor is not None
    assert found.slot is not None
    for sample in range(2):
        groups = by_loops(score[sample].tolist(), keys[sample].tolist(), keep, share)
        if order == "raster":
            groups = sorted(groups)
        places = [token for token, _ in groups]
        if order == "paper":
            places = list(range(keep))
        assert found.anchor[sample].tolist() == places
        want = torch.tensor([state(hidden[sample].tolist(), group) for group in groups])
        torch.testing.assert_close(states[sample], want)
        slots = {t: n for n, (token, more) in enumerate(groups) for t in (token, *more)}
        assert found.slot[sample].tolist() == [slots.get(t, -1) for t in range(count)]


@pytest.mark.parametrize("share", [0.0, 0.15625, 1.0])
@pytest.mark.parametrize("keep", [2, 7, 13, 19])
def test_the_class_token_is_the_first_of_the_dominant_ones(keep: int, share: float) -> None:
    torch.manual_seed(keep)
    hidden, score, keys = torch.randn(2, 20, 5), torch.rand(2, 20), torch.randn(2, 20, 3)
    tokens = picture(hidden, score, keys)
    found = answer(tokens, keep, order="paper", class_token=True, contextual=share)
    states = found.apply(hidden, tokens.size)
    assert states.shape[1] == keep
    assert (states[:, 0] == 100).all()
    assert found.slot is not None
    assert (found.slot != 0).all()  # no patch is part of it
    made = min(int(keep * share), keep - 1)
    for sample in range(2):
        rows = score[sample].tolist(), keys[sample].tolist()
        groups = by_loops(*rows, keep - 1, made / (keep - 1) + 1e-9)
        for number, group in enumerate(groups, start=1):
            want = torch.tensor(state(hidden[sample].tolist(), group))
            torch.testing.assert_close(states[sample, number], want)


def test_the_class_token_needs_company_and_the_papers_order() -> None:
    strategy = VisionZip.from_params(class_token=True, order="paper")
    with pytest.raises(BudgetError) as caught:
        strategy.check(SITES["pre_llm"], Budget(576, 1), (1, 24, 24))
    assert caught.value.nearest == 2
    with pytest.raises(ValidationError, match="order: paper"):
        VisionZip.from_params(class_token=True)


@pytest.mark.parametrize(("keep", "dominant"), [(192, 162), (128, 108), (64, 54), (32, 27)])
def test_the_papers_budgets(keep: int, dominant: int) -> None:
    assert keep - int(keep * VisionZip.from_params().params.contextual) == dominant


def test_nothing_is_dropped_and_sizes_add_up() -> None:
    torch.manual_seed(0)
    tokens = picture(torch.randn(2, 36, 4), torch.rand(2, 36), torch.randn(2, 36, 3))
    found = answer(tokens, 13)
    assert found.slot is not None
    assert (found.slot >= 0).all()
    assert torch.equal(found.sizes(tokens.size).sum(dim=1), torch.full((2,), 36.0))


def test_dominant_tokens_go_on_bit_for_bit_in_half_precision() -> None:
    hidden = torch.randn(1, 24, 4, dtype=torch.bfloat16)
    tokens = picture(hidden, torch.rand(1, 24), torch.randn(1, 24, 3))
    found = answer(tokens, 16, order="paper")
    dominant = sorted(best_by_loops(tokens.signal(Signal.CLS_ATTENTION)[0].tolist(), 14))
    assert torch.equal(found.apply(hidden, tokens.size)[0, :14], hidden[0, dominant])
