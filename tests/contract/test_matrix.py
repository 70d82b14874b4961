"""The matrix of strategies and model families says what attaching really does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import pytest
from tokenprune_adapters.encoders_plugin import ADAPTERS

import tokenprune
from tests import models, packed, towers
from tests.adapters import any_size
from tests.contract.cases import shipped, stage_of
from tests.families.cases import CASES
from tokenprune.errors import PlanError, SignalError
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import BlockOutput, Signal
from tokenprune.interface.sites import Site, Stage
from tokenprune.interface.strategy import PruningStrategy, StrategyParams, places
from tokenprune.plugins.host import host
from tokenprune.plugins.matrix import (
    DYNAMIC,
    NEEDS_LLM,
    NEEDS_TOWER,
    SHAPE,
    MatrixColumn,
    alike,
    families,
    fit,
    footnotes,
    matrix,
)
from tokenprune.reference import reference_model_path

BUILD: dict[str, Callable[..., Any]] = {
    "clip": models.clip_vision,
    "siglip": models.siglip_vision,
    "internvl-vision": towers.internvl,
    "qianfan-vision": partial(towers.internvl, kind="QianfanOCR"),
    "idefics3-vision": towers.idefics3,
    "dinov2": towers.dinov2,
    "dinov3": towers.dinov3,
    "qwen-vision": packed.tower,
    "pixtral-vision": partial(any_size.tower, "mistral3"),
    "paddleocr-vision": partial(any_size.tower, "paddleocr_vl"),
    "gemma4-vision": partial(any_size.tower, "gemma4"),
    "siglip2-naflex": partial(any_size.tower, "lfm2_vl"),
    "video-llama-3-vision": partial(any_size.tower, "video_llama_3"),
    "minicpm-vision": partial(any_size.tower, "minicpmv4_6"),
    "kimi-vision": partial(any_size.tower, "kimi_k25"),
    "muse-vision": partial(any_size.tower, "muse_glimmer"),
    "hunyuan-vision": partial(any_size.tower, "hunyuan_vl"),
    "minimax-vision": partial(any_size.tower, "minimax_m3_vl"),
    "cosmos3-vision": partial(any_size.tower, "cosmos3_edge"),
    "ovis2-vision": towers.ovis2,
    "janus-vision": towers.janus,
    "ernie-vision": lambda: CASES["ernie4_5_vl_moe"].build().model.vision_tower,
    "llama4-vision": lambda: CASES["llama4"].create().vision_model.model,
    "timm": models.timm_vit,
    "llava + clip": models.llava_clip,
    "llava + siglip": models.llava_siglip,
}
PLACES: list[tuple[str, Stage]] = [
    (name, at) for name, kind in shipped().items() for at in places(kind)
]


@cache
def columns() -> dict[str, MatrixColumn]:
    """The columns of the matrix, by family."""
    return {column.name: column for column in families()}


@cache
def built(family: str) -> Any:
    """A tiny model of a family; tests share it, so they leave it as it was."""
    return BUILD[family]()


def test_there_is_a_tiny_model_of_every_family() -> None:
    shipped_ones = {kind.name for kind in ADAPTERS} | {"llava"}
    own = [f for f in families() if f.adapter in shipped_ones]
    assert {family.name for family in own} == BUILD.keys()


def test_families_that_take_the_same_are_one_column() -> None:
    kinds = [MatrixColumn(name, None, frozenset(), frozenset()) for name in ("one", "two")]
    other = MatrixColumn("three", "tower", frozenset({BlockOutput}), frozenset())
    found = alike(matrix({"greedy": Greedy}, [kinds[0], other, kinds[1]]))
    assert [column[0].family.name for column in found] == ["one, two", "three + tower"]
    assert found[0][0].refused["encoder"] == NEEDS_TOWER


@pytest.mark.parametrize("family", BUILD)
@pytest.mark.parametrize(("name", "at"), PLACES, ids=str)
def test_a_cell_is_what_attach_does(name: str, at: Stage, family: str) -> None:
    column, kind = columns()[family], host().strategies[name]
    one, stage = fit(kind, column), stage_of(kind, at)
    model, named = built(family), None if column.llm else column.adapter
    plan = {"schema_version": 1, "stages": [stage]}
    if at in one.runs:
        tokenprune.attach(model, plan, adapter=named).detach()
        return
    with pytest.raises((PlanError, SignalError)) as caught:
        tokenprune.attach(model, plan, adapter=named)
    reason = one.refused[at]
    assert isinstance(caught.value, SignalError) == reason.startswith("needs ")


def test_strategies_are_asked_about_a_model_as_deep_as_the_bundled_one() -> None:
    config = json.loads((reference_model_path() / "config.json").read_text())
    assert SHAPE.llm_layers == config["text_config"]["num_hidden_layers"]
    assert SHAPE.encoder_blocks == config["vision_config"]["num_hidden_layers"]


def test_every_shipped_strategy_can_be_asked_and_runs_somewhere() -> None:
    for row in matrix(shipped()):
        assert any(one.runs for one in row)
        assert not any(reason.startswith("not known") for one in row for reason in one.notes)


class Greedy(PruningStrategy[StrategyParams]):
    """Wants a block's states, and something that nobody has."""

    name = "greedy"
    stages = (Encoder(), PreLlm(), Decoder())

    def signals(self, site: Site) -> tuple[Signal, ...]:
        if site.stage == "pre_llm":
            return (Signal.HIDDEN.at(site.layers - 1),)
        return (Signal("mood", "[B] how it feels"),) if site.stage == "decoder" else ()

    def reduce(self, tokens: Any, budget: Any) -> Reduction:
        return Reduction.none()


class Needy(Greedy):
    """Has a parameter without a default, and no length that is known."""

    class Params(StrategyParams):
        number: int

    name = "needy"
    length = "data"


def verdicts(kind: type[PruningStrategy[Any]], family: MatrixColumn) -> Mapping[Stage, str]:
    return fit(kind, family).refused


def test_signals_of_one_block_count_as_their_kind_and_missing_ones_are_named() -> None:
    offered = frozenset({BlockOutput})
    mllm = MatrixColumn("whole", "tower", offered, frozenset())
    found = fit(Greedy, mllm)
    assert found.runs == ("encoder", "pre_llm")
    assert found.refused == {"decoder": "needs mood, which this family doesn't supply"}
    bare = MatrixColumn("whole", "tower", frozenset(), frozenset())
    lacking = "needs hidden, which this family doesn't supply"
    assert verdicts(Greedy, bare)["pre_llm"] == lacking


def test_an_encoder_alone_has_one_stage_and_one_length() -> None:
    alone = MatrixColumn("tower", None, frozenset({BlockOutput}))
    assert verdicts(Greedy, alone) == {"pre_llm": NEEDS_LLM, "decoder": NEEDS_LLM}
    assert fit(Greedy, alone).notes == [], "that an encoder has no LLM goes without saying"
    assert verdicts(Needy, alone)["encoder"] == DYNAMIC
    assert fit(Needy, alone).notes == [DYNAMIC, NEEDS_LLM]


def test_a_strategy_that_cannot_be_built_is_listed_with_the_reason() -> None:
    mllm = MatrixColumn("whole", "tower", frozenset(), frozenset())
    found = fit(Needy, mllm)
    assert found.runs == ()
    assert "can't be built" in found.refused["decoder"]
    assert footnotes([[found], [found]]) == [DYNAMIC, found.refused["decoder"]]


def test_a_multimodal_llm_stands_once_for_each_of_its_towers() -> None:
    towers = host().encoders
    anything: Any = type("Anything", (host().mllms["llava"],), {"towers": ()})
    names = [family.name for family in families(towers, {"any": anything})]
    assert names == [*towers, *(f"any + {tower}" for tower in towers)]
    chosen: Any = type("Chosen", (anything,), {"towers": ("clip", "absent")})
    assert [f.tower for f in families(towers, {"one": chosen})][len(towers) :] == ["clip"]
