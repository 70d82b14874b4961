"""Stages inside the packed towers of multimodal LLMs, behind them and in the LLM at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import tokenprune
from tests.adapters.packed_full import Watch, full, near
from tests.adapters.packed_oracle import How, hidden_units, removed
from tests.contract.cases import footprint
from tests.families.calls import case_of, generated, logits
from tests.families.cells import FEW, Pass, packed_passes
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.merging import looped
from tests.families.models.common import built
from tests.families.plans import decoder, layers, plan
from tests.families.test_decoder import EXACT
from tests.families.test_steps import LINEAR, PACKED
from tests.packed import MEMBERS
from tests.plugin import registering
from tokenprune.engine.encoder.segments import Segments
from tokenprune.errors import UnsupportedCallError
from tokenprune.plugins.host import register_plugin

ROWS = {
    "image": ("pixel_values", "image_grid_thw"),
    "video": ("pixel_values_videos", "video_grid_thw"),
}
"""What brings pictures and clips, in the order in which the core asks for them."""
FAMILIES = (*PACKED, *LINEAR)
RESTORING = {"strategy": "ipcv", "layer": 2, "params": {"stabilise": 1, "neighbours": 2}}


def inside(strategy: str = "random", keep: float = 0.5, **more: Any) -> dict[str, Any]:
    """A stage inside the tower."""
    return {"strategy": strategy, "at": "encoder", "keep": keep, **more}


def mixed(name: str, stages: str, keep: float) -> dict[str, Any]:
    """A plan with a stage inside the tower and further ones."""
    early = {"strategy": "random", "at": "pre_llm", "keep": keep}
    late = decoder(name, keep)
    return plan(
        inside(keep=keep),
        *{"encoder": [], "pre_llm": [early], "decoder": [late], "all": [early, late]}[stages],
    )


def repeated(one: Pass, copies: int) -> Pass:
    """The same with every picture several times, as releases show them to beams."""
    gone_, grids = one
    counts = (grids.prod(-1) // MEMBERS).tolist()
    several = {
        block: torch.cat([part for p in lost.split(counts) for part in [p] * copies])
        for block, lost in gone_.items()
    }
    return several, grids.repeat_interleave(copies, dim=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_signals_of_a_tower_change_no_bit(name: str) -> None:
    """They split its blocks."""
    case = case_of(name, "several")
    model, call = case.build(), case.inputs("several")
    dense, before = logits(model, call), footprint(model)
    with tokenprune.attach(model, plan({"strategy": "fopru", "at": "pre_llm", "keep": 1.0})):
        assert torch.equal(logits(model, call), dense)
    assert footprint(model) == before


@pytest.mark.parametrize("scene", ["several", "video"])
@pytest.mark.parametrize("name", PACKED)
def test_restored_units_are_those_of_loops(
    name: str, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name, scene)
    model, call = case.build(torch.float64), case.inputs(scene, "left", torch.float64)
    with tokenprune.attach(model, plan(inside(keep=0.4, **RESTORING))) as handle:
        short, trace = logits(model, call), handle.trace
        tokens, scores = generated(model, call, FEW)
    assert all(image.kept == image.patches for image in trace.images)
    looped(model.model.visual, call, trace, How(stabilise=1, neighbours=2), monkeypatch)
    full = logits(model, call)
    full_tokens, full_scores = generated(model, call, FEW)
    seen = call["attention_mask"].bool()
    assert float((short - full)[seen].abs().max()) < EXACT
    assert torch.equal(tokens, full_tokens)
    assert float((scores - full_scores).abs().max()) < EXACT


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_gives_what_its_prompts_give_alone(name: str) -> None:
    case = case_of(name, "several")
    model, call = case.build(torch.float64), case.inputs("several", "none", torch.float64)
    stages = plan(inside("evoprune", 0.6), {"strategy": "uniform", "at": "pre_llm", "keep": 0.5})
    with tokenprune.attach(model, stages):
        together = logits(model, call)
        for row, alone in enumerate(case.alone("several", "none", torch.float64)):
            single = logits(model, alone)[0]
            assert float((single - together[row, -len(single) :]).abs().max()) < case.rounding


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_beams_and_runs_without_a_cache(name: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("two_sizes", "left", torch.float64)
    new = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with tokenprune.attach(model, mixed(name, "decoder", 0.6)) as handle:
        logits(model, call)
        trace = handle.trace
        cached = model.generate(**call, **new)
        assert torch.equal(model.generate(**call, **new, use_cache=False), cached)
        tokens = model.generate(**call, **new, num_beams=2)
    ids, prompts = call["input_ids"], case.prompts("two_sizes")
    first, last = (gone(case, trace, ids, prompts, at).repeat_interleave(2, 0) for at in (-2, -1))
    hide = packed_passes(model, call, trace.images)
    if not hasattr(model, "_expand_multimodal_outputs"):  # encodes in the first forward
        hide = [repeated(one, 2) for one in hide]
    with (
        hidden_units(model.model.visual, *hide),
        hidden_from(layers(model), 0, first),
        hidden_from(layers(model), 2, last),
    ):
        assert torch.equal(model.generate(**call, **new, num_beams=2), tokens)


def test_clips_given_frame_by_frame_merge_across_their_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = case_of("glm4v", "video")
    model, call = case.build(torch.float64), case.inputs("video", "left", torch.float64)
    spanning = inside("evoprune", layers=[0, 3], params={"temporal": True})
    with tokenprune.attach(model, plan(spanning)) as handle:
        short, trace = logits(model, call), handle.trace
    lost = gone(case, trace, call["input_ids"], case.prompts("video"))
    frame = trace.image(0).steps[-1].anchor // 6
    assert torch.bincount(frame).tolist() == [3, 3, 3]
    own = torch.arange(18) // 6
    assert bool((frame[trace.image(0).steps[-1].assignment] != own).any())
    looped(model.model.visual, call, trace, How(biased=True), monkeypatch)
    with hidden_from(layers(model), 0, lost):
        full = logits(model, call)
    seen = call["attention_mask"].bool() & ~lost
    assert float((short - full)[seen].abs().max()) < EXACT


def test_training_reaches_the_tower_through_what_is_left() -> None:
    case = case_of("qwen3_vl")
    model, call = case.create(), case.inputs("two_sizes")
    labels = call["input_ids"].masked_fill(case.placeholders(call), -100)
    with tokenprune.attach(model, plan(inside("tome", 0.5))):
        out = model(**call, labels=labels, output_hidden_states=True)
        out.loss.backward()
    assert {tuple(states.shape[:2]) for states in out.hidden_states} == {tuple(labels.shape)}
    weights = [block.attn.qkv.weight for block in model.model.visual.blocks]
    weights += [level.linear_fc1.weight for level in model.model.visual.deepstack_merger_list]
    assert all(float(weight.grad.abs().sum()) > 0 for weight in weights)


def test_a_report_counts_units() -> None:
    case = case_of("qwen2_5_vl", "mixed")
    model, call = case.build(), case.inputs("mixed")
    with tokenprune.attach(model, mixed("qwen2_5_vl", "pre_llm", 0.5)) as handle:
        logits(model, call)
    images, report = handle.trace.images, handle.report()
    frames = sum(image.grid[0] for image in images)
    assert report.images == frames
    assert report.tokens["patches"] == report.tokens["units"]
    assert report.tokens["units"] == sum(image.patches for image in images) / frames
    assert report.tokens["llm"] == sum(image.kept for image in images) / frames
    assert report.tokens["llm"] < report.tokens["encoder"] < report.tokens["units"]


def test_a_tower_alone_is_refused_inside_of_its_model() -> None:
    """Zeros in place of removed units would go to the LLM."""
    case = case_of("qwen3_vl")
    model, call = case.build(), case.inputs("one")
    with (
        tokenprune.attach(model.model.visual, plan(inside("tome", 0.5))),
        pytest.raises(UnsupportedCallError, match="attach the plan to the Qwen3VL"),
    ):
        logits(model, call)


def test_features_without_a_prompt_are_refused() -> None:
    case = case_of("qwen3_vl")
    model, call = case.build(), case.inputs("one")
    with (
        tokenprune.attach(model, plan(inside("tome", 0.5))),
        pytest.raises(UnsupportedCallError, match="features alone"),
    ):
        model.model.get_image_features(call["pixel_values"], call["image_grid_thw"])


@pytest.mark.parametrize("scene", ["several", "video"])
@pytest.mark.parametrize(
    "name", ["qwen2_5_vl", "qwen3_vl", "qwen3_5", "exaone4_5", "glm4v", "glm_ocr"]
)
def test_signals_of_the_tower_stand_behind_it(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(torch.float64), case.inputs(scene, "left", torch.float64)
    tower = model.model.visual
    pixels, grids = ROWS["video" if scene == "video" else "image"]
    watch = {"strategy": "t-watch", "at": "pre_llm", "keep": 0.5}
    Watch.seen.clear()
    with (
        register_plugin(registering(Watch), "packed"),
        tokenprune.attach(model, plan(inside(layer=0), watch)) as handle,
    ):
        logits(model, call)
    images = handle.trace.images
    rows = {"hidden_states": call[pixels], "grid_thw": call[grids]}
    whole = full(tower, rows, removed(images, len(tower.blocks)))
    starts = [0, *(call[grids].prod(-1) // MEMBERS).cumsum(0).tolist()]
    assert sum(len(tokens.index) for tokens in Watch.seen) == len(images)
    for tokens in Watch.seen:
        mine = [number for number, image in enumerate(images) if image.grid == tokens.grid]
        for row, number in enumerate(mine):
            units = starts[number] + tokens.index[row]
            shown = {name.partition("@")[0]: one[row] for name, one in tokens.signals.items()}
            near(shown["hidden"], whole.entered[whole.row[units]].flatten(1))
            count = len(units) // tokens.grid[0]  # shares of attention are of a frame
            for frame in range(tokens.grid[0]):
                part = slice(frame * count, (frame + 1) * count)
                whole.check({name: one[part] for name, one in shown.items()}, units[part])


@pytest.mark.parametrize("name", FAMILIES)
def test_segments_are_looked_up_once_behind_a_merge(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many blocks follow: on a GPU every look-up waits for the borders' values."""
    made, found = Segments.of, []

    def counted(*given: Any) -> Segments:
        found[-1] += 1
        return made(*given)

    monkeypatch.setattr(Segments, "of", counted)
    case = case_of(name)
    for depth in (4, 12):
        config, call = case.config(), case.inputs("one")
        config.vision_config.depth = depth
        model = built(getattr(transformers, case.model_class), config, torch.float32, "sdpa")
        found.append(0)
        with tokenprune.attach(model, plan(inside("tome", layers=[0, 1]))):
            logits(model, call)
    assert found[0] == found[1] > 0
