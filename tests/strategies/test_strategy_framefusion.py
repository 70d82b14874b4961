"""`framefusion` against loops over the steps of its page."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.framefusion import DONE, MERGE, NOTE, PRUNE, FrameFusion

import tokenprune
from tests import models
from tests.strategies.cases import best_by_loops, cosine, make_tokens
from tests.strategies.loops import mean
from tests.strategies.videos import GRIDS, Grid, clip
from tokenprune.errors import BudgetError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

ROW = Signal.LAST_QUERY_ATTENTION


@dataclass
class Loops:
    """One sample on its way through the layers of an LLM."""

    layers: int
    first: int
    cost: float = 0.3
    tau: float = 0.6
    stop: float = 0.1
    spent: int = 0
    phase: int = MERGE

    def step(
        self,
        layer: int,
        rows: list[list[float]],
        places: list[int],
        inside: int,
        score: list[float],
    ) -> list[list[int]]:
        """The tokens that become one, those of every new token."""
        count = len(rows)
        due = (self.cost * self.layers * self.first - self.spent) / (self.layers - layer)
        groups = [[token] for token in range(count)]
        if self.phase == MERGE:
            groups = self._merged(rows, places, inside, max(0.0, count - due))
        elif self.phase == PRUNE:
            kept = best_by_loops(score, min(count, max(1, round(due))))
            groups, self.phase = [[token] for token in sorted(kept)], DONE
        self.spent += len(groups)
        return groups

    def _merged(
        self, rows: list[list[float]], places: list[int], inside: int, over: float
    ) -> list[list[int]]:
        before: dict[int, int] = {}
        for token, place in enumerate(places):
            same = [n for n in range(token) if places[n] % inside == place % inside]
            if same:
                before[token] = same[-1]
        alike = {token: cosine(rows[token], rows[other]) for token, other in before.items()}
        going = {token for token, value in alike.items() if value >= self.tau}
        if len(going) >= over:
            order = sorted(alike, key=lambda token: (-alike[token], token))
            going, self.phase = set(order[: int(over + 1e-9)]), DONE
        elif len(going) < self.stop * len(rows):
            self.phase = PRUNE
        groups: dict[int, list[int]] = {}
        for token in range(len(rows)):
            head = token
            while head in going:
                head = before[head]
            groups.setdefault(head, []).append(token)
        return [groups[head] for head in sorted(groups)]


def check(tokens: Tokens, sample: int, one: Reduction, want: list[list[int]]) -> None:
    assert one.anchor is not None
    assert one.slot is not None
    slots = {token: number for number, group in enumerate(want) for token in group}
    assert one.anchor[0].tolist() == [group[0] for group in want]
    assert one.slot[0].tolist() == [slots.get(token, -1) for token in range(tokens.count)]
    rows = tokens.hidden[sample].double().tolist()
    states = one.apply(tokens.hidden[sample, None].float(), tokens.size[sample, None])[0]
    made = torch.tensor([mean([rows[token] for token in group]) for group in want])
    torch.testing.assert_close(states, made, rtol=1e-4, atol=1e-4)


@given(
    GRIDS,
    st.integers(0, 10**6),
    st.sampled_from([0.1, 0.3, 0.6, 1.0]),
    st.sampled_from([0.3, 0.6, 0.9]),
    st.sampled_from([0.1, 0.5]),
    st.data(),
)
@settings(deadline=None, max_examples=60)
def test_one_layer(
    grid: Grid, seed: int, cost: float, tau: float, stop: float, data: st.DataObject
) -> None:
    full, inside = math.prod(grid), grid[1] * grid[2]
    count, layer = data.draw(st.integers(1, full)), data.draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(seed)
    index = torch.stack(
        [torch.randperm(full, generator=generator)[:count].sort().values for _ in range(2)]
    )
    hidden = clip(grid, seed).gather(1, index[..., None].expand(-1, -1, 6))
    score = torch.randint(9, (2, count), generator=generator) / 9
    tokens = make_tokens(
        hidden, site=Site("decoder", layer, 8), signals={ROW: score}, index=index, grid=grid
    )
    phases = data.draw(st.tuples(*[st.sampled_from([MERGE, PRUNE, DONE])] * 2))
    spent = data.draw(st.integers(count * layer, full * layer))
    note = torch.tensor([[phase, full, spent] for phase in phases])
    tokens = replace(tokens, riders={NOTE: note[:, None].expand(2, count, 3)})
    strategy = FrameFusion.from_params(cost=cost, tau=tau, stop=stop)
    answer = strategy.reduce(tokens, Budget(count, count, given=False))
    if phases == (DONE, DONE):
        assert not answer.changes
        return
    for sample, one in enumerate(answer.samples):
        loops = Loops(8, full, cost, tau, stop, spent, phases[sample])
        rows, places = hidden[sample].double().tolist(), index[sample].tolist()
        want = loops.step(layer, rows, places, inside, score[sample].tolist())
        check(tokens, sample, one, want)
        told = one.riders[NOTE]
        assert told[0].tolist() == [[loops.phase, full, loops.spent]] * count


@pytest.mark.parametrize(
    ("params", "layers", "phases"),
    [
        ({}, None, [MERGE, MERGE, PRUNE, DONE]),
        ({"cost": 0.8, "tau": 1.0}, None, [MERGE, PRUNE, DONE, DONE]),
        ({"cost": 0.45}, None, [MERGE, DONE, DONE, DONE]),
        ({"cost": 0.7, "tau": 1.0}, [1, 3], [MERGE, PRUNE, DONE]),
    ],
)
def test_all_layers_of_a_model(
    params: dict[str, Any],
    layers: list[int] | None,
    phases: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tokens, Reduction]] = []
    plain = FrameFusion.reduce

    def watched(self: FrameFusion, tokens: Tokens, budget: Budget) -> Reduction:
        seen.append((tokens, plain(self, tokens, budget)))
        return seen[-1][1]

    monkeypatch.setattr(FrameFusion, "reduce", watched)
    model, picture = models.llava_clip(), models.IMAGE_TOKEN
    inputs = models.llava_inputs([[1, picture, picture, picture, 7, 8, 9]])
    inputs["pixel_values"] = inputs["pixel_values"][:1] + 0.02 * inputs["pixel_values"]
    stage = {"at": "decoder", "strategy": "framefusion", "params": params}
    stage |= {"layers": layers} if layers else {}
    plan = {"schema_version": 1, "images": "frames", "stages": [stage]}
    with tokenprune.attach(model, plan), torch.no_grad():
        model(**inputs)
    begin, end = layers or (0, models.DEPTH - 1)
    assert [tokens.site.layer for tokens, _ in seen] == [*range(begin, end + 1)]
    first = seen[0][0].count
    loops = Loops(models.DEPTH, first, **params, spent=first * begin)
    left, went = first, []
    for tokens, answer in seen:
        assert tokens.count == left
        signal = tokens.signals.get(ROW.name)
        score = [] if signal is None else signal[0].tolist()
        went.append(loops.phase)
        inside = tokens.grid[1] * tokens.grid[2]
        rows, places = tokens.hidden[0].double().tolist(), tokens.index[0].tolist()
        want = loops.step(tokens.site.layer, rows, places, inside, score)
        if answer.changes:
            check(tokens, 0, answer.samples[0], want)
        else:
            assert went[-1] == DONE
        left = len(want)
    assert left < first
    assert went == phases


def test_a_budget_is_refused() -> None:
    stage = {"at": "decoder", "strategy": "framefusion", "keep": 0.5}
    with pytest.raises(BudgetError, match="cost"):
        tokenprune.attach(models.llava_clip(), {"schema_version": 1, "stages": [stage]})


def test_layer_0_is_read_without_attention() -> None:
    strategy = FrameFusion.from_params()
    assert strategy.signals(Site("decoder", 0, 4)) == ()
    assert strategy.signals(Site("decoder", 1, 4)) == (ROW,)
