"""The matrix: every family, stage and scene, with padding and without, or refused by name.

A test is all cells of a family and a scene, which share a model and the plain runs. It holds that
keeping all changes no bit, steps included, that a shortened prompt equals the full one with the
removed tokens hidden, over prefill and steps, and that a detached model is as it was.

Every family meets each kind of stage by itself, and four steps behind all of them, in one scene.
In other scenes all stages act together, unless `cells.apart` tells that each acts by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.contract.cases import footprint, same
from tests.families.calls import case_of, logits
from tests.families.case import Case
from tests.families.cases import CASES
from tests.families.cells import (
    FEW,
    GLM,
    LINEAR,
    STAGES,
    UNFOLLOWED,
    WHOLE,
    Run,
    apart,
    content,
    cuts,
    family,
    paddings,
    pruned,
    run,
    shown,
    steps_of,
    thorough,
    tower_way,
    tower_without,
    without,
)
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import layers, plan
from tests.families.scenes import SCENES
from tests.families.test_steps import SCORES, reference
from tests.families.towers import PLUGIN, Drop
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.plugins.host import host, register_plugin

EXACT = 1e-9
RESIZED = "resized, so that every token shows several patches"
BLENDED = {
    "llava_onevision": ("video", "mixed"),
    "llava_onevision-resized": SCENES,
}
"""Scenes whose pictures are resized behind the tower, which a plan that drops inside it refuses."""
CELLS = [(name, scene) for name, case in CASES.items() for scene in shown(case)]
KEPT = [
    (name, scene)
    for name, scene in CELLS
    if scene != "video" or "mixed" not in shown(CASES[name]) or thorough(CASES[name], tower_way)
]
"""Families and scenes in which all is kept: what moves a bit of a clip moves it beside pictures."""
PARTIAL = ("gemma4-shared",)
"""Families whose plain `generate` runs the last layers on the last token alone: sums differ."""


def refusal(case: Case, scene: str, stages: str) -> tuple[type[Exception], str] | None:
    """Why a cell can't be served, and by which error; None if it can."""
    if stages not in ("encoder", "all"):
        return None
    if case.name in UNFOLLOWED:
        return UnsupportedModelError, f"through the tower of .*: {UNFOLLOWED[case.name]}"
    if scene in BLENDED.get(case.name, ()):
        return UnsupportedCallError, RESIZED
    return None


def acting(case: Case, scene: str, each: bool) -> list[str]:
    """What acts in the cells of a case and a scene.

    What is refused is tried everywhere. `late` acts where cells of `all` don't hold it, too.

    Args:
        case: the family.
        scene: of its cells.
        each: whether each kind of stage acts by itself, beside all together.
    """
    refused = [stages for stages in STAGES if refusal(case, scene, stages)]
    together = "late" if "all" in refused else "all"
    if each:
        return [stages for stages in STAGES if stages != "late" or stages == together]
    return [*refused, together]


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with register_plugin(PLUGIN, "family-towers"):
        yield


def test_what_is_refused_stands_in_the_matrix() -> None:
    """The reasons of cells that can't be served are those that the page of the matrix prints."""
    for name, case in CASES.items():
        limits = " ".join(host().mllms[family(case)].limits)
        cells = {refusal(case, scene, "encoder") for scene in case.scenes}
        clips = [scene for scene in case.scenes if scene in ("video", "mixed")]
        if any(refusal(case, scene, "encoder") for scene in clips):
            assert "resized" in limits or "aren't followed" in limits, name
        if not limits.startswith("`encoder`"):
            assert cells == {None}, name


@pytest.mark.parametrize("name", ["llava_next_video", "video_llava", "llava_onevision"])
def test_strategies_that_span_frames_are_refused_where_a_tower_sees_frames(name: str) -> None:
    stage = {"strategy": "evoprune", "at": "encoder", "keep": 0.6, "params": {"temporal": True}}
    with pytest.raises(UnsupportedModelError, match="frames of a video one by one"):
        tokenprune.attach(case_of(name).build(), plan(stage))
    assert "resized" in str(host().mllms[name].limits) or "span" in str(host().mllms[name].limits)


def test_no_scene_is_missing() -> None:
    """What a family can't show at all: it takes no clips, or no pictures beside them."""
    absent = {name for name, case in CASES.items() if set(case.scenes) != set(SCENES)}
    one_kind = {*GLM, "molmo2", "nemotron_h_omni"}
    assert absent == {name for name, case in CASES.items() if case.clip is None} | one_kind


def outputs(model: Any, call: dict[str, Tensor], steps: bool) -> dict[str, Tensor]:
    """Logits of a prompt, and those of a step behind it, if these are wanted."""
    found = {"prompt": logits(model, call)}
    return found | ({"steps": run(model, call, FEW).scores} if steps else {})


@pytest.mark.parametrize(("name", "scene"), KEPT)
def test_keeping_all_changes_no_bit(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model = case.build()
    for padding in paddings(case, scene):
        call, steps = case.inputs(scene, padding), (scene, padding) == WHOLE and name not in PARTIAL
        dense = outputs(model, call, steps)
        before = footprint(model)  # the library leaves hooks of its own in the first call
        for stages in acting(case, scene, apart(case, scene, padding)):
            refused = refusal(case, scene, stages)
            if refused and refused[0] is UnsupportedModelError:
                continue
            with tokenprune.attach(model, content(case, stages, 1.0)):
                assert same(outputs(model, call, steps), dense), f"{padding} {stages}"
        assert footprint(model) == before


@pytest.mark.parametrize(("name", "scene"), CELLS)
def test_a_cell_equals_the_full_prompt_with_removed_tokens_hidden(
    name: str, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name, scene)
    model = case.build(torch.float64)
    for padding in paddings(case, scene):
        call, whole = case.inputs(scene, padding, torch.float64), (scene, padding) == WHOLE
        dense = run(model, call, FEW) if whole else None
        before = footprint(model)  # behind a call, as in the test above
        for stages in acting(case, scene, whole or apart(case, scene, padding)):
            Drop.gone.clear()
            refused = refusal(case, scene, stages)
            if refused is not None:
                _refuses(model, content(case, stages, 0.5), call, *refused)
            elif name in LINEAR and stages != "decoder":
                _short_throughout(case, scene, padding, stages)
            else:
                _equals(case, scene, padding, stages, dense, monkeypatch)
        if dense is not None:
            assert footprint(model) == before
            assert torch.equal(run(model, call, FEW).scores, dense.scores)


def _refuses(
    model: Any, wanted: dict[str, Any], call: Any, error: type[Exception], why: str
) -> None:
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(error, match=why))
        stack.enter_context(tokenprune.attach(model, wanted))
        assert error is UnsupportedCallError, "a model that can't be served is refused at attach"
        run(model, call)


def _equals(
    case: Case, scene: str, padding: str, stages: str, dense: Run | None, patch: pytest.MonkeyPatch
) -> None:
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    prompts = case.prompts(scene, padding)
    wanted, steps = content(case, stages, 0.5), steps_of(case, scene, padding, stages)
    short, decided = pruned(case, stages, model, wanted, call, prompts, steps)
    with without(decided, patch) as lost:
        full = run(model, call, steps)
    cell = f"{case.name}, {scene}, {padding}, {stages}"
    seen = call["attention_mask"].bool() & ~lost
    assert bool(lost.any()), cell
    assert torch.equal(short.tokens, full.tokens), cell
    assert short.apart(full, seen) < EXACT, cell
    if dense is not None:  # hiding hides
        assert short.apart(dense, seen) > 1e-4, cell


def _short_throughout(case: Case, scene: str, padding: str, stages: str) -> None:
    """Linear attention sees the shortened prompt, so a row is held to a run on what is left."""
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    wanted, prompts = content(case, stages, 0.5), case.prompts(scene, padding)
    steps = steps_of(case, scene, padding, stages)
    batch, decided = pruned(case, stages, model, wanted, call, prompts, steps)
    lost = gone(case, decided.trace, call["input_ids"], prompts)
    for row, alone in enumerate(case.alone(scene, padding, torch.float64)):
        if not bool(lost[row].any()):
            continue
        _, decided = pruned(case, stages, model, wanted, alone, [prompts[row]], 0)
        found = cuts(decided)
        valid = call["attention_mask"][row].bool()
        assert torch.equal(found[-1][1][0], lost[row][valid])
        kept = (~found[0][1][0]).nonzero()[:, 0]
        with ExitStack() as stack:
            if decided.inside:
                stack.enter_context(tower_without(decided, pytest.MonkeyPatch()))
            own = layers(model)
            later = [hidden_from(own, layer, places[:, kept]) for layer, places in found[1:]]
            expected = reference(model, alone, kept, batch.tokens[row], later)
        for mine, one in zip(batch.scores, expected, strict=True):
            assert float((mine[row] - one[0]).abs().max()) < max(case.rounding, SCORES)
