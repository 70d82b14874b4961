"""What was decided about several stacks is carried out for all at once as it is for each alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.encoder.together import Decided, carry_out
from tokenprune.engine.lines import each, flat, stacked
from tokenprune.interface.dense import Part
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.sites import Site
from tokenprune.interface.tokens import Tokens

SHAPES = ((2, 8), (1, 5), (3, 6))
WIDTH = 7
SITE = Site("encoder", 1, 4)
Answer = Callable[[Tokens], Reduction]


def kept(tokens: Tokens) -> Reduction:
    order = torch.rand(tokens.size.shape, generator=generator()).argsort(dim=1)
    answer = Reduction.keep(order[:, : tokens.count // 2].sort(dim=1).values, tokens.count)
    return replace(answer, riders={"now": tokens.hidden[..., :2].contiguous()})


def merged(tokens: Tokens) -> Reduction:
    order = torch.rand(tokens.size.shape, generator=generator()).argsort(dim=1)
    half = tokens.count // 2
    return Reduction.merge(order[:, :half].sort(dim=1).values, order[:, -half:], tokens.size)


def evenly(tokens: Tokens) -> Reduction:
    answer = merged(tokens)
    return replace(answer, weight=torch.ones_like(tokens.size))


def made(tokens: Tokens) -> Reduction:
    slot = torch.arange(tokens.count).expand(tokens.size.shape) % 3 - 1
    return Reduction.replace(tokens.hidden[:, :2] * 2, slot)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def state_of(batch: int, count: int, *, previous: bool) -> EncoderState:
    drawn = torch.Generator().manual_seed(10 * batch + count)
    index = torch.arange(count).expand(batch, count)
    return EncoderState(
        {}, (1, 1, count), list(range(batch)), 0,
        torch.randint(1, 4, (batch, count), generator=drawn).float(), index, 0,
        riders={"old": torch.randint(9, (batch, count), generator=drawn)},
        signals={"keys": torch.randn(batch, count, 3, generator=drawn)},
        entered=torch.randn(batch, count, WIDTH, generator=drawn) if previous else None,
    )  # fmt: skip


def decided(answers: list[Answer], *, previous: bool) -> list[Decided]:
    found = []
    for (batch, count), answer in zip(SHAPES, answers, strict=True):
        state = state_of(batch, count, previous=previous)
        hidden = torch.randn(batch, count, WIDTH, generator=torch.Generator().manual_seed(count))
        tokens = state.tokens(hidden, SITE, {})
        said = answer(tokens)
        found.append(Decided(state, tokens, Part(None, said.dense, said.riders)))
    return found


def values(state: EncoderState) -> dict[str, Tensor]:
    bias = {} if state.biased is None else {"bias": state.biased[2]}
    entered = {} if state.entered is None else {"entered": state.entered}
    fixed = {"size": state.size, "index": state.index, "rows": state.row_sizes}
    return {**fixed, **state.riders, **state.signals, **bias, **entered}


@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize(
    "answers",
    [
        [kept] * 3,
        [merged] * 3,
        [evenly] * 3,
        [made] * 3,
        [kept, merged, made],
        [kept, lambda tokens: Reduction.none(), kept],
        [lambda tokens: Reduction.none()] * 3,
    ],
    ids=["kept", "merged", "evenly", "made", "of several kinds", "one stays", "all stay"],
)
def test_stacks_together_are_as_they_are_apart(answers: list[Answer], previous: bool) -> None:
    apart, together = (decided(answers, previous=previous) for _ in range(2))
    expected = [one.state.apply(one.tokens, one.part, one.tokens.hidden) for one in apart]
    left = carry_out(together, flat([one.tokens.hidden for one in together]))
    shapes = [(len(one), one.shape[1]) for one in expected]
    for states, wanted in zip(stacked(left, shapes), expected, strict=True):
        assert torch.equal(states, wanted)
    for one, other in zip(together, apart, strict=True):
        mine, wanted = values(one.state), values(other.state)
        assert mine.keys() == wanted.keys()
        for name, value in wanted.items():
            assert torch.equal(mine[name], value), name


def test_each_value_as_often_as_its_count_says() -> None:
    found = each([3, 1, 2], [2, 0, 3], torch.device("cpu"))
    assert found.tolist() == [3, 3, 2, 2, 2]
