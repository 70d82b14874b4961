"""Stages inside towers for pictures of any size, besides what the matrix of cells has of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tokenprune
from tests.contract.cases import footprint
from tests.families.any_size import blocks, by_picture, hidden, passes, tower_of
from tests.families.calls import ARGUMENTS, case_of, logits
from tests.families.cases import CASES
from tests.families.cells import ANY_SIZE as FAMILIES
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.models.mistral3 import LlavaPixtral, Mistral3
from tests.families.plans import layers, plan
from tests.families.test_decoder import EXACT
from tests.families.towers import PLUGIN, Drop
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.plugins.host import register_plugin

SCENES = [
    (name, scene)
    for name in FAMILIES
    for scene in CASES[name].scenes
    if scene in ("several", "mixed") or name == FAMILIES[0]
]
"""Pictures of both sizes, and clips beside them; one family meets the rest, too."""


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Drop.gone.clear()
    with register_plugin(PLUGIN, "family-towers"):
        yield


def staged(strategy: str, keep: Any) -> dict[str, Any]:
    return plan({"strategy": strategy, "at": "encoder", "keep": keep})


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("mistral3", "several"),
        ("paddleocr_vl", "several"),
        ("ernie4_5_vl_moe", "mixed"),
        ("gemma4", "mixed"),
        ("lfm2_vl", "several"),
        ("video_llama_3", "mixed"),
        ("minicpmv4_6", "mixed"),
        ("kimi_k25", "mixed"),
        ("minimax_m3_vl", "mixed"),
        ("cosmos3_edge", "mixed"),
    ],
)
def test_restored_units_are_those_of_loops(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(torch.float64), case.inputs(scene, "left", torch.float64)
    dense, prompts = logits(model, call), case.prompts(scene)
    with tokenprune.attach(model, staged("t-tower-revive", 0.8)) as handle:
        short, trace = logits(model, call), handle.trace
    assert all(image.kept == image.patches for image in trace.images)
    with by_picture(tower_of(model), passes(case, prompts, trace), revived=True):
        full = logits(model, call)
    seen = call["attention_mask"].bool()
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4


@pytest.mark.parametrize(("name", "scene"), SCENES)
def test_signals_of_a_tower_change_no_bit(name: str, scene: str) -> None:
    """They split its blocks."""
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene)
    dense, before = logits(model, call), footprint(model)
    with tokenprune.attach(model, plan({"strategy": "fopru", "at": "pre_llm", "keep": 1.0})):
        assert torch.equal(logits(model, call), dense)
    assert footprint(model) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_gives_what_its_prompts_give_alone(name: str) -> None:
    case = case_of(name, "several")
    model, call = case.build(torch.float64), case.inputs("several", "none", torch.float64)
    early = {"strategy": "evoprune", "at": "encoder", "keep": 0.6}
    with tokenprune.attach(model, plan(early, {"strategy": "fopru", "at": "pre_llm", "keep": 0.5})):
        together = logits(model, call, **case.positions(call))
        for row, alone in enumerate(case.alone("several", "none", torch.float64)):
            single = logits(model, alone, **case.positions(alone))[0]
            assert float((single - together[row, -len(single) :]).abs().max()) < case.rounding


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
    tower = tower_of(model)
    run = by_picture(tower, shown, revived=True) if revived else hidden(tower, shown, monkeypatch)
    with run, hidden_from(layers(model), 0, removed):
        full = logits(model, call)
    seen = call["attention_mask"].bool() & ~removed
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4


class Levels(LlavaPixtral):
    """Reads the states behind two of its tower's blocks, side by side."""

    def config(self) -> Any:
        config = super().config()
        config.vision_feature_layer = [-2, -1]
        return config


def test_states_of_several_depths_are_read_of_all_units_only() -> None:
    plain = CASES["llava_pixtral"]
    case = Levels("llava_pixtral-levels", plain.model_class, plain.sizes)
    model = case.create()
    with pytest.raises(UnsupportedModelError, match=r"behind \[3, 4\] blocks"):
        tokenprune.attach(model, staged("tome", 0.5))
    assert not any("forward" in module.__dict__ for module in model.modules())
    call = case.inputs("two_sizes")
    dense = logits(model, call)
    with tokenprune.attach(model, plan({"strategy": "fopru", "at": "pre_llm", "keep": 1.0})):
        assert torch.equal(logits(model, call), dense)


class Cutting(LlavaPixtral):
    """Takes the first row of all pictures for a class token."""

    def config(self) -> Any:
        config = super().config()
        config.vision_feature_select_strategy = "default"
        return config


def test_a_llava_that_cuts_a_patch_off_is_refused() -> None:
    plain = CASES["llava_pixtral"]
    model = Cutting("llava_pixtral-cut", plain.model_class, plain.sizes).create()
    with pytest.raises(UnsupportedModelError, match=r"takes 1 leading token\(s\) of a image off"):
        tokenprune.attach(model, staged("tome", 0.5))


def test_pictures_that_fill_their_tensor_need_no_sizes() -> None:
    case = case_of("llava_pixtral")
    model, call = case.build(), case.inputs("one")
    with tokenprune.attach(model, staged("tome", 0.5)):
        pruned = logits(model, call)
        del call["image_sizes"]
        assert torch.equal(logits(model, call), pruned)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_without_a_prompt_are_refused(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    given = {key: call[key] for key in ARGUMENTS["image"] if key in call}
    with (
        tokenprune.attach(model, staged("tome", 0.5)),
        pytest.raises(UnsupportedCallError, match="features alone"),
    ):
        model.model.get_image_features(**given)


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
    first, last = blocks(tower_of(model))[0], blocks(tower_of(model))[-1]
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
