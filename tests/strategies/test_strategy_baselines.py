from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.baselines import Random, Uniform
from tokenprune_strategies.fastv import FastV
from tokenprune_strategies.shared import draws
from tokenprune_strategies.shared.draws import draw

import tokenprune
from tests.models import llava_clip
from tests.strategies.cases import SITES, budget, make_tokens
from tokenprune.errors import LayerError
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site, Stage
from tokenprune.interface.strategy import places

CPU = torch.device("cpu")


def random_kept(
    count: int = 40, keep: int = 10, seed: int = 0, site: Site = SITES["encoder"], **params: Any
) -> list[list[int]]:
    tokens = make_tokens(torch.randn(3, count, 2), site=site, seed=seed)
    answer = Random.from_params(**params).reduce(tokens, budget(tokens, keep))
    assert answer.anchor is not None
    return answer.anchor.tolist()


@given(st.integers(1, 300), st.data())
@settings(deadline=None, max_examples=60)
def test_uniform_is_its_formula(count: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, count))
    tokens = make_tokens(torch.zeros(2, count, 1))
    answer = Uniform.from_params().reduce(tokens, budget(tokens, keep))
    half = Fraction(1, 2)
    wanted = [(i + half) * Fraction(count, keep) - half for i in range(keep)]
    rounded = [int((place + half) // 1) for place in wanted]
    assert answer.anchor is not None
    assert answer.anchor.tolist() == [rounded, rounded]
    assert len(set(rounded)) == keep


def test_uniform_leaves_equal_margins() -> None:
    tokens = make_tokens(torch.zeros(1, 9, 1))
    answer = Uniform.from_params().reduce(tokens, budget(tokens, 3))
    assert answer.anchor is not None
    assert answer.anchor.tolist() == [[1, 4, 7]]


def test_random_is_the_same_for_every_image_and_on_every_run() -> None:
    rows = random_kept()
    assert rows[0] == rows[1] == rows[2]
    assert rows == random_kept()
    assert rows[0] == sorted(set(rows[0]))
    assert len(rows[0]) == 10


def test_random_follows_every_part_of_its_key() -> None:
    later = Site("encoder", 4, 12)
    others = [
        random_kept(seed=1), random_kept(seed=-1), random_kept(**{"seed": 0}, site=later),
        random_kept(site=SITES["decoder"]), random_kept(site=SITES["pre_llm"]),
    ]  # fmt: skip
    tokens = make_tokens(torch.zeros(1, 40, 1))
    own = Random.from_params(seed=1).reduce(tokens, budget(tokens, 10)).anchor
    assert own is not None
    drawn = [random_kept()[0], own[0].tolist(), *(rows[0] for rows in others)]
    assert len({tuple(row) for row in drawn}) == len(drawn)


def test_a_smaller_random_budget_keeps_a_subset() -> None:
    assert set(random_kept(keep=7)[0]) < set(random_kept(keep=20)[0])


def test_random_ignores_and_leaves_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(30, 7, (0,), CPU)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(30, 7, (0,), CPU), first)


def test_random_is_even_over_indices_and_pairs() -> None:
    count, keep, runs = 12, 3, 3000
    chosen = torch.zeros(runs, count)
    for seed in range(runs):
        chosen[seed, draw(count, keep, (seed, 0), CPU)] = 1
    together = chosen.T @ chosen / runs
    single, pair = keep / count, keep * (keep - 1) / (count * (count - 1))
    # five standard errors
    assert (together.diagonal() - single).abs().max() < 5 * (single * (1 - single) / runs) ** 0.5
    off = together[~torch.eye(count, dtype=torch.bool)]
    assert (off - pair).abs().max() < 5 * (pair * (1 - pair) / runs) ** 0.5


def test_splitmix_reference_values() -> None:
    # the published first outputs of SplitMix64 for the state 1234567
    state = 1234567
    for value in (6457827717110365317, 3203168211198807973, 9817491932198370423):
        state += draws._STEP
        assert draws._mix_whole(state) == value


@given(st.lists(st.integers(-5, 2**70), min_size=1, max_size=3), st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_draw_takes_the_largest_numbers(key: list[int], count: int) -> None:
    state = 0
    for part in key:
        state = draws._mix_whole(state + part + draws._STEP)
    number = [draws._mix_whole(state + i * draws._STEP) >> 40 for i in range(1, count + 1)]
    keep = (count + 1) // 2
    ranked = sorted(range(count), key=lambda i: (-number[i], i))
    assert draw(count, keep, tuple(key), CPU).tolist() == sorted(ranked[:keep])


@pytest.mark.parametrize("query", ["last", "all"])
@given(st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=20)
def test_fastv_keeps_what_is_attended_to(query: str, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 20))
    keep = data.draw(st.integers(1, count))
    torch.manual_seed(seed)
    row = torch.randint(0, 6, (2, count)).float()  # with ties
    tokens = make_tokens(
        torch.randn(2, count, 3),
        site=SITES["decoder"],
        signals={
            Signal.LAST_QUERY_ATTENTION: row if query == "last" else -row,
            Signal.PROMPT_ATTENTION_MEAN: row if query == "all" else -row,
        },
    )
    answer = FastV.from_params(query=query).reduce(tokens, budget(tokens, keep))
    assert answer.anchor is not None
    for sample in range(2):
        score = row[sample].tolist()
        ranked = sorted(range(count), key=lambda i: (-score[i], i))
        assert answer.anchor[sample].tolist() == sorted(ranked[:keep])


def test_fastv_needs_a_layer_before_it() -> None:
    stage = {"at": "decoder", "strategy": "fastv", "keep": 4}
    with pytest.raises(LayerError, match="in front of layer 0 no layer"):
        tokenprune.attach(llava_clip(), {"stages": [{**stage, "layer": 0}]})
    with tokenprune.attach(llava_clip(), {"stages": [{**stage, "layer": 1}]}):
        pass


@pytest.mark.parametrize("stage", ["encoder", "pre_llm", "decoder"])
def test_the_baselines_stand_everywhere(stage: Stage) -> None:
    assert stage in places(Random)
    assert stage in places(Uniform)
