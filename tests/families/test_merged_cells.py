"""Merges in every cell of the matrix: a pruned run equals one in which loops merge.

The plans merge inside the tower, in front of the LLM and inside of it, each from what the one
before left; where a family's tower can't lose tokens of a scene, behind the tower only.

What a scene's places are, clips among them, and what padding moves, cells of drops show
(`test_cells`). So merges meet pictures of both sizes, in rows of several, of one and of none; of
each way through a tower one family meets all scenes, and of each way through an LLM one meets all
padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch

import tokenprune
from tests.families.calls import case_of, language
from tests.families.case import Case
from tests.families.cases import CASES
from tests.families.cells import (
    FEW,
    LINEAR,
    WHOLE,
    cut_at,
    cuts,
    family,
    paddings,
    pruned,
    run,
    thorough,
    tower_way,
)
from tests.families.masked import hidden_from
from tests.families.merging import (
    PLUGIN,
    content,
    groups,
    merged_at,
    merged_in,
    moved,
    tower_merging,
)
from tests.families.plans import LAYER, layers
from tests.families.test_cells import CELLS, EXACT, refusal
from tests.families.test_steps import SCORES, reference
from tests.families.towers import PLUGIN as TOWERS
from tests.families.towers import Pair
from tokenprune.plugins.host import register_plugin

KEEP = 0.75
MERGED = [
    (name, scene) for name, scene in CELLS if scene == WHOLE[0] or thorough(CASES[name], tower_way)
]
"""Families and scenes of merges."""


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with register_plugin(TOWERS, "family-towers"), register_plugin(PLUGIN, "family-merges"):
        yield


@pytest.mark.parametrize(("name", "scene"), MERGED)
def test_a_cell_equals_one_in_which_loops_merge(
    name: str, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name, scene)
    stages = "late" if refusal(case, scene, "all") else "all"
    for padding in paddings(case, scene):
        if name in LINEAR:
            _short_throughout(case, scene, padding, stages, monkeypatch)
        else:
            _equals(case, scene, padding, stages, monkeypatch)


def _equals(case: Case, scene: str, padding: str, stages: str, patch: pytest.MonkeyPatch) -> None:
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    prompts = case.prompts(scene, padding)
    Pair.made.clear()
    short, decided = pruned(case, stages, model, content(case, stages, KEEP), call, prompts, FEW)
    found = cuts(decided)
    with merged_in(decided, patch), cut_at(model, found):
        full = run(model, call, FEW)
    cell, lost = f"{family(case)}, {scene}, {padding}", found[-1][1]
    seen = call["attention_mask"].bool() & ~lost
    assert bool(lost.any()), cell
    assert torch.equal(short.tokens, full.tokens), cell
    assert short.apart(full, seen) < EXACT, cell
    if (scene, padding) == WHOLE:  # it isn't what a drop of the same tokens gives
        with cut_at(model, found):
            dropped = run(model, call, 0)
        assert short.apart(dropped, seen) > 1e-4, cell


def _short_throughout(
    case: Case, scene: str, padding: str, stages: str, patch: pytest.MonkeyPatch
) -> None:
    """As `_short_throughout` of `test_cells`, of a row by itself."""
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    wanted, prompts = content(case, stages, KEEP), case.prompts(scene, padding)
    with tokenprune.attach(model, wanted):
        batch = run(model, call, FEW)
    for row, alone in enumerate(case.alone(scene, padding, torch.float64)):
        if not bool(case.placeholders(alone).any()):
            continue
        _, decided = pruned(case, stages, model, wanted, alone, [prompts[row]], 0)
        found = cuts(decided)
        kept = (~found[0][1][0]).nonzero()[:, 0]
        late = moved(groups(decided, -1), kept.tolist())
        own = layers(model)
        later = [hidden_from(own, layer, places[:, kept]) for layer, places in found[1:]]
        later.append(merged_at(own[LAYER[case.name]], "hidden_states", late))
        with ExitStack() as stack:
            if decided.inside:
                stack.enter_context(tower_merging(decided, patch))
            early = merged_at(language(model), "inputs_embeds", groups(decided, -2))
            stack.enter_context(early)
            expected = reference(model, alone, kept, batch.tokens[row], later)
        for step, one in zip(batch.scores, expected, strict=True):
            assert float((step[row] - one[0]).abs().max()) < max(case.rounding, SCORES)
