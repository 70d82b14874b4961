"""EvoPrune's temporal mode: merging into neighbouring frames, against loops and its promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.evoprune import EvoPrune
from torch import Tensor

from tests.strategies import evoprune_oracle as oracle
from tests.strategies.cases import budget, make_tokens, pairs_of
from tokenprune.errors import BudgetError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import count_flops

VARIANTS: list[dict[str, Any]] = [
    {},
    {"partition": "all"},
    {"similarity": "halved", "tau": "auto", "neighbours": 3},
    {"attention": False, "diversity_weight": 0},
    {"critical_token_ratio": 0.6, "partition": "all"},
]


def video(seed: int, frames: int, count: int, videos: int = 1) -> Tokens:
    torch.manual_seed(seed)
    shape = (videos, frames * count)
    base = torch.randn(videos, 1, count, 5)  # frames resemble each other, as those of videos do
    hidden = (base + 0.6 * torch.randn(videos, frames, count, 5)).flatten(1, 2)
    signals = {Signal.ATTENTION_RECEIVED: torch.rand(shape), Signal.KEYS: torch.randn(*shape, 5)}
    size = torch.randint(1, 5, shape).float()
    return make_tokens(hidden, signals=signals, size=size, grid=(frames, 1, count))


def expected_pairs(tokens: Tokens, remove: int, **params: Any) -> list[tuple[int, int]]:
    """Pairs of the only video of a batch, by loops; `remove` in every frame."""
    strategy = EvoPrune.from_params(**params).params
    frames = tokens.grid[0]
    x = tokens.hidden[0].unflatten(0, (frames, -1)).tolist()
    shares = tokens.signal(Signal.ATTENTION_RECEIVED)[0].unflatten(0, (frames, -1)).tolist()
    ratio = strategy.critical_token_ratio if strategy.attention else 0.0
    kept = [oracle.protected(row, remove, ratio) for row in shares]
    tau = None if strategy.tau == "auto" else strategy.tau
    d = [oracle.density(frame, strategy.neighbours, tau) for frame in x]
    squash, weight = strategy.similarity == "halved", strategy.diversity_weight
    return oracle.temporal_pairs(x, d, kept, remove, strategy.partition, weight, squash)


def answer_of(tokens: Tokens, remove: int, **params: Any) -> Reduction:
    """`remove` in every frame."""
    left = tokens.count - tokens.grid[0] * remove
    return EvoPrune.from_params(temporal=True, **params).reduce(tokens, budget(tokens, left))


@pytest.mark.parametrize("params", VARIANTS)
@pytest.mark.parametrize(("frames", "count", "remove"), [(2, 8, 3), (3, 9, 4), (5, 7, 1)])
def test_pairs_against_loops(params: dict[str, Any], frames: int, count: int, remove: int) -> None:
    for seed in range(3):
        tokens = video(seed, frames, count)
        answer = answer_of(tokens, remove, **params)
        wanted = expected_pairs(tokens, remove, **params)
        assert pairs_of(answer) == set(wanted)
        states, sizes = oracle.merged(tokens.hidden[0].tolist(), tokens.size[0].tolist(), wanted)
        merged = answer.apply(tokens.hidden, tokens.size)[0]
        torch.testing.assert_close(merged, torch.tensor(states), atol=1e-5, rtol=1e-5)
        assert answer.sizes(tokens.size)[0].tolist() == sizes


def test_cosines_within_a_frame_are_measured_once() -> None:
    tokens = video(0, 3, 12)
    with count_flops() as counter:
        answer_of(tokens, 3)
    # 9 of 12 tokens are candidates: 5 propose, 4 receive, and those of two frames beside them
    assert counter.total == 2 * 3 * (9 * 12 + 5 * 2 * 4) * 5


@pytest.mark.parametrize("partition", ["unprotected", "all"])
@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(2, 5),
    count=st.integers(2, 12),
    data=st.data(),
)
@settings(deadline=None, max_examples=40)
def test_what_every_merge_keeps(
    partition: str, seed: int, frames: int, count: int, data: st.DataObject
) -> None:
    remove = data.draw(st.integers(1, count // 2))
    tokens = video(seed, frames, count, videos=2)
    answer = answer_of(tokens, remove, partition=partition, critical_token_ratio=0.5)
    assert answer.anchor is not None
    assert answer.slot is not None
    of_frame = answer.anchor // count
    assert (of_frame.diff(dim=1) >= 0).all()
    for row in of_frame:
        assert row.bincount(minlength=frames).tolist() == [count - remove] * frames
    assert (answer.slot >= 0).all()
    merged, sizes = answer.apply(tokens.hidden, tokens.size), answer.sizes(tokens.size)
    assert torch.equal(sizes.sum(1), tokens.size.sum(1))
    before = (tokens.hidden * tokens.size[..., None]).sum(1)
    torch.testing.assert_close((merged * sizes[..., None]).sum(1), before, atol=1e-3, rtol=1e-4)
    target = answer.anchor.gather(1, answer.slot)
    assert ((target // count - torch.arange(frames * count) // count).abs() <= 1).all()
    again = answer_of(tokens, remove, partition=partition, critical_token_ratio=0.5)
    assert again.slot is not None
    assert torch.equal(again.slot, answer.slot)


@pytest.mark.parametrize("params", VARIANTS)
def test_a_single_frame_is_the_mode_of_the_paper_bit_for_bit(params: dict[str, Any]) -> None:
    tokens = video(4, 1, 13, videos=3)
    keep = budget(tokens, 8)
    plain = EvoPrune.from_params(**params).reduce(tokens, keep)
    temporal = EvoPrune.from_params(temporal=True, **params).reduce(tokens, keep)
    for name in ("anchor", "slot", "weight"):
        assert torch.equal(getattr(plain, name), getattr(temporal, name))


def test_two_videos_do_not_meet() -> None:
    both = video(7, 3, 8, videos=2)
    answer = answer_of(both, 3)
    for number in range(2):
        pick = slice(number, number + 1)
        alone = make_tokens(
            both.hidden[pick],
            signals={
                signal: both.signal(signal)[pick]
                for signal in (Signal.ATTENTION_RECEIVED, Signal.KEYS)
            },
            size=both.size[pick],
            grid=both.grid,
        )
        assert pairs_of(answer_of(alone, 3)) == pairs_of(answer, number)


def frames_of(*rows: Tensor) -> Tokens:
    hidden = torch.cat(rows)[None]
    received = torch.zeros(hidden.shape[:2])
    signals = {Signal.ATTENTION_RECEIVED: received}
    return make_tokens(hidden, signals=signals, grid=(len(rows), 1, rows[0].shape[0]))


def test_a_better_partner_in_the_next_frame_wins_and_a_tie_stays_at_home() -> None:
    one, other = torch.eye(4)[0], torch.eye(4)[1]
    apart, alike = torch.stack((one, other)), torch.stack((one, one))
    free = {"attention": False, "diversity_weight": 0}
    # frame 0 has no partner of its own; that of frame 1 is its equal
    assert pairs_of(answer_of(frames_of(apart, alike), 1, **free)) == {(0, 3), (2, 3)}
    # every frame has an equal of its own, so nothing crosses
    assert pairs_of(answer_of(frames_of(alike, alike, alike), 1, **free)) == {
        (0, 1),
        (2, 3),
        (4, 5),
    }


def test_frames_further_apart_never_merge() -> None:
    eye = torch.eye(6)
    first, between, last = eye[[0, 1]], eye[[2, 3]], eye[[4, 0]]
    free = {"attention": False, "diversity_weight": 0}
    pairs = pairs_of(answer_of(frames_of(first, between, last), 1, **free))
    assert (0, 5) not in pairs  # equal, but two frames apart
    assert {source for source, _ in pairs} == {0, 2, 4}


def test_half_of_a_frame_is_the_most_that_can_go() -> None:
    tokens = video(0, 3, 5)
    with pytest.raises(BudgetError, match="5 tokens in pairs can't remove 3"):
        answer_of(tokens, 3)


def test_it_is_off_by_default_and_said_to_be_ours() -> None:
    assert not EvoPrune.from_params().spans_frames()
    assert EvoPrune.from_params(temporal=True).spans_frames()
    assert "temporal" in (EvoPrune.about.ours or ())
