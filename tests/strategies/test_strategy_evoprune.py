import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenprune_strategies.evoprune import EvoPrune
from tokenprune_strategies.evoprune.scoring import protected_count
from tokenprune_strategies.evoprune.strategy import PROTECTED
from tokenprune_strategies.tome import ToMe
from torch import Tensor

from tests.strategies import evoprune_oracle as oracle
from tests.strategies.cases import axis_vectors, budget, make_tokens, pairs_of
from tokenprune.errors import BudgetError
from tokenprune.interface.signals import Signal
from tokenprune.interface.tokens import Tokens


def picture(seed: int, count: int, dim: int = 5, batch: int = 1) -> tuple[Tokens, Tensor]:
    torch.manual_seed(seed)
    importance = torch.rand(batch, count)
    signals = {
        Signal.ATTENTION_RECEIVED: importance,
        Signal.CLS_ATTENTION: torch.rand(batch, count),
        Signal.KEYS: torch.randn(batch, count, dim),
    }
    size = torch.randint(1, 5, (batch, count)).float()
    return make_tokens(torch.randn(batch, count, dim), signals=signals, size=size), importance


def expected_pairs(
    x: Tensor, importance: Tensor, remove: int, **params: Any
) -> list[tuple[int, int]]:
    strategy = EvoPrune.from_params(**params).params
    kept = oracle.protected(importance.tolist(), remove, strategy.critical_token_ratio)
    tau = None if strategy.tau == "auto" else strategy.tau
    d = oracle.density(x.tolist(), strategy.neighbours, tau)
    squash = strategy.similarity == "halved"
    score = oracle.scores(x.tolist(), d, strategy.diversity_weight, squash)
    return oracle.pairs(x.tolist(), score, kept, remove, strategy.partition)


@pytest.mark.parametrize(
    ("count", "remove", "ratio", "protected"),
    [
        (576, 38, 0.25, 144),  # CTR T is the smaller
        (64, 30, 0.25, 4),  # T - 2r is the smaller
        (9, 4, 0.25, 1),
        (10, 5, 0.25, 0),
        (9, 5, 0.25, 0),  # T - 2r is negative
        (30, 1, 0.1, 3),  # 0.1 * 30 is 3.0000000000000004 or 2.9999999999999996
        (7, 1, 0.0, 0),
        (8, 1, 1.0, 6),
    ],
)
def test_protected_count(count: int, remove: int, ratio: float, protected: int) -> None:
    assert protected_count(count, remove, ratio) == protected


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"partition": "all"},
        {"tau": "auto", "neighbours": 3},
        {"tau": 0.5, "diversity_weight": 4.0},
        {"similarity": "plain", "diversity_weight": 0.3},
        {"critical_token_ratio": 0.6, "partition": "all"},
        {"critical_token_ratio": 0.9, "neighbours": 100},
    ],
)
@pytest.mark.parametrize(("count", "remove"), [(12, 6), (13, 6), (17, 4), (5, 1), (2, 1)])
def test_pairs_against_loops(params: dict[str, Any], count: int, remove: int) -> None:
    for seed in range(5):
        tokens, importance = picture(seed, count)
        answer = EvoPrune.from_params(**params).reduce(tokens, budget(tokens, count - remove))
        wanted = expected_pairs(tokens.hidden[0], importance[0], remove, **params)
        assert pairs_of(answer) == set(wanted)
        states, sizes = oracle.merged(tokens.hidden[0].tolist(), tokens.size[0].tolist(), wanted)
        merged = answer.apply(tokens.hidden, tokens.size)[0]
        torch.testing.assert_close(merged, torch.tensor(states), atol=1e-5, rtol=1e-5)
        assert answer.sizes(tokens.size)[0].tolist() == sizes


def test_keys_and_class_token_take_the_place_of_states_and_patches() -> None:
    tokens, _ = picture(3, 14)
    strategy = EvoPrune.from_params(metric="keys", importance="cls")
    assert set(strategy.signals(tokens.site)) == {Signal.KEYS, Signal.CLS_ATTENTION}
    answer = strategy.reduce(tokens, budget(tokens, 9))
    keys, cls = tokens.signal(Signal.KEYS)[0], tokens.signal(Signal.CLS_ATTENTION)[0]
    assert pairs_of(answer) == set(expected_pairs(keys, cls, 5))


@given(st.integers(0, 10**6), st.integers(2, 24), st.data())
@settings(deadline=None, max_examples=60)
def test_without_its_terms_it_picks_the_pairs_of_tome(
    seed: int, count: int, data: st.DataObject
) -> None:
    remove = data.draw(st.integers(1, count // 2))
    tokens, _ = picture(seed, count)
    bare = EvoPrune.from_params(critical_token_ratio=0, diversity_weight=0, metric="keys")
    tome = ToMe.from_params()
    keep = budget(tokens, count - remove)
    assert bare.signals(tokens.site) == tome.signals(tokens.site)
    assert pairs_of(bare.reduce(tokens, keep)) == pairs_of(tome.reduce(tokens, keep))


def test_attention_off_protects_nothing() -> None:
    tokens, _ = picture(1, 16)
    off = EvoPrune.from_params(attention=False)
    zero = EvoPrune.from_params(critical_token_ratio=0)
    assert off.signals(tokens.site) == ()
    keep = budget(tokens, 10)
    assert pairs_of(off.reduce(tokens, keep)) == pairs_of(zero.reduce(tokens, keep))
    assert pairs_of(off.reduce(tokens, keep)) != pairs_of(
        EvoPrune.from_params().reduce(tokens, keep)
    )


@pytest.mark.parametrize("partition", ["unprotected", "all"])
@given(seed=st.integers(0, 10**6), count=st.integers(2, 24), data=st.data())
@settings(deadline=None, max_examples=40)
def test_count_sizes_and_weighted_sum_hold(
    partition: str, seed: int, count: int, data: st.DataObject
) -> None:
    remove = data.draw(st.integers(1, count // 2))
    tokens, importance = picture(seed, count, batch=2)
    strategy = EvoPrune.from_params(partition=partition, critical_token_ratio=0.5)
    answer = strategy.reduce(tokens, budget(tokens, count - remove))
    assert answer.length == count - remove
    merged, sizes = answer.apply(tokens.hidden, tokens.size), answer.sizes(tokens.size)
    assert torch.equal(sizes.sum(1), tokens.size.sum(1))
    before = (tokens.hidden * tokens.size[..., None]).sum(1)
    torch.testing.assert_close((merged * sizes[..., None]).sum(1), before, atol=1e-3, rtol=1e-4)
    if partition == "unprotected":
        assert answer.anchor is not None
        for sample in range(2):
            kept = oracle.protected(importance[sample].tolist(), remove, 0.5)
            place = {token: slot for slot, token in enumerate(answer.anchor[sample].tolist())}
            for token in kept:  # bit-identical
                assert torch.equal(merged[sample, place[token]], tokens.hidden[sample, token])


def test_too_few_free_pairs_are_topped_up_by_the_best_of_the_others() -> None:
    torch.manual_seed(0)
    importance = torch.tensor([[9.0, 1, 8, 2, 7, 3, 0, 4]])  # three of the four even places
    hidden = torch.randn(1, 8, 4)
    tokens = make_tokens(hidden, signals={Signal.ATTENTION_RECEIVED: importance})
    strategy = EvoPrune.from_params(partition="all", critical_token_ratio=0.5)
    answer = strategy.reduce(tokens, budget(tokens, 6))
    chosen = pairs_of(answer)
    assert len(chosen) == 2
    assert {source for source, _ in chosen} & {6}  # the only free source goes first
    params = {"partition": "all", "critical_token_ratio": 0.5}
    assert chosen == set(expected_pairs(hidden[0], importance[0], 2, **params))


@pytest.mark.parametrize("partition", ["unprotected", "all"])
@pytest.mark.parametrize("seed", range(6))
def test_duplicates_zeros_and_opposites(partition: str, seed: int) -> None:
    hidden = axis_vectors(14, 3, seed)
    importance = torch.randint(0, 3, (1, 14)).float()
    tokens = make_tokens(hidden[None], signals={Signal.ATTENTION_RECEIVED: importance})
    params: dict[str, Any] = {"partition": partition, "neighbours": 2}
    answer = EvoPrune.from_params(**params).reduce(tokens, budget(tokens, 8))
    # equal scores differ by rounding once multiplied, so the choice is held to its total
    wanted = expected_pairs(hidden, importance[0], 6, **params)
    table = oracle.scores(
        hidden.tolist(), oracle.density(hidden.tolist(), 2, 1.0), 1.0, squash=True
    )
    got = pairs_of(answer)
    assert len(got) == 6
    assert sum(table[i][j] for i, j in got) == pytest.approx(sum(table[i][j] for i, j in wanted))
    assert torch.isfinite(answer.apply(tokens.hidden, tokens.size)).all()
    exact = params | {"diversity_weight": 0.0}
    answer = EvoPrune.from_params(**exact).reduce(tokens, budget(tokens, 8))
    assert pairs_of(answer) == set(expected_pairs(hidden, importance[0], 6, **exact))


def test_all_tokens_alike() -> None:
    tokens = make_tokens(
        torch.ones(1, 8, 3), signals={Signal.ATTENTION_RECEIVED: torch.full((1, 8), 0.125)}
    )
    for tau in (1.0, "auto"):
        answer = EvoPrune.from_params(tau=tau).reduce(tokens, budget(tokens, 5))
        # ties protect 0 and 1; of 2..7, the first three even places join the first odd one
        assert pairs_of(answer) == {(2, 3), (4, 3), (6, 3)}
        assert torch.equal(answer.apply(tokens.hidden, tokens.size), torch.ones(1, 5, 3))


def test_without_size_weighting_all_tokens_count_alike() -> None:
    tokens, _ = picture(5, 10)
    answer = EvoPrune.from_params(size_weighted=False).reduce(tokens, budget(tokens, 5))
    ones = [1.0] * 10
    states, _ = oracle.merged(tokens.hidden[0].tolist(), ones, sorted(pairs_of(answer)))
    merged = answer.apply(tokens.hidden, tokens.size)[0]
    torch.testing.assert_close(merged, torch.tensor(states))
    assert answer.sizes(tokens.size).sum() == tokens.size.sum()


def test_half_is_the_most_that_can_go_at_once() -> None:
    tokens, _ = picture(0, 9)
    with pytest.raises(BudgetError, match="9 tokens in pairs can't remove 5") as caught:
        EvoPrune.from_params().reduce(tokens, budget(tokens, 4))
    assert caught.value.nearest == 5
    assert "encoder[3]" in str(caught.value)


def test_nothing_to_remove_changes_nothing() -> None:
    tokens, _ = picture(0, 9)
    assert not EvoPrune.from_params().reduce(tokens, budget(tokens, 9)).changes


def test_density_is_the_formula() -> None:
    # one token apart from three duplicates: exp(-2) to each of them, 1 among them
    x = [[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]
    assert oracle.density(x, 2, 1.0) == pytest.approx([1 - math.exp(-2), 0, 0, 0])


def test_importance_per_patch_is_divided_by_size() -> None:
    tokens, importance = picture(5, 12)
    answer = EvoPrune.from_params(importance_per="patch").reduce(tokens, budget(tokens, 8))
    wanted = expected_pairs(tokens.hidden[0], importance[0] / tokens.size[0], 4)
    assert pairs_of(answer) == set(wanted)


@pytest.mark.parametrize("seed", range(6))
def test_protection_for_good_puts_earlier_tokens_first(seed: int) -> None:
    strategy = EvoPrune.from_params(protect="forever", critical_token_ratio=0.5)
    tokens, importance = picture(seed, 14, batch=2)
    first = strategy.reduce(tokens, budget(tokens, 11))
    noted = first.riders[PROTECTED]
    for sample in range(2):
        kept = oracle.protected(importance[sample].tolist(), 3, 0.5)
        assert set(noted[sample].nonzero()[:, 0].tolist()) == kept
    assert first.anchor is not None
    later, fresh = picture(seed + 100, 11, batch=2)
    later = replace(later, riders={PROTECTED: noted.gather(1, first.anchor)})
    second = strategy.reduce(later, budget(later, 9))
    for sample in range(2):
        earlier = later.riders[PROTECTED][sample].tolist()
        rank = [score + 2 * was for score, was in zip(fresh[sample].tolist(), earlier, strict=True)]
        wanted = oracle.protected(rank, 2, 0.5)
        assert set(second.riders[PROTECTED][sample].nonzero()[:, 0].tolist()) == wanted
        merged = {token for pair in pairs_of(second, sample) for token in pair}
        assert not merged & wanted


def test_protection_for_good_is_within_frames() -> None:
    with pytest.raises(ValidationError, match="temporal"):
        EvoPrune.from_params(protect="forever", temporal=True)
