"""`sparsevlm` against loops over the steps of its page."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.sparsevlm import SparseVLM
from tokenprune_strategies.sparsevlm.raters import RATERS
from tokenprune_strategies.sparsevlm.recycling import clusters, kept_of
from tokenprune_strategies.sparsevlm.strategy import steps
from torch import Tensor

from tests.strategies.cases import best_by_loops, budget, make_tokens
from tests.strategies.loops import mean
from tests.strategies.sparsevlm_oracle import PLACE, raters_by_loops
from tokenprune.errors import BudgetError, LayerError, UnsupportedCallError
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens
from tokenprune.plan.budget import decoder_keeps

FRONT, SITE = Site("decoder", 0, 32), Site("decoder", 3, 32)


def picture(hidden: Tensor, text: Tensor, site: Site = SITE) -> Tokens:
    signals = {Signal.TEXT_STATES: text, Signal.TEXT_PLACE: PLACE}
    if site.layer:
        signals[Signal.TEXT_ATTENTION] = torch.rand(3, 5, hidden.shape[1])
    return make_tokens(hidden, site=site, signals=signals)


def clusters_by_loops(states: list[list[float]], count: int) -> list[list[int]]:
    """Members of each cluster, by centre."""
    everyone = range(len(states))
    away = [[math.dist(a, b) / math.sqrt(len(a)) for b in states] for a in states]
    spread = [sum(v * v for v in sorted(row)[:count]) / min(count, len(row)) for row in away]
    farthest = max(max(row) for row in away)
    peak = []
    for i in everyone:
        denser = [j for j in everyone if (spread[j], j) < (spread[i], i)]
        peak.append(math.exp(-spread[i]) * min((away[i][j] for j in denser), default=farthest))
    centres = sorted(best_by_loops(peak, count))
    found: dict[int, list[int]] = {centre: [] for centre in centres}
    for i in everyone:
        near = best_by_loops([-away[i][centre] for centre in centres], 1)[0]
        found[i if i in found else centres[near]].append(i)
    return list(found.values())


@given(st.integers(0, 10**6), st.sampled_from(["raster", "paper"]), st.data())
@settings(deadline=None, max_examples=30)
def test_a_step_against_loops(seed: int, order: str, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(3, 60))
    keep = data.draw(st.integers(clusters(count), count - 1))
    hidden, text = torch.randn(3, count, 3), torch.randn(3, 5, 3)
    tokens = picture(hidden, text)
    answer = SparseVLM.from_params(order=order).reduce(tokens, budget(tokens, keep))
    states = answer.apply(hidden, tokens.size)
    assert states.shape[1] == keep
    kept = max(k for k in range(keep + 1) if k + int((int(0.3 * (count - k)) + 1) / 10) + 1 == keep)
    for sample in range(3):
        rows = hidden[sample].tolist()
        rating = raters_by_loops(rows, text[sample].tolist(), PLACE[sample].tolist())
        assert answer.riders[RATERS][sample, 0].nonzero()[:, 0].tolist() == rating
        weights = tokens.signal(Signal.TEXT_ATTENTION)[sample][rating].mean(0).tolist()
        ranked = best_by_loops(weights, count)
        used = ranked[kept : kept + int(0.3 * (count - kept)) + 1]
        groups = clusters_by_loops([rows[token] for token in used], keep - kept)
        made = [mean([rows[used[member]] for member in group]) for group in groups]
        found = states[sample].tolist()
        if order == "paper":
            want = [rows[token] for token in sorted(ranked[:kept])] + made
            torch.testing.assert_close(torch.tensor(found), torch.tensor(want))
        else:
            want = sorted([rows[token] for token in ranked[:kept]] + made)
            torch.testing.assert_close(torch.tensor(sorted(found)), torch.tensor(want))


def test_raters_of_the_first_step_hold_in_later_ones() -> None:
    torch.manual_seed(1)
    strategy, hidden, text = SparseVLM.from_params(), torch.randn(3, 30, 3), torch.randn(3, 5, 3)
    front = picture(hidden, text, FRONT)
    assert strategy.signals(FRONT) == (Signal.TEXT_STATES, Signal.TEXT_PLACE)
    looked = strategy.reduce(front, budget(front, 30))
    assert not looked.changes
    note = looked.riders[RATERS]
    assert note.shape == (3, 30, 5)
    later = picture(torch.randn(3, 30, 3), torch.randn(3, 5, 3))
    found = strategy.reduce(replace(later, riders=looked.riders), budget(later, 12))
    assert torch.equal(found.riders[RATERS], note)
    assert not torch.equal(strategy.reduce(later, budget(later, 12)).riders[RATERS], note)


def test_where_text_left_in_between_raters_are_chosen_anew() -> None:
    torch.manual_seed(1)
    strategy, hidden = SparseVLM.from_params(recycle=False), torch.randn(3, 30, 3)
    front = picture(hidden, torch.randn(3, 5, 3), FRONT)
    looked = strategy.reduce(front, budget(front, 30)).riders
    # of the first prompt's text the second token has left, and the numbers behind it mean others
    place, text = torch.tensor([[0, 1, 1, 1], *PLACE[1:, :4].tolist()]), torch.randn(3, 4, 3)
    signals = {Signal.TEXT_STATES: text, Signal.TEXT_PLACE: place}
    weights = signals[Signal.TEXT_ATTENTION] = torch.rand(3, 4, 30)
    later = make_tokens(hidden, site=SITE, signals=signals)
    found = strategy.reduce(replace(later, riders=looked), budget(later, 12))
    anew = raters_by_loops(hidden[0].tolist(), text[0].tolist(), place[0].tolist())
    noted = [row.nonzero()[:, 0].tolist() for row in looked[RATERS][:, 0]]
    assert anew != noted[0]
    assert found.anchor is not None
    for sample, rating in enumerate([anew, *noted[1:]]):
        best = best_by_loops(weights[sample][rating].mean(0).tolist(), 12)
        assert found.anchor[sample].tolist() == sorted(best)


@pytest.mark.parametrize(
    "kept", [(300, 200, 110), (303, 110, 36), (238, 48, 26), (66, 30, 17)], ids=str
)
def test_the_codes_lists_with_what_is_recycled(kept: tuple[int, ...]) -> None:
    count = 576
    for number in kept:
        keep = number + clusters(count - number)
        assert kept_of(count, keep) == number
        count = keep


def test_steps_are_the_papers_layers_and_its_largest_budget() -> None:
    found = steps(32)
    at = [step.layer for step in found]
    assert at == [0, 3, 7, 16]
    assert decoder_keeps([step.keep for step in found], at, 576, 32) == (576, 309, 204, 113)
    assert [step.layer for step in steps(4)] == [0, 1, 2]
    assert math.prod(step.keep for step in steps(4)) == pytest.approx(113 / 576)


def test_without_recycling_the_best_stay() -> None:
    tokens = picture(torch.randn(3, 20, 3), torch.randn(3, 5, 3))
    found = SparseVLM.from_params(recycle=False).reduce(tokens, budget(tokens, 1))
    assert found.created is None
    assert found.anchor is not None
    assert found.anchor.shape == (3, 1)


def test_what_cannot_be_is_refused() -> None:
    strategy = SparseVLM.from_params()
    with pytest.raises(BudgetError) as caught:
        strategy.check(SITE, Budget(576, 10), (1, 24, 24))
    assert caught.value.nearest == 18
    with pytest.raises(LayerError, match="layer before"):
        strategy.check(FRONT, Budget(576, 100), (1, 24, 24))
    strategy.check(FRONT, Budget(576, 576), (1, 24, 24))


def test_a_prompt_without_text_is_refused() -> None:
    nothing = {
        Signal.TEXT_STATES: torch.zeros(2, 0, 4),
        Signal.TEXT_PLACE: torch.zeros(2, 0, dtype=torch.int64),
        Signal.TEXT_ATTENTION: torch.zeros(2, 0, 6),
    }
    tokens = make_tokens(torch.randn(2, 6, 4), site=SITE, signals=nothing)
    with pytest.raises(UnsupportedCallError, match="no text"):
        SparseVLM.from_params().reduce(tokens, budget(tokens, 3))


def test_a_prompt_without_text_beside_one_with_text_keeps_the_first_tokens() -> None:
    torch.manual_seed(0)
    signals = {
        Signal.TEXT_STATES: torch.randn(2, 3, 4),
        Signal.TEXT_PLACE: torch.tensor([[0, 1, 1], [-1, -1, -1]]),
        Signal.TEXT_ATTENTION: torch.rand(2, 3, 6),
    }
    hidden = torch.randn(2, 6, 4)
    tokens = make_tokens(hidden, site=SITE, signals=signals)
    strategy = SparseVLM.from_params(recycle=False)
    both = strategy.reduce(tokens, budget(tokens, 2))
    first = {name: value[:1] for name, value in signals.items()}
    alone = make_tokens(hidden[:1], site=SITE, signals=first)
    one = strategy.reduce(alone, budget(alone, 2))
    assert both.score is not None
    assert one.score is not None
    assert both.anchor is not None
    assert one.anchor is not None
    assert torch.equal(both.score[:1], one.score)
    assert torch.equal(both.anchor[:1], one.anchor)
    assert both.anchor[1].tolist() == [0, 1]
    assert torch.equal(both.score[1], torch.zeros(6))
