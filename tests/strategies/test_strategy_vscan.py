"""`vscan` against loops over the steps of its page, and the cases that the page warns of."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.shared.windows import windows_of
from tokenprune_strategies.vscan import VScan
from torch import Tensor

from tests.strategies.cases import SITES, axis_vectors, budget, cosine, make_tokens
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import placement
from tokenprune.interface.tokens import Tokens

PRE_LLM = SITES["pre_llm"]
SHALLOW = Signal.CLS_ATTENTION.at(2)  # a quarter of 12 blocks, counted from 0
GRIDS = [(1, 6, 6), (1, 5, 7), (1, 2, 9), (2, 4, 3)]


def picture(
    shallow: Tensor,
    deep: Tensor,
    grid: tuple[int, int, int],
    hidden: Tensor | None = None,
    **more: Any,
) -> Tokens:
    hidden = torch.randn(*deep.shape, 4) if hidden is None else hidden
    signals = {SHALLOW: shallow, Signal.CLS_ATTENTION: deep}
    return make_tokens(hidden, site=PRE_LLM, signals=signals, grid=grid, **more)


def answer(tokens: Tokens, keep: int, **params: Any) -> Reduction:
    return VScan.from_params(**params).reduce(tokens, budget(tokens, keep))


def kept(tokens: Tokens, keep: int, **params: Any) -> list[list[int]]:
    found = answer(tokens, keep, **params).anchor
    assert found is not None
    return found.tolist()


def best(score: list[float], among: list[int], count: int) -> list[int]:
    return sorted(among, key=lambda token: (-score[token], token))[:count]


def local_by_loops(
    score: list[float],
    position: list[list[int]],
    grid: tuple[int, int, int],
    side: int,
    share: int,
    quota: str,
) -> list[int]:
    windows: dict[tuple[int, int, int], list[int]] = {}
    for frame in range(grid[0]):
        for top in range(0, grid[1], side):
            for left in range(0, grid[2], side):
                windows[frame, top, left] = []
    for token, (frame, row, column) in enumerate(position):
        windows[frame, row - row % side, column - column % side].append(token)
    if quota == "floor":  # LLaVA's code: the same number everywhere, the rest stays open
        each = share // len(windows)
        return [token for inside in windows.values() for token in best(score, inside, each)]
    most, taken = math.ceil(share / len(windows)), []  # Qwen2.5-VL's code: walk down the scores
    room = dict.fromkeys(windows, most)
    for token in best(score, list(range(len(score))), len(score)):
        home = next(key for key, inside in windows.items() if token in inside)
        if room[home] and len(taken) < share:
            taken.append(token)
            room[home] -= 1
    return taken


def by_loops(tokens: Tokens, sample: int, keep: int, **params: Any) -> list[int]:
    shallow = tokens.signal(SHALLOW)[sample].tolist()
    deep = tokens.signal(Signal.CLS_ATTENTION)[sample].tolist()
    position = tokens.position[sample].tolist()
    local = local_by_loops(
        shallow,
        position,
        tokens.grid,
        params.get("window", 6),
        math.floor(keep * params.get("local", 0.5)),
        params.get("quota", "ceil"),
    )
    others = [token for token in range(len(deep)) if token not in local]
    return sorted(local + best(deep, others, keep - len(local)))


@given(
    seed=st.integers(0, 10**6),
    grid=st.sampled_from(GRIDS),
    window=st.integers(1, 7),
    quota=st.sampled_from(["ceil", "floor"]),
    local=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    gone=st.integers(0, 8),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_selection_against_loops(
    seed: int,
    grid: tuple[int, int, int],
    window: int,
    quota: str,
    local: float,
    gone: int,
    data: st.DataObject,
) -> None:
    torch.manual_seed(seed)
    total = math.prod(grid)
    count = total - gone
    keep = data.draw(st.integers(1, count - 1))
    index = torch.stack([torch.randperm(total)[:count].sort().values for _ in range(2)])
    # few different values, so that ties are met
    shallow, deep = torch.randint(0, 6, (2, count)) / 8, torch.randint(0, 6, (2, count)) / 8
    tokens = picture(shallow, deep, grid, index=index)
    options: dict[str, Any] = {"window": window, "quota": quota, "local": local}
    found = kept(tokens, keep, **options)
    for sample in range(2):
        assert found[sample] == by_loops(tokens, sample, keep, **options)


def merged_by_loops(hidden: list[list[float]], chosen: list[int]) -> list[list[float]]:
    clusters: dict[int, list[int]] = {token: [token] for token in chosen}
    for token, state in enumerate(hidden):
        if token not in clusters:
            nearest = max(chosen, key=lambda other: (cosine(state, hidden[other]), -other))
            clusters[nearest].append(token)
    return [
        [sum(hidden[t][d] for t in clusters[c]) / len(clusters[c]) for d in range(len(hidden[0]))]
        for c in chosen
    ]


@given(seed=st.integers(0, 10**6), keep=st.integers(1, 19), generic=st.booleans())
@settings(deadline=None, max_examples=40)
def test_merging_against_loops(seed: int, keep: int, generic: bool) -> None:
    torch.manual_seed(seed)
    hidden = torch.randn(1, 20, 5) if generic else axis_vectors(20, 5, seed)[None]
    tokens = picture(torch.rand(1, 20), torch.rand(1, 20), (1, 4, 5), hidden)
    found = answer(tokens, keep, window=2)
    assert found.anchor is not None
    chosen = found.anchor[0].tolist()
    want = torch.tensor(merged_by_loops(hidden[0].tolist(), chosen))
    torch.testing.assert_close(found.apply(hidden, tokens.size)[0], want, atol=1e-6, rtol=1e-5)
    assert found.sizes(tokens.size).sum() == 20


def test_the_papers_shares_of_24_by_24_patches() -> None:
    """96 tokens: 3 from each of 16 windows of 6 x 6, and 48 of the rest."""
    torch.manual_seed(0)
    tokens = picture(torch.rand(1, 576), torch.rand(1, 576), (1, 24, 24))
    for quota in ("ceil", "floor"):  # the same where the division is exact
        chosen = kept(tokens, 96, quota=quota)[0]
        assert chosen == by_loops(tokens, 0, 96, quota=quota)
        shallow, deep = (tokens.signal(signal)[0] for signal in (SHALLOW, Signal.CLS_ATTENTION))
        window = tokens.position[0, :, 1] // 6 * 4 + tokens.position[0, :, 2] // 6
        local = {
            int(token)
            for number in range(16)
            for token in (window == number).nonzero()[:, 0][shallow[window == number].topk(3)[1]]
        }
        assert local <= set(chosen)
        rest = deep.clone()
        rest[list(local)] = -1
        assert set(chosen) - local == set(rest.topk(48).indices.tolist())


def test_an_uneven_share_is_refilled_to_the_exact_number() -> None:
    """Edge case: LLaVA's code keeps fewer tokens where windows don't divide the local budget."""
    torch.manual_seed(0)
    tokens = picture(torch.rand(2, 576), torch.rand(2, 576), (1, 24, 24))
    for keep in (95, 100, 7):
        for quota in ("ceil", "floor"):
            assert [len(row) for row in kept(tokens, keep, quota=quota)] == [keep, keep]
    few = kept(tokens, 7, quota="floor")  # 3 local tokens for 16 windows: none each
    assert few == kept(tokens, 7, local=0.0)


def test_a_local_pick_is_never_picked_twice() -> None:
    """Edge case: zeroed local picks compete with tokens whose score is 0 as well."""
    deep = torch.zeros(1, 16)
    deep[0, 15] = 0.5
    shallow = torch.zeros(1, 16)
    shallow[0, :4] = torch.tensor([4.0, 3, 2, 1])
    chosen = kept(picture(shallow, deep, (1, 4, 4)), 8)[0]
    assert len(set(chosen)) == 8
    assert {0, 1, 2, 3, 15} <= set(chosen)
    assert chosen == [0, 1, 2, 3, 4, 5, 6, 15]


def test_windows_at_the_border_are_smaller() -> None:
    """Edge case: grids that are no multiple of the window."""
    shallow = torch.zeros(1, 35)
    shallow[0, 34] = 1.0  # row 4, column 6: alone in its corner of 5 x 7 patches
    tokens = picture(shallow, torch.rand(1, 35), (1, 5, 7))
    best_first = kept(tokens, 8, window=4, local=1.0)
    assert 34 in best_first[0]
    homes = [(p[1] // 4, p[2] // 4) for p in tokens.position[0, best_first[0]].tolist()]
    assert [homes.count((row, column)) for row in (0, 1) for column in (0, 1)] == [2, 2, 2, 2]


def test_what_is_left_over_at_the_border_can_join_the_last_whole_windows() -> None:
    position = torch.tensor([[[0, row, column] for row in range(5) for column in range(7)]])
    window, count = windows_of(position, (1, 5, 7), 2, joined=True)
    assert count == 6
    rows, columns = (0, 0, 1, 1, 1), (0, 0, 1, 1, 2, 2, 2)
    assert window[0].tolist() == [3 * row + column for row in rows for column in columns]
    assert windows_of(position, (1, 5, 7), 9, joined=True)[1] == 1
    shallow = torch.zeros(1, 35)
    shallow[0, [30, 32, 34]] = torch.tensor([1.0, 2.0, 3.0])
    tokens = picture(shallow, torch.rand(1, 35), (1, 5, 7))
    # 5 x 7 patches hold one whole window of 4 x 4, so the local scan takes the best of all
    (chosen,) = kept(tokens, 3, window=4, local=1.0, border="joined")
    assert chosen == [30, 32, 34]


def test_every_frame_has_windows_of_its_own() -> None:
    shallow, deep = torch.rand(1, 32), torch.rand(1, 32)
    chosen = kept(picture(shallow, deep, (2, 4, 4)), 8, window=2, local=1.0)[0]
    assert len([token for token in chosen if token < 16]) == 4


def test_scores_without_a_class_token() -> None:
    """Edge case: encoders without class token score by attention received."""
    strategy = VScan.from_params(score="received", window=2)
    shallow, deep = strategy.signals(PRE_LLM)
    assert (shallow.kind, shallow.block) == (Signal.ATTENTION_RECEIVED, 2)
    assert deep == Signal.ATTENTION_RECEIVED
    assert deep.block is None
    values = torch.rand(1, 12), torch.rand(1, 12)
    hidden = torch.randn(1, 12, 3)
    tokens = make_tokens(
        hidden,
        site=PRE_LLM,
        grid=(1, 3, 4),
        signals={shallow: values[0], deep: values[1]},
    )
    found = strategy.reduce(tokens, budget(tokens, 5)).anchor
    assert found is not None
    assert found.tolist() == kept(picture(*values, (1, 3, 4), hidden), 5, window=2)


@pytest.mark.parametrize(
    ("used", "block"), [(24, 5), (23, 5), (32, 7), (12, 2), (27, 6), (3, 0), (1, 0)]
)
def test_the_shallow_block_is_at_a_quarter(used: int, block: int) -> None:
    """The paper's layers 6 of 24 (of which LLaVA uses 23) and 8 of 32, from 0."""
    site = Site("pre_llm", used, used)
    assert VScan.from_params().signals(site)[0] == Signal.CLS_ATTENTION.at(block)
    assert VScan.from_params(shallow=1).signals(site)[0] == Signal.CLS_ATTENTION.at(1)


def test_tokens_that_stand_for_several_patches() -> None:
    """Behind merges in the encoder: one vote each by default, or one a patch."""
    hidden = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]])
    size = torch.tensor([[1.0, 3.0, 1.0]])
    deep = torch.tensor([[0.9, 0.1, 0.8]])
    tokens = picture(deep, deep, (1, 1, 9), hidden, size=size)
    plain, weighted = answer(tokens, 2), answer(tokens, 2, merge_weight="size")
    assert plain.apply(hidden, size)[0].tolist() == [[2.0, 0.0], [0.0, 1.0]]
    assert weighted.apply(hidden, size)[0].tolist() == [[2.5, 0.0], [0.0, 1.0]]
    assert plain.sizes(size).tolist() == weighted.sizes(size).tolist() == [[4.0, 1.0]]
    before = (hidden * size[..., None]).sum(1)
    after = (weighted.apply(hidden, size) * weighted.sizes(size)[..., None]).sum(1)
    torch.testing.assert_close(after, before)


def test_zero_vectors_and_duplicates_stay_finite() -> None:
    hidden = torch.zeros(1, 9, 3)
    hidden[0, 4:] = torch.tensor([0.0, -2.0, 0.0])
    tokens = picture(torch.zeros(1, 9), torch.zeros(1, 9), (1, 3, 3), hidden)
    found = answer(tokens, 4)
    assert found.anchor is not None
    assert found.anchor.tolist() == [[0, 1, 2, 3]]
    assert torch.isfinite(found.apply(hidden, tokens.size)).all()
    assert found.sizes(tokens.size).sum() == 9


@pytest.mark.parametrize("rope", [True, False])
def test_the_second_stage_keeps_what_the_last_prompt_token_looks_at(rope: bool) -> None:
    """Edge case: Qwen2.5-VL's code scores without rotary embeddings, LLaVA's with them."""
    strategy = VScan.from_params(rope_in_scoring=rope)
    (signal,) = strategy.signals(SITES["decoder"])
    assert signal == (Signal.AHEAD_ATTENTION if rope else Signal.AHEAD_ATTENTION_UNROTATED)
    score = torch.tensor([[0.1, 0.4, 0.4, 0.0, 0.1]])
    hidden = torch.randn(1, 5, 3)
    tokens = make_tokens(hidden, site=SITES["decoder"], signals={signal: score})
    found = strategy.reduce(tokens, budget(tokens, 3))
    assert found.anchor is not None
    assert found.anchor.tolist() == [[0, 1, 2]]
    assert torch.equal(found.apply(hidden, tokens.size), hidden[:, :3])  # dropped, not merged


def test_the_second_stage_stands_in_the_middle() -> None:
    own = placement(VScan, "decoder")
    assert [own.layer_of(layers) for layers in (32, 28, 36, 64, 2)] == [16, 14, 18, 32, 1]
