"""Signals of towers for pictures of any size in front of the LLM, against their own values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.any_size import Pass, blocks, hidden, passes
from tests.families.calls import case_of, logits
from tests.families.plans import plan
from tests.families.test_tower_signals import Look
from tests.families.towers import PLUGIN, Drop
from tests.plugin import registering
from tokenprune import Signal
from tokenprune.interface.trace import Trace
from tokenprune.plugins.host import register_plugin

CELLS = [("mistral3", "several"), ("gemma4", "several"), ("gemma4", "video")]
LOOK = {"strategy": "t-tower-look", "at": "pre_llm", "keep": 1.0}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Look.seen.clear()
    Drop.gone.clear()
    with (
        register_plugin(PLUGIN, "family-towers"),
        register_plugin(registering(Look), "family-looks"),
    ):
        yield


def watched(model: Any, call: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the plain model's first and last block put out, and its weights `[n, H, T, T]`."""
    found: dict[str, Tensor] = {}
    first, *_, last = blocks(model.model.vision_tower)
    attention = last.get_submodule("attention" if hasattr(last, "attention") else "self_attn")
    hooks = [
        first.register_forward_hook(lambda _, __, out: found.update(first=out)),
        last.register_forward_hook(lambda _, __, out: found.update(last=out)),
        attention.register_forward_hook(lambda _, __, out: found.update(weights=out[1])),
    ]
    logits(model, call)
    for hook in hooks:
        hook.remove()
    return found


def units(values: Tensor, shown: Pass) -> list[Tensor]:
    """Values of rows `[n, T, D]` of every picture's units, `[U, m, D]`."""
    return [values[picture.row][torch.tensor(picture.units)] for picture in shown]


def expected(values: list[Tensor], trace: Trace) -> list[Tensor]:
    """Those of pictures as those of clips."""
    waiting, found = iter(values), []
    for image in trace.images:
        found.append(torch.cat([next(waiting) for _ in range(image.grid[0])]))
    return found


def pictures(trace: Trace) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
    """Of every picture its number, what was shown of it, and its units that are left."""
    for tokens in Look.seen:
        mine = [number for number, image in enumerate(trace.images) if image.grid == tokens.grid]
        for row, number in enumerate(mine):
            shown = {str(name): value[row] for name, value in tokens.signals.items()}
            yield number, shown, tokens.index[row]


@pytest.mark.parametrize(("name", "scene"), CELLS)
def test_every_unit_gets_the_values_of_its_own_patches(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(attention="eager"), case.inputs(scene)
    plain = watched(model, call)
    with tokenprune.attach(model, plan(LOOK)) as handle:
        logits(model, call)
        trace = handle.trace
    (shown,) = passes(case, case.prompts(scene), trace)
    received = []
    for picture in shown:
        own = torch.tensor(picture.units).flatten()
        mean = plain["weights"][picture.row].mean(0)[own][:, own].mean(0)
        received.append(mean.view(len(picture.units), -1).mean(1))
    wanted = {
        Signal.HIDDEN.name: [one.flatten(1) for one in units(plain["last"], shown)],
        Signal.HIDDEN.at(0).name: [one.flatten(1) for one in units(plain["first"], shown)],
        Signal.ATTENTION_RECEIVED.name: received,
    }
    seen = 0
    for number, values, index in pictures(trace):
        assert len(index) == trace.images[number].patches
        for signal, parts in wanted.items():
            whole = expected(parts, trace)[number]
            torch.testing.assert_close(values[signal], whole, atol=1e-5, rtol=1e-5)
        seen += 1
    assert seen == len(trace.images)


@pytest.mark.parametrize(("name", "scene"), CELLS)
def test_values_are_those_of_the_units_that_a_tower_left(
    name: str, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name, scene)
    model, call = case.build(torch.float64), case.inputs(scene, "left", torch.float64)
    early = {"strategy": "t-tower-drop", "at": "encoder", "keep": 0.5}
    with tokenprune.attach(model, plan(early, LOOK)) as handle:
        logits(model, call)
        trace = handle.trace
    (shown,) = passes(case, case.prompts(scene), trace)
    with hidden(model.model.vision_tower, [shown], monkeypatch):
        plain = watched(model, call)
    whole = expected([one.flatten(1) for one in units(plain["last"], shown)], trace)
    seen = 0
    for number, values, index in pictures(trace):
        states = values[Signal.HIDDEN.name].double()
        assert 0 < len(index) < trace.images[number].patches
        torch.testing.assert_close(states, whole[number][index], atol=1e-6, rtol=1e-6)
        seen += 1
    assert seen == len(trace.images)
