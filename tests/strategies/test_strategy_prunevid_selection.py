"""The selection of PruneVid, inside the LLM, against loops."""

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.prunevid import PruneVid
from tokenprune_strategies.prunevid.strategy import SEGMENT
from torch import Tensor

from tests.strategies import prunevid_oracle as oracle
from tests.strategies.cases import SITES, make_tokens
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget, placement
from tokenprune.interface.tokens import Tokens


def asked(
    score: Tensor, grid: tuple[int, int, int], note: Tensor | None = None, keep: int | None = None
) -> tuple[Tokens, Budget]:
    tokens = make_tokens(
        torch.zeros(*score.shape, 2),
        site=SITES["decoder"],
        signals={Signal.QUESTION_ATTENTION_MAX: score},
        grid=grid,
    )
    riders = {} if note is None else {SEGMENT: note}
    count = tokens.count
    return replace(tokens, riders=riders), Budget(count, keep or count, keep is not None)


def kept(tokens: Tokens, budget: Budget, **params: Any) -> list[list[int]]:
    mask = PruneVid.from_params(**params).reduce(tokens, budget).mask
    assert mask is not None
    return [row.nonzero()[:, 0].tolist() for row in mask]


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_selection_in_groups_against_loops(seed: int, twentieths: int, floor: int) -> None:
    alpha = twentieths / 20
    torch.manual_seed(seed)
    score = torch.rand(2, 24).mul(6).round()
    static = torch.randint(0, 2, (2, 24))
    frame = torch.arange(24) // 6
    lag = torch.minimum(torch.randint(0, 2, (2, 24)), frame) * static
    tokens, budget = asked(score, (4, 2, 3), torch.stack((static, lag), dim=-1))
    found = kept(tokens, budget, alpha=alpha, min_keep_per_group=floor)
    for row in range(2):
        groups = [
            2 * (token // 6 - int(lag[row, token])) + int(static[row, token]) for token in range(24)
        ]
        assert found[row] == oracle.stage_b(score[row].tolist(), groups, alpha, floor)


def test_selection_over_the_whole_video() -> None:
    score = torch.tensor([[5.0, 4, 3, 2, 1, 0, 0, 0]])
    tokens, budget = asked(score, (2, 2, 2))
    assert kept(tokens, budget, scope="global") == [[0, 1, 2, 3]]  # ceil(0.4 * 8)
    assert kept(tokens, budget, scope="group") == [[0, 4]]  # int(0.4 * 4) of each frame
    assert kept(tokens, budget, scope="global", alpha=0.5) == [[0, 1, 2, 3]]
    assert kept(tokens, budget, scope="group", alpha=0.1, min_keep_per_group=0) == [[]]


def test_a_budget_of_the_selection_is_met_exactly() -> None:
    score = torch.tensor([[9.0, 8, 7, 6, 1, 0.5, 0, 0]])
    for keep, wanted in ((1, [0]), (2, [0, 4]), (3, [0, 1, 4]), (5, [0, 1, 2, 3, 4])):
        tokens, budget = asked(score, (2, 2, 2), keep=keep)
        assert kept(tokens, budget) == [wanted]
    tokens, budget = asked(score, (2, 2, 2), keep=8)
    assert kept(tokens, budget) == [list(range(8))]


def test_signals_layers_and_cache() -> None:
    strategy = PruneVid.from_params()
    assert strategy.signals(SITES["pre_llm"]) == ()
    assert strategy.signals(SITES["decoder"]) == (Signal.QUESTION_ATTENTION_MAX,)
    assert strategy.trims_cache()
    assert not PruneVid.from_params(trim_cache=False).trims_cache()
    layers = [placement(PruneVid, "decoder").layer_of(count) for count in (2, 4, 8, 28, 32, 80)]
    assert layers == [1, 1, 3, 11, 11, 11]
