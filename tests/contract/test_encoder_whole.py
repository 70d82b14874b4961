"""A pruned tower is the whole one with the patches that are gone hidden as keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapters.variants import adapted
from tests.contract.cases import ENCODER_STAGES, ENCODERS, attached
from tokenprune.engine.patching import Patches
from tokenprune.interface.strategy import placement
from tokenprune.lab.verify.tower import FullTower, TowerStep

TOWERS = ("clip-vision", "internvl", "idefics3", "dinov2-registers", "dinov3")
STAGES = ("random", "fopru", "tome", "tome-bare", "evoprune")


def in_float64(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_survivors_are_those_of_the_whole_tower(tower: str, stage: str) -> None:
    model, inputs = ENCODERS[tower].build().double(), in_float64(ENCODERS[tower].inputs(2))
    states: list[Tensor] = []
    last = adapted(model).spec().blocks[-1]
    hook = last.register_forward_hook(lambda block, args, output: states.append(output))
    with attached(model, ENCODER_STAGES[stage]) as handle:
        model(**inputs)
        strategy = handle.stages[0].strategy
        steps = [
            TowerStep(
                block=record.site.layer,
                inside=placement(strategy, "encoder").where == "inside",
                slot=record.slot,
                anchor=record.anchor,
                averages=stage not in ("random", "fopru"),
                proportional=strategy.proportional(),
            )
            for record in handle.trace.records
            if record.slot is not None
        ]
    hook.remove()
    assert len(steps) > 1
    whole = _whole(model, inputs, steps)
    # the log of a size is taken in float32
    near = 1e-6 if strategy.proportional() else 1e-9
    torch.testing.assert_close(states[0], whole.survivors(), rtol=0, atol=near)


@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_dropped_tokens_are_seen_in_their_own_places(tower: str) -> None:
    """In the block of the drop, what attention sees of dropped tokens is what they are."""
    model, inputs = ENCODERS[tower].build().double(), in_float64(ENCODERS[tower].inputs(2))
    spec, stage = adapted(model).spec(), ENCODER_STAGES["ipcv"]
    states: list[Tensor] = []
    hook = spec.blocks[stage["layer"]].register_forward_hook(
        lambda block, args, output: states.append(output)
    )
    model(**inputs)
    with attached(model, stage) as handle:
        model(**inputs)
        (anchor,) = (r.anchor for r in handle.trace.records if r.slot is not None)
    hook.remove()
    plain, pruned = states
    for row in range(2):
        places = [*range(spec.prefix), *(spec.prefix + place for place in anchor[row].tolist())]
        torch.testing.assert_close(pruned[row], plain[row][places], rtol=0, atol=1e-9)


def _whole(model: Any, inputs: dict[str, Tensor], steps: list[TowerStep]) -> FullTower:
    adapter, patches = adapted(model), Patches()
    whole = FullTower(adapter, len(adapter.spec().blocks), steps)
    whole.install(patches)
    try:
        model(**inputs)
    finally:
        patches.undo()
    return whole
