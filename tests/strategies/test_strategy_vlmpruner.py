"""`vlmpruner` against loops over the steps of its page."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.vlmpruner import VLMPruner
from torch import Tensor

from tests.strategies.cases import SITES, best_by_loops, budget, cosine, make_tokens
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal

Grid = tuple[int, int, int]
Rows = list[list[float]]
CODE = {"seeds": 4, "channels": 256, "buffer": 0.5, "tau": 0.8, "step": 0.1, "batch": 16}


def answer(
    hidden: Tensor, keys: Tensor, index: Tensor, grid: Grid, keep: int, **params: Any
) -> Reduction:
    length = keys.abs().sum(dim=2)
    signals = {Signal.LAYER_KEYS: keys, Signal.KEY_LENGTH: length}
    site = SITES["decoder"]
    tokens = make_tokens(hidden, site=site, signals=signals, index=index, grid=grid)
    return VLMPruner.from_params(**params).reduce(tokens, budget(tokens, keep))


def seeds(keys: Rows, count: int) -> list[int]:
    picks = best_by_loops([sum(map(abs, key)) for key in keys], 1)
    while len(picks) < count:
        free = [token for token in range(len(keys)) if token not in picks]
        away = [min(math.dist(keys[token], keys[pick]) for pick in picks) for token in free]
        picks.append(free[best_by_loops(away, 1)[0]])
    return picks


def cosines(rows: Rows, channels: int) -> Rows:
    """Of the channels that differ most between tokens."""
    columns = [[*column] for column in zip(*rows, strict=True)]
    middle = [sum(column) / len(column) for column in columns]
    variance = [
        sum((x - m) ** 2 for x in column) for column, m in zip(columns, middle, strict=True)
    ]
    best = best_by_loops(variance, min(channels, len(columns)))
    short = [[row[channel] for channel in best] for row in rows]
    return [[cosine(one, two) for two in short] for one in short]


def distances(index: list[int], grid: Grid) -> Rows:
    _, height, width = grid
    places = [(i // (height * width), i // width % height, i % width) for i in index]
    far = math.hypot(height, width)
    return [
        [math.dist(a[1:], b[1:]) / far if a[0] == b[0] else 1.0 for b in places] for a in places
    ]


def chosen(
    alike: Rows, apart: Rows, first: list[int], keep: int, params: dict[str, Any]
) -> set[int]:
    """The passes of the code, which ends with the first that takes nothing; here it goes on."""
    picks, tau = [*first], params["tau"]

    def likeness(token: int) -> float:
        near = min(apart[token][pick] for pick in picks)
        return max(alike[token][pick] * (1 + params["buffer"] * near) for pick in picks)

    while len(picks) < keep:
        before = len(picks)
        free = [token for token in range(len(alike)) if token not in picks]
        waiting = sorted(free, key=lambda token: (likeness(token), token))
        for begin in range(0, len(waiting), params["batch"]):
            if begin == params["batch"] and len(picks) == before:
                break
            batch = waiting[begin : begin + params["batch"]]
            told = [likeness(token) for token in batch]
            fitting = [token for token, value in zip(batch, told, strict=True) if value < tau]
            room = keep - len(picks)
            if len(fitting) > room:
                fitting = [batch[n] for n in best_by_loops([-value for value in told], room)]
            picks += fitting
            if len(picks) >= keep:
                break
        tau += params["step"]
    return set(picks)


def made(rows: Rows, alike: Rows, picks: list[int], own: float) -> tuple[Rows, dict[int, int]]:
    """New states of what is kept, and the place of every token that joins one."""
    members: dict[int, list[int]] = {pick: [] for pick in picks}
    for token in range(len(rows)):
        if token not in picks:
            best = best_by_loops([alike[token][pick] for pick in picks], 1)[0]
            members[picks[best]].append(token)
    states, place = [], {}
    for number, (pick, group) in enumerate(members.items()):
        place[pick] = number
        weight = [alike[token][pick] for token in group]
        if not group or sum(weight) <= 0:
            states.append(rows[pick])
            continue
        total = max(sum(weight), 1e-8)
        mean = [
            sum(w * rows[token][channel] for w, token in zip(weight, group, strict=True)) / total
            for channel in range(len(rows[0]))
        ]
        states.append([own * x + (1 - own) * m for x, m in zip(rows[pick], mean, strict=True)])
        place |= dict.fromkeys(group, number)
    return states, place


@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 6, 7), (3, 2, 5), (1, 1, 12)]),
    st.sampled_from(
        [{}, {"batch": 3, "channels": 5}, {"tau": 0.1, "batch": 2, "buffer": 2.0}, {"seeds": 1}]
    ),
    st.data(),
)
@settings(deadline=None, max_examples=60)
def test_against_loops(seed: int, grid: Grid, params: dict[str, Any], data: st.DataObject) -> None:
    torch.manual_seed(seed)
    patches = math.prod(grid)
    count = data.draw(st.integers(2, patches))
    keep = data.draw(st.integers(1, count - 1))
    index = torch.stack([torch.randperm(patches)[:count].sort().values for _ in range(2)])
    # tokens of a few kinds, all of them alike to some degree
    kinds = torch.randn(2, 4, 9)[:, torch.arange(count) % 4]
    hidden = kinds + data.draw(st.sampled_from([0.3, 1.0])) * torch.randn(2, count, 9) + 0.5
    keys = torch.randn(2, count, 6)
    found = answer(hidden, keys, index, grid, keep, **params)
    states = found.apply(hidden, torch.ones(2, count))
    assert found.anchor is not None
    assert found.slot is not None
    used = CODE | params
    for sample in range(2):
        rows = hidden[sample].double().tolist()
        alike = cosines(rows, used["channels"])
        first = seeds(keys[sample].double().tolist(), min(used["seeds"], keep))
        apart = distances(index[sample].tolist(), grid)
        picks = sorted(chosen(alike, apart, first, keep, used))
        assert found.anchor[sample].tolist() == picks
        want, place = made(rows, alike, picks, 0.3)
        torch.testing.assert_close(states[sample], torch.tensor(want), atol=1e-4, rtol=1e-4)
        assert found.slot[sample].tolist() == [place.get(token, -1) for token in range(count)]


def line(hidden: Tensor, keep: int, **params: Any) -> Reduction:
    """Of tokens on one line, whose first one is the longest."""
    count = hidden.shape[0]
    keys = torch.arange(count, 0, -1.0)[None, :, None]
    place = torch.arange(count)[None]
    return answer(hidden[None], keys, place, (1, 1, count), keep, seeds=1, **params)


def test_near_tokens_come_before_far_ones_that_are_as_unlike() -> None:
    one = torch.tensor([1.0, 0, 0])
    hidden = torch.stack([one, one + 0.5, one + 0.6, one + 0.7, one + 0.9])
    # the farther from the seed, the less alike; the buffer outweighs that
    for buffer, second in ((0.0, 4), (9.0, 1)):
        found = line(hidden, 2, buffer=buffer).anchor
        assert found is not None
        assert found.tolist() == [[0, second]]


def test_equal_tokens_are_kept_as_the_plan_says() -> None:
    """The code stops when a pass takes nothing: of tokens that are all alike, seeds are left."""
    hidden = torch.ones(1, 3).expand(20, 3).contiguous()
    found = line(hidden, 7)
    assert found.anchor is not None
    assert found.anchor.tolist() == [[*range(7)]]


def test_states_that_are_not_finite_end_the_choice_too() -> None:
    hidden = torch.randn(12, 3)
    hidden[3] = torch.nan
    found = line(hidden, 5).anchor
    assert found is not None
    assert found.shape == (1, 5)


def test_dropped_tokens_can_be_lost() -> None:
    torch.manual_seed(1)
    hidden = torch.randn(10, 4)
    plain, mixed = line(hidden, 4, own=1.0), line(hidden, 4)
    assert plain.created is None
    assert mixed.created is not None
    assert plain.anchor is not None
    assert mixed.anchor is not None
    assert torch.equal(plain.anchor, mixed.anchor)


def test_the_codes_numbers() -> None:
    assert VLMPruner.from_params().params.model_dump() == CODE | {"own": 0.3}
