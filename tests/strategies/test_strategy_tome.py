from dataclasses import replace

import pytest
import torch
from tokenprune_strategies.tome import ToMe

from tests.strategies import evoprune_oracle as oracle
from tests.strategies.cases import axis_vectors, budget, make_tokens, pairs_of
from tokenprune.errors import BudgetError
from tokenprune.interface.signals import Signal


@pytest.mark.parametrize("metric", ["keys", "hidden"])
@pytest.mark.parametrize(("count", "remove"), [(12, 6), (13, 6), (15, 3), (3, 1)])
def test_against_loops(metric: str, count: int, remove: int) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        hidden, keys = torch.randn(1, count, 7), torch.randn(1, count, 4)
        size = torch.randint(1, 4, (1, count)).float()
        tokens = make_tokens(hidden, signals={Signal.KEYS: keys}, size=size)
        answer = ToMe.from_params(metric=metric).reduce(tokens, budget(tokens, count - remove))
        x = (keys if metric == "keys" else hidden)[0].tolist()
        table = oracle.scores(x, [0.0] * count, 0.0, squash=False)
        wanted = oracle.pairs(x, table, set(), remove, "all")
        assert pairs_of(answer) == set(wanted)
        states, sizes = oracle.merged(hidden[0].tolist(), size[0].tolist(), wanted)
        torch.testing.assert_close(answer.apply(hidden, size)[0], torch.tensor(states))
        assert answer.sizes(size)[0].tolist() == sizes


@pytest.mark.parametrize("seed", range(8))
def test_ties_zeros_and_opposites_against_loops(seed: int) -> None:
    keys = axis_vectors(15, 3, seed)
    tokens = make_tokens(keys[None], signals={Signal.KEYS: keys[None]})
    answer = ToMe.from_params().reduce(tokens, budget(tokens, 9))
    table = oracle.scores(keys.tolist(), [0.0] * 15, 0.0, squash=False)
    assert pairs_of(answer) == set(oracle.pairs(keys.tolist(), table, set(), 6, "all"))
    assert torch.isfinite(answer.apply(tokens.hidden, tokens.size)).all()


def test_many_sources_share_one_target() -> None:
    keys = torch.tensor([[[1.0, 0], [1, 0], [1, 0], [0, 1], [1, 0], [0, -1]]])
    tokens = make_tokens(torch.arange(6.0).view(1, 6, 1), signals={Signal.KEYS: keys})
    answer = ToMe.from_params().reduce(tokens, budget(tokens, 3))
    assert pairs_of(answer) == {(0, 1), (2, 1), (4, 1)}
    assert answer.apply(tokens.hidden, tokens.size).flatten().tolist() == [1.75, 3.0, 5.0]
    assert answer.sizes(tokens.size).tolist() == [[4.0, 1.0, 1.0]]


def test_parameters_decide_signals_and_proportional_attention() -> None:
    tokens = make_tokens(torch.randn(1, 4, 2))
    assert ToMe.from_params().signals(tokens.site) == (Signal.KEYS,)
    assert ToMe.from_params(metric="hidden").signals(tokens.site) == ()
    assert ToMe.from_params().proportional()
    assert not ToMe.from_params(proportional_attention=False).proportional()


@pytest.mark.parametrize(
    ("prefix", "sources"), [(0, {0, 2}), (1, {1, 3}), (2, {0, 2}), (5, {1, 3})]
)
def test_the_papers_parity_counts_what_stands_in_front(prefix: int, sources: set[int]) -> None:
    keys = torch.eye(3)[[0, 0, 1, 1, 2]][None]
    tokens = make_tokens(torch.randn(1, 5, 2), signals={Signal.KEYS: keys})
    tokens = replace(tokens, prefix=torch.zeros(1, prefix, 2))
    answer = ToMe.from_params(parity="paper").reduce(tokens, budget(tokens, 3))
    assert {source for source, _ in pairs_of(answer)} == sources
    ours = ToMe.from_params().reduce(tokens, budget(tokens, 3))
    assert {source for source, _ in pairs_of(ours)} == {0, 2}


def test_more_than_half_is_refused() -> None:
    tokens = make_tokens(torch.randn(1, 7, 2), signals={Signal.KEYS: torch.randn(1, 7, 2)})
    with pytest.raises(BudgetError) as caught:
        ToMe.from_params().reduce(tokens, budget(tokens, 3))
    assert caught.value.nearest == 4
