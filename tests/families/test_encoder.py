"""Encoder stages of towers that are followed: restored patches, projectors, refusals."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.cells import PREFIX
from tests.families.plans import core, plan
from tests.families.test_decoder import EXACT
from tests.families.towers import PLUGIN, Drop, revived_in, towers
from tokenprune.errors import PictureWarning, UnsupportedCallError
from tokenprune.plugins.host import register_plugin

SHUFFLED = ("aya_vision", "cohere2_vision", "llama4")
"""Families that shuffle pixels in front of the projector, which runs on all."""
FAMILIES = (
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "video_llava",
    "vipllava",
    "paligemma",
    "gemma3",
    "internvl",
    "qianfan_ocr",
    "idefics3",
    "smolvlm",
    "perception_lm",
    "ovis2",
    "janus",
    "deepseek_vl_hybrid",
    *SHUFFLED,
)
AVERAGED = ("gemma3", "perception_lm", "deepseek_vl_hybrid")
"""Families that average squares behind or inside of the projector, which runs on all patches, or
join them there with what another tower sees.
"""
BLENDED = [
    *(("llava_onevision", scene) for scene in ("video", "mixed")),
    *(("llava_onevision-resized", scene) for scene in ("one", "video")),
]
RESTORING = {"strategy": "ipcv", "at": "encoder", "layer": 2, "keep": 0.5}
INSIDE = {"strategy": "tome", "at": "encoder", "keep": 0.5}
READING = {"strategy": "fopru", "at": "pre_llm", "keep": 0.5}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Drop.gone.clear()
    with register_plugin(PLUGIN, "family-towers"):
        yield


def staged(strategy: str, keep: Any) -> dict[str, Any]:
    return plan({"strategy": strategy, "at": "encoder", "keep": keep})


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in (*AVERAGED, *SHUFFLED)])
def test_the_projector_runs_on_the_units_that_are_left(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    core, seen = model.model, list[int]()
    names = (
        "multi_modal_projector",
        "aligner",
        "connector.modality_projection",
        "vision_tower.head_linear",
    )
    projector = next(part for name, part in core.named_modules() if name in names)
    linear = next(part for part in projector.modules() if isinstance(part, nn.Linear))
    plain = nn.functional.linear

    def noted(rows: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        if weight is linear.weight:
            seen.append(rows.shape[1])
        return plain(rows, weight, *rest)

    monkeypatch.setattr(nn.functional, "linear", noted)
    logits(model, call)
    with tokenprune.attach(model, staged("t-tower-drop", 0.5)) as handle:
        logits(model, call)
        assert "project" in handle.meter.seconds
    ((dropped, count),) = Drop.gone
    assert seen == [count, count - dropped.shape[1]]


@pytest.mark.parametrize("name", FAMILIES)
def test_signals_of_a_tower_change_no_bit(name: str) -> None:
    """They split its blocks."""
    case = case_of(name, "several")
    model, call = case.build(), case.inputs("several")
    dense = logits(model, call)
    with tokenprune.attach(model, plan({**READING, "keep": 1.0})):
        assert torch.equal(logits(model, call), dense)


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


@pytest.mark.parametrize(("name", "scene"), BLENDED)
def test_units_that_overlap_take_strategies_that_restore(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene)
    dense = logits(model, call)
    with tokenprune.attach(model, plan(RESTORING)):
        assert float((logits(model, call) - dense).abs().max()) > 1e-4
    assert torch.equal(logits(model, call), dense)


@pytest.mark.parametrize("stage", [INSIDE, READING], ids=["removes", "reads"])
@pytest.mark.parametrize(("name", "scene"), BLENDED)
def test_units_that_overlap_are_refused_before_a_tower_runs(
    name: str, scene: str, stage: dict[str, Any]
) -> None:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene)
    ran: list[int] = []
    hook = towers(model)[0][0].register_forward_hook(lambda *_: ran.append(1))
    with (
        tokenprune.attach(model, plan(stage)),
        pytest.raises(UnsupportedCallError, match="resized, so that every token shows several"),
    ):
        logits(model, call)
    hook.remove()
    # of mixed scenes, pictures are encoded before clips
    assert bool(ran) == (scene == "mixed")


@pytest.mark.parametrize(
    ("name", "stage", "kinds"),
    [
        ("llava_onevision-resized", INSIDE, ["image", "video"]),
        ("llava_onevision-resized", READING, ["image", "video"]),
        ("llava_onevision", INSIDE, ["video"]),  # no map has more tiles than it allows
        ("llava_onevision-resized", RESTORING, []),
        ("llava_onevision-resized", {**INSIDE, "keep": 1.0}, []),
        ("llava_onevision-resized", {**READING, "strategy": "uniform"}, []),
        ("llava_next", INSIDE, []),
    ],
)
def test_what_a_plan_will_refuse_is_said_at_attach(
    name: str, stage: dict[str, Any], kinds: list[str]
) -> None:
    model = case_of(name).build()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenprune.attach(model, plan(stage)).detach()
    said = [str(one.message) for one in caught if one.category is PictureWarning]
    assert [text.split(":")[0].split()[-1] for text in said] == kinds
    assert all("resized" in text for text in said)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_without_a_prompt_are_refused(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    shown = ("pixel_values", "high_res_pixel_values", "image_sizes")
    given = {key: value for key, value in call.items() if key in shown}
    given = given or {"pixel_values": call["pixel_values_images"]}
    with (
        tokenprune.attach(model, staged("tome", 0.5)),
        pytest.raises(UnsupportedCallError, match="features alone"),
    ):
        core(model).get_image_features(**given)
