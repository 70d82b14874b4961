"""Encoder stages: every tower that is followed, every scene, against the plain model with masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.cases import CASES
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import layers, plan
from tests.families.test_decoder import EXACT, generated
from tests.families.towers import PLUGIN, Drop, hidden_in, paired_in, revived_in
from tokenprune.errors import UnsupportedCallError
from tokenprune.plugins.host import register_plugin

PREFIX = dict.fromkeys(("paligemma", "llava_onevision", "gemma3", "idefics3", "smolvlm"), 0)
"""Class tokens of a family's tower; one in most."""
FAMILIES = (
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "video_llava",
    "vipllava",
    "paligemma",
    "gemma3",
    "internvl",
    "idefics3",
    "smolvlm",
)
SCENES = [(name, scene) for name in FAMILIES for scene in CASES[name].scenes]
BLENDED = [
    *(("llava_onevision", scene) for scene in ("video", "mixed")),
    *(("llava_onevision-resized", scene) for scene in ("one", "video")),
]
CELLS = [cell for cell in SCENES if cell not in BLENDED]
RESTORING = {"strategy": "ipcv", "at": "encoder", "layer": 2, "keep": 0.5}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Drop.gone.clear()
    with register_plugin(PLUGIN, "family-towers"):
        yield


def staged(strategy: str, keep: Any) -> dict[str, Any]:
    return plan({"strategy": strategy, "at": "encoder", "keep": keep})


@contextmanager
def without(
    model: Any,
    passes: list[tuple[Tensor, int]],
    prefix: int,
    patch: pytest.MonkeyPatch,
    *removed: tuple[int, Tensor],
) -> Iterator[None]:
    """The plain model, units hidden in its tower, and prompt places from layers of its LLM on."""
    with ExitStack() as stack:
        stack.enter_context(hidden_in(model, passes, prefix, patch))
        for first, places in removed:
            stack.enter_context(hidden_from(layers(model), first, places))
        yield


@pytest.mark.parametrize(("name", "scene"), CELLS)
def test_a_drop_equals_the_full_run_with_removed_patches_hidden(
    name: str, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, prefix = case_of(name, scene), PREFIX.get(name, 1)
    model, call = case.build(torch.float64), case.inputs(scene, "left", torch.float64)
    where, prompts = case.positions(call), case.prompts(scene, "left")
    dense = logits(model, call, **where)
    with tokenprune.attach(model, staged("t-tower-drop", 0.5)) as handle:
        short = logits(model, call, **where)
        passes = list(Drop.gone)
        removed = gone(case, handle.trace, call["input_ids"], prompts)
        tokens, scores = generated(model, call)
    assert torch.equal(logits(model, call, **where), dense)
    with without(model, passes, prefix, monkeypatch, (0, removed)):
        full = logits(model, call, **where)
    seen = call["attention_mask"].bool() & ~removed
    assert bool(removed.any())
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4
    with without(model, passes, prefix, monkeypatch, (0, removed)):
        full_tokens, full_scores = generated(model, call)
    assert torch.equal(tokens, full_tokens)
    assert float((scores - full_scores).abs().max()) < EXACT


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("later", "padding"), [("decoder", "left"), ("pre_llm", "none")])
def test_later_stages_go_on_from_what_the_tower_left(
    name: str, later: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, prefix = case_of(name, "several"), PREFIX.get(name, 1)
    model, call = case.build(torch.float64), case.inputs("several", padding, torch.float64)
    prompts, first = case.prompts("several", padding), 2 if later == "decoder" else 0
    second = {"strategy": "random", "at": later, "keep": 0.6}
    stages = [{"strategy": "t-tower-drop", "at": "encoder", "keep": 0.6}, second]
    if later == "decoder":
        second["layer"] = first
    with tokenprune.attach(model, plan(*stages)) as handle:
        short = logits(model, call)
        passes = list(Drop.gone)
        behind = [gone(case, handle.trace, call["input_ids"], prompts, step) for step in (0, 1)]
        tokens, _ = generated(model, call)
    assert bool((behind[1] & ~behind[0]).any())
    removed = ((0, behind[0]), (first, behind[1]))
    with without(model, passes, prefix, monkeypatch, *removed):
        full = logits(model, call)
    seen = call["attention_mask"].bool() & ~behind[1]
    assert float((short - full)[seen].abs().max()) < EXACT
    with without(model, passes, prefix, monkeypatch, *removed):
        assert torch.equal(tokens, generated(model, call)[0])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gemma3"])
def test_the_projector_runs_on_the_units_that_are_left(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    core, seen = model.model, list[int]()
    projector = getattr(core, "multi_modal_projector", None) or core.connector.modality_projection
    linear = next(part for part in projector.modules() if isinstance(part, nn.Linear))
    hook = linear.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    logits(model, call)
    with tokenprune.attach(model, staged("t-tower-drop", 0.5)) as handle:
        logits(model, call)
        assert "project" in handle.meter.seconds
    hook.remove()
    ((dropped, count),) = Drop.gone
    assert seen == [count, count - dropped.shape[1]]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merge_equals_one_by_loops(name: str) -> None:
    case, scene = case_of(name, "several"), "several"
    model, call = case.build(torch.float64), case.inputs(scene, "left", torch.float64)
    with tokenprune.attach(model, staged("t-tower-pair", 0.8)) as handle:
        short = logits(model, call)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts(scene, "left"))
        report = handle.report()
        assert report.tiles is not None
        left, units = (round(report.tokens[name] / report.tiles) for name in ("encoder", "patches"))
    count = units - left
    with (
        paired_in(model, count, units, PREFIX.get(name, 1)),
        hidden_from(layers(model), 0, removed),
    ):
        full = logits(model, call)
    seen = call["attention_mask"].bool() & ~removed
    assert count
    assert float((short - full)[seen].abs().max()) < EXACT


@pytest.mark.parametrize("name", FAMILIES)
def test_restored_patches_are_read_at_every_depth(name: str) -> None:
    case, prefix = case_of(name, "several"), PREFIX.get(name, 1)
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    dense = logits(model, call)
    with tokenprune.attach(model, staged("t-tower-revive", 0.6)) as handle:
        short = logits(model, call)
        assert all(image.kept == image.patches for image in handle.trace.images)
    with revived_in(model, Drop.gone, prefix):
        full = logits(model, call)
    seen = call["attention_mask"].bool()
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4


@pytest.mark.parametrize(("name", "scene"), SCENES)
def test_keeping_all_changes_no_bit(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene)
    dense = logits(model, call)
    with tokenprune.attach(model, staged("tome", 1.0)):
        assert torch.equal(logits(model, call), dense)
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(name.startswith("get_") for name in model.model.__dict__)


@pytest.mark.parametrize(("name", "scene"), BLENDED)
def test_units_that_overlap_take_strategies_that_restore(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene)
    dense = logits(model, call)
    with (
        tokenprune.attach(model, staged("tome", 0.5)),
        pytest.raises(UnsupportedCallError, match="resized"),
    ):
        logits(model, call)
    with tokenprune.attach(model, plan(RESTORING)):
        assert float((logits(model, call) - dense).abs().max()) > 1e-4
    assert torch.equal(logits(model, call), dense)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_without_a_prompt_are_refused(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    given = {key: value for key, value in call.items() if key in ("pixel_values", "image_sizes")}
    given = given or {"pixel_values": call["pixel_values_images"]}
    with (
        tokenprune.attach(model, staged("tome", 0.5)),
        pytest.raises(UnsupportedCallError, match="features alone"),
    ):
        model.model.get_image_features(**given)
