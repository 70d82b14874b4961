"""Attention functions that a user registered: they run, or the call is refused by their name."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers import attention_functions
from torch import Tensor

import tokenprune
from tests import models, packed
from tests.mllm.calls import IMG, SHORT, inputs, logits
from tests.mllm.plans import drawn, fastv, plan, tome
from tokenprune.errors import UnsupportedCallError

transformers = pytest.importorskip("transformers")

NAME = "of_the_user"
FOPRU = {"at": "pre_llm", "strategy": "fopru", "keep": 9}
#: as long as each other, with two pictures and with one
ROWS = [1, IMG, 20, IMG, 22], [1, IMG, *range(20, 57), 22]
STAGES = {"pre_llm": plan(drawn()), "decoder": plan(fastv())}


@pytest.fixture(autouse=True)
def calls() -> Iterator[list[str]]:
    """Names of the modules that called the function, while it is registered."""
    found: list[str] = []
    table = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS

    def function(module: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(type(module).__name__)
        return table["sdpa"](module, *args, **kwargs)

    transformers.AttentionInterface.register(NAME, function)
    yield found
    del transformers.AttentionInterface._global_mapping[NAME]


def test_the_tables_of_functions_and_their_masks_are_there() -> None:
    model = models.clip_vision()
    module = sys.modules[type(model.encoder.layers[0].self_attn).__module__]
    assert NAME in getattr(module, attention_functions.FUNCTIONS)
    name, masks = attention_functions.MASKS
    assert "sdpa" in getattr(sys.modules[name], masks)
    assert attention_functions.implementation(model.encoder.layers[0].self_attn) == "sdpa"


def clip() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    return models.clip_vision(), {"pixel_values": models.pixels(1)}, plan(tome())


def qwen() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    model = copy.deepcopy(packed.tower("qwen2_5_vl"))  # other tests share it
    stage = packed.plan({"strategy": "tome", "keep": 0.5})
    return model, packed.call(((1, 8, 8),)), stage


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("build", [clip, qwen])
@torch.no_grad()
def test_a_tower_that_a_plan_splits_is_refused(build: Any, compiled: bool, calls: Any) -> None:
    model, call, stages = build()
    model.set_attn_implementation(NAME)
    dense = model(**call)[0]
    run = torch.compile(model, backend="eager") if compiled else model
    with (
        tokenprune.attach(model, stages),
        pytest.raises(UnsupportedCallError, match=f"'{NAME}' is a user's own"),
    ):
        run(**call)
    calls.clear()
    assert torch.equal(model(**call)[0], dense)
    assert calls


@torch.no_grad()
def test_a_function_in_the_place_of_one_that_ships_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, call, stages = clip()
    table = transformers.AttentionInterface._global_mapping
    monkeypatch.setitem(table, "sdpa", lambda *args, **kwargs: table[NAME](*args, **kwargs))
    with (
        tokenprune.attach(model, stages),
        pytest.raises(UnsupportedCallError, match="'sdpa' is a user's own"),
    ):
        model(**call)


def test_a_tower_that_no_plan_splits_runs_the_function(calls: list[str]) -> None:
    model = models.llava_clip()
    with tokenprune.attach(model, plan(drawn())):
        expected = logits(model, inputs(SHORT))
        model.model.vision_tower.set_attn_implementation(NAME)
        assert torch.equal(logits(model, inputs(SHORT)), expected)
        assert set(calls) == {"CLIPAttention"}
    with (
        tokenprune.attach(model, plan(FOPRU)),
        pytest.raises(UnsupportedCallError, match="reads its attention"),
    ):
        logits(model, inputs(SHORT))


def alike(stage: str, *rows: list[int]) -> tuple[Tensor, Tensor]:
    """Logits behind a plan, with an attention of torch and with that of the user."""
    model = models.llava_clip()
    with tokenprune.attach(model, STAGES[stage]):
        expected = logits(model, inputs(*rows))
        model.model.language_model.set_attn_implementation(NAME)
        return expected, logits(model, inputs(*rows))


@pytest.mark.parametrize("stage", STAGES)
def test_an_llm_without_masks_is_served_where_nothing_is_to_be_hidden(stage: str) -> None:
    row = [*SHORT[:-1], 14]
    expected, found = alike(stage, SHORT, row)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("stage", STAGES)
def test_rows_that_are_left_unequal_need_masks(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inputs(*ROWS)["attention_mask"].all()
    with pytest.raises(UnsupportedCallError, match=f"no masks are made for .*'{NAME}'"):
        alike(stage, *ROWS)
    masks = transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    monkeypatch.setitem(masks._global_mapping, NAME, masks["sdpa"])
    expected, found = alike(stage, *ROWS)
    assert torch.equal(found, expected)
