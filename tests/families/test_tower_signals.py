"""Signals of a followed tower in front of the LLM, unit by unit, against the tower's own values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.plans import plan
from tests.families.test_encoder import PREFIX
from tests.families.towers import PLUGIN, Drop, towers
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, Signal, StrategyParams, Tokens
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.sites import Site
from tokenprune.plugins.host import register_plugin


class Look(PruningStrategy[StrategyParams]):
    """Keep all, and put aside what was shown."""

    name = "t-tower-look"
    stages = (PreLlm(),)
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Signal.HIDDEN, Signal.ATTENTION_RECEIVED, Signal.HIDDEN.at(0))

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        return Reduction.none()


class LookClass(Look):
    """The same with what a class token says."""

    name = "t-tower-look-class"

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (*super().signals(site), Signal.CLS_ATTENTION, Signal.PREFIX_STATES)


CELLS = [
    ("llava_next", "several"),
    ("llava_onevision", "several"),
    ("video_llava", "mixed"),
    ("paligemma", "two_sizes"),
    ("vipllava", "two_sizes"),
]


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Look.seen.clear()
    Drop.gone.clear()
    with (
        register_plugin(PLUGIN, "family-towers"),
        register_plugin(registering(Look, LookClass), "family-looks"),
    ):
        yield


def watched(name: str, model: Any, call: dict[str, Tensor]) -> dict[str, Tensor]:
    """By name: values of all patches of all pieces `[M, ...]`, from blocks of the plain model.

    States and attention weights of the last block that the projector reads, and the first block's
    states.
    """
    prefix, found = PREFIX.get(name, 1), dict[str, list[Tensor]]()
    used = -1 if prefix == 0 else -2

    def note(**values: Tensor) -> None:
        for key, value in values.items():
            found.setdefault(key, []).append(value)

    def last(module: Any, args: Any, out: Tensor) -> None:
        note(hidden=out[:, prefix:].flatten(0, 1), prefix=out[:, :prefix].flatten(0, 1))

    def attended(module: Any, args: Any, out: Any) -> None:
        mean = out[1].mean(1)
        received = mean[:, prefix:, prefix:].mean(1).flatten()
        note(received=received, seen=mean[:, 0, prefix:].flatten())

    def first(module: Any, args: Any, out: Tensor) -> None:
        note(first=out[:, prefix:].flatten(0, 1))

    hooks = []
    for blocks in towers(model):
        hooks.append(blocks[used].register_forward_hook(last))
        hooks.append(blocks[used].get_submodule("self_attn").register_forward_hook(attended))
        hooks.append(blocks[0].register_forward_hook(first))
    logits(model, call)
    for hook in hooks:
        hook.remove()
    return {key: torch.cat(values) for key, values in found.items()}


def rows(values: Tensor, wanted: Tensor) -> Tensor:
    """Which row of `values` `[M, D]` each of `wanted` `[N, D]` is."""
    near = (wanted[:, None] - values).abs().amax(dim=-1)
    assert float(near.min(dim=1).values.max()) < 1e-5
    return near.argmin(dim=1)


@pytest.mark.parametrize(("name", "scene"), CELLS)
def test_every_unit_gets_the_values_of_its_own_patch(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(attention="eager"), case.inputs(scene)
    plain = watched(name, model, call)
    with_class = PREFIX.get(name, 1) > 0
    strategy = "t-tower-look-class" if with_class else "t-tower-look"
    with tokenprune.attach(model, plan({"strategy": strategy, "at": "pre_llm", "keep": 1.0})):
        logits(model, call)
    places = []
    for tokens in Look.seen:
        for row, hidden in enumerate(tokens.signal(Signal.HIDDEN)):
            mine = rows(plain["hidden"], hidden)
            places.append(mine)
            for signal, key in (
                (Signal.ATTENTION_RECEIVED, "received"),
                (Signal.HIDDEN.at(0), "first"),
                *(((Signal.CLS_ATTENTION, "seen"),) if with_class else ()),
            ):
                assert float((tokens.signal(signal)[row] - plain[key][mine]).abs().max()) < 1e-5
            if with_class:
                states = tokens.signal(Signal.PREFIX_STATES)[row]
                own = plain["prefix"][int(mine[0]) // _patches(model)]
                assert torch.allclose(states[0], own, atol=1e-5)
    taken = torch.cat(places).tolist()
    assert len(taken) == len(set(taken))


def _patches(model: Any) -> int:
    vision = model.config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)


@pytest.mark.parametrize("name", ["llava_next", "video_llava"])
def test_values_shrink_with_the_tokens_that_a_tower_drops(name: str) -> None:
    case = case_of(name, "several")
    model, call = case.build(), case.inputs("several")
    early = {"strategy": "t-tower-drop", "at": "encoder", "keep": 0.5}
    with tokenprune.attach(
        model, plan(early, {"strategy": "t-tower-look", "at": "pre_llm", "keep": 1.0})
    ):
        logits(model, call)
    ((dropped, count),) = Drop.gone
    kept = len(dropped) * (count - dropped.shape[1])
    shown = [row for tokens in Look.seen for row in tokens.signal(Signal.HIDDEN)]
    assert all(row.shape[0] == len(row) for row in shown)
    assert sum(len(row) for row in shown) <= kept
    for tokens in Look.seen:
        assert tokens.signal(Signal.HIDDEN).shape[:2] == tokens.hidden.shape[:2]
        assert tokens.signal(Signal.ATTENTION_RECEIVED).shape == tokens.index.shape


def test_units_that_overlap_have_no_values_of_a_tower() -> None:
    case = case_of("llava_onevision", "video")
    model, call = case.build(), case.inputs("video")
    with (
        tokenprune.attach(model, plan({"strategy": "fopru", "at": "pre_llm", "keep": 0.5})),
        pytest.raises(UnsupportedCallError, match="resized"),
    ):
        logits(model, call)
