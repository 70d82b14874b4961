"""Stages inside towers for pictures of any size, behind them and in the LLM at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.contract.cases import footprint
from tests.families.any_size import Pass, blocks, by_picture, hidden, passes
from tests.families.calls import case_of, logits
from tests.families.cases import CASES
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.models.mistral3 import Mistral3
from tests.families.plans import layers, plan
from tests.families.test_decoder import EXACT, generated
from tests.families.towers import PLUGIN, Drop
from tokenprune.errors import UnsupportedCallError
from tokenprune.plugins.host import register_plugin

FAMILIES = ("mistral3", "gemma4")
SCENES = [(name, scene) for name in FAMILIES for scene in CASES[name].scenes]
CELLS = [(name, scene, "left") for name, scene in SCENES]
CELLS += [(name, "several", "none") for name in FAMILIES]


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
    shown: Sequence[Pass],
    patch: pytest.MonkeyPatch,
    *removed: tuple[int, Tensor],
) -> Iterator[None]:
    """The plain model, units hidden in its tower, and prompt places from layers of its LLM on."""
    with ExitStack() as stack:
        stack.enter_context(hidden(model.model.vision_tower, shown, patch))
        for first, places in removed:
            stack.enter_context(hidden_from(layers(model), first, places))
        yield


@pytest.mark.parametrize(("name", "scene", "padding"), CELLS)
def test_a_drop_equals_the_full_run_with_removed_units_hidden(
    name: str, scene: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name, scene)
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    where, prompts = case.positions(call), case.prompts(scene, padding)
    dense, before = logits(model, call, **where), footprint(model)
    with tokenprune.attach(model, staged("t-tower-drop", 0.5)) as handle:
        short = logits(model, call, **where)
        trace = handle.trace
        tokens, scores = generated(model, call)
    assert footprint(model) == before
    assert torch.equal(logits(model, call, **where), dense)
    removed, shown = gone(case, trace, call["input_ids"], prompts), passes(case, prompts, trace)
    with without(model, shown, monkeypatch, (0, removed)):
        full = logits(model, call, **where)
    seen = call["attention_mask"].bool() & ~removed
    assert bool(removed.any())
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4
    with without(model, shown, monkeypatch, (0, removed)):
        full_tokens, full_scores = generated(model, call)
    assert torch.equal(tokens, full_tokens)
    assert float((scores - full_scores).abs().max()) < EXACT


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("later", "padding"), [("decoder", "left"), ("pre_llm", "none")])
def test_later_stages_go_on_from_what_the_tower_left(
    name: str, later: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name, "several")
    model, call = case.build(torch.float64), case.inputs("several", padding, torch.float64)
    prompts, first = case.prompts("several", padding), 2 if later == "decoder" else 0
    second = {"strategy": "random", "at": later, "keep": 0.6}
    if later == "decoder":
        second["layer"] = first
    stages = [{"strategy": "t-tower-drop", "at": "encoder", "keep": 0.6}, second]
    with tokenprune.attach(model, plan(*stages)) as handle:
        short = logits(model, call)
        trace = handle.trace
    behind = [gone(case, trace, call["input_ids"], prompts, step) for step in (0, 1)]
    assert bool((behind[1] & ~behind[0]).any())
    shown = passes(case, prompts, trace)
    with without(model, shown, monkeypatch, (0, behind[0]), (first, behind[1])):
        full = logits(model, call)
    seen = call["attention_mask"].bool() & ~behind[1]
    assert float((short - full)[seen].abs().max()) < EXACT


@pytest.mark.parametrize("strategy", ["t-tower-pair", "t-tower-revive"])
@pytest.mark.parametrize(("name", "scene"), [("mistral3", "several"), ("gemma4", "mixed")])
def test_merged_and_restored_units_are_those_of_loops(name: str, scene: str, strategy: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(torch.float64), case.inputs(scene, "left", torch.float64)
    dense, prompts = logits(model, call), case.prompts(scene)
    with tokenprune.attach(model, staged(strategy, 0.8)) as handle:
        short, trace = logits(model, call), handle.trace
    revived = strategy == "t-tower-revive"
    removed = gone(case, trace, call["input_ids"], prompts)
    shown = passes(case, prompts, trace)
    assert bool(removed.any()) != revived
    assert any(picture.pairs for one in shown for picture in one) != revived
    tower = model.model.vision_tower
    with by_picture(tower, shown, revived=revived), hidden_from(layers(model), 0, removed):
        full = logits(model, call)
    seen = call["attention_mask"].bool() & ~removed
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4


@pytest.mark.parametrize(("name", "scene"), SCENES)
def test_keeping_all_changes_no_bit(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene)
    dense, before = logits(model, call), footprint(model)
    with tokenprune.attach(model, staged("tome", 1.0)):
        assert torch.equal(logits(model, call), dense)
    with tokenprune.attach(model, plan({"strategy": "fopru", "at": "pre_llm", "keep": 1.0})):
        assert torch.equal(logits(model, call), dense)
    assert footprint(model) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_gives_what_its_prompts_give_alone(name: str) -> None:
    case = case_of(name, "several")
    model, call = case.build(torch.float64), case.inputs("several", "none", torch.float64)
    early = {"strategy": "evoprune", "at": "encoder", "keep": 0.6}
    with tokenprune.attach(model, plan(early, {"strategy": "fopru", "at": "pre_llm", "keep": 0.5})):
        together = logits(model, call)
        for row, alone in enumerate(case.alone("several", "none", torch.float64)):
            single = logits(model, alone)[0]
            assert float((single - together[row, -len(single) :]).abs().max()) < EXACT


class Deep(Mistral3):
    """Reads the states in front of the tower's last block."""

    def config(self) -> Any:
        config = super().config()
        config.vision_feature_layer = -2
        return config


@pytest.mark.parametrize("strategy", ["t-tower-drop", "t-tower-revive"])
def test_blocks_behind_the_last_one_that_is_read_run_on_all_rows(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = CASES["mistral3"]
    case = Deep("mistral3-deep", plain.model_class, plain.sizes)
    model, call = case.create(torch.float64), case.inputs("two_sizes", "left", torch.float64)
    dense, prompts = logits(model, call), case.prompts("two_sizes")
    with tokenprune.attach(model, staged(strategy, 0.5)) as handle:
        short, trace = logits(model, call), handle.trace
    assert torch.equal(logits(model, call), dense)
    removed, shown = gone(case, trace, call["input_ids"], prompts), passes(case, prompts, trace)
    revived = strategy == "t-tower-revive"
    tower = model.model.vision_tower
    run = by_picture(tower, shown, revived=True) if revived else hidden(tower, shown, monkeypatch)
    with run, hidden_from(layers(model), 0, removed):
        full = logits(model, call)
    seen = call["attention_mask"].bool() & ~removed
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_features_without_a_prompt_are_refused(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    given = {key: call[key] for key in ("image_sizes", "image_position_ids") if key in call}
    with (
        tokenprune.attach(model, staged("tome", 0.5)),
        pytest.raises(UnsupportedCallError, match="features alone"),
    ):
        model.model.get_image_features(call["pixel_values"], **given)


def test_clips_merge_across_frames_where_a_strategy_spans_them() -> None:
    case = case_of("gemma4", "video")
    model, call = case.build(torch.float64), case.inputs("video", "left", torch.float64)
    dense = logits(model, call)
    stage = {"strategy": "evoprune", "at": "encoder", "layers": [0, 3], "keep": 0.5}
    with tokenprune.attach(model, plan({**stage, "params": {"temporal": True}})) as handle:
        assert bool(logits(model, call).isfinite().all())
        images = handle.trace.images
    assert torch.equal(logits(model, call), dense)
    for image in images:
        last, frame = image.steps[-1], image.patches // image.grid[0]
        assert torch.bincount(last.anchor // frame).tolist() == [frame // 2] * image.grid[0]
        own = torch.arange(image.patches) // frame
        assert bool(((last.anchor // frame)[last.assignment] != own).any())


def test_the_projector_runs_on_the_units_that_are_left() -> None:
    case = case_of("mistral3", "several")
    model, call = case.build(), case.inputs("several")
    seen: list[int] = []
    merger = model.model.multi_modal_projector.patch_merger.merging_layer
    hook = merger.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    logits(model, call)
    with tokenprune.attach(model, staged("tome", 0.5)) as handle:
        logits(model, call)
        images = handle.trace.images
        assert "project" in handle.meter.seconds
    hook.remove()
    assert seen == [sum(image.patches for image in images), sum(image.kept for image in images)]


@pytest.mark.parametrize("name", FAMILIES)
def test_training_reaches_the_tower_through_what_is_left(name: str) -> None:
    case = case_of(name)
    model, call = case.create(), case.inputs("two_sizes")
    labels = call["input_ids"].masked_fill(case.placeholders(call), -100)
    with tokenprune.attach(model, staged("tome", 0.5)):
        model(**call, labels=labels).loss.backward()
    first, last = blocks(model.model.vision_tower)[0], blocks(model.model.vision_tower)[-1]
    weights = [parameter for block in (first, last) for parameter in block.parameters()]
    assert all(float(weight.grad.abs().sum()) > 0 for weight in weights if weight.dim() > 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_units_leave_in_bfloat16(name: str) -> None:
    case = case_of(name, "several")
    model, call = case.build(torch.bfloat16), case.inputs("several", "left", torch.bfloat16)
    for stage in ({"strategy": "tome"}, {"strategy": "ipcv", "layer": 2}):
        wanted = plan({**stage, "at": "encoder", "keep": 0.5})
        with tokenprune.attach(model, wanted):
            out = logits(model, call)
        assert out.dtype == torch.bfloat16
        assert bool(out.isfinite().all())
