"""Samples that share a row stay apart in the plain model; a pruned one refuses them by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

import tokenprune
from tests import models
from tests.mllm.calls import LONG, SHORT, inputs, logits
from tests.mllm.plans import drawn, fastv, plan, tome
from tokenprune.errors import UnsupportedCallError

PLANS = {"encoder": plan(tome()), "pre_llm": plan(drawn()), "decoder": plan(fastv())}


def packed() -> dict[str, Any]:
    first, second = inputs(SHORT), inputs(LONG)
    counts = [torch.arange(one["input_ids"].shape[1]) for one in (first, second)]
    return {
        "input_ids": torch.cat([first["input_ids"], second["input_ids"]], dim=1),
        "pixel_values": torch.cat([first["pixel_values"], second["pixel_values"]]),
        "position_ids": torch.cat(counts)[None],
        "use_cache": False,
    }


def test_the_plain_model_keeps_them_apart() -> None:
    model, second = models.llava_clip(), inputs(LONG)
    del second["attention_mask"]
    found = logits(model, packed())[:, -second["input_ids"].shape[1] :]
    torch.testing.assert_close(found, logits(model, second), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", PLANS)
@pytest.mark.parametrize("cached", [False, True])
def test_position_ids_that_restart_are_refused(place: str, cached: bool) -> None:
    model = models.llava_clip()
    call = {**packed(), "use_cache": cached}
    with (
        tokenprune.attach(model, PLANS[place]),
        pytest.raises(UnsupportedCallError, match=r"packed into one row.*a row of its own"),
    ):
        model(**call)


def test_borders_that_go_as_arguments_are_refused() -> None:
    model, call = models.llava_clip(), inputs(SHORT)
    borders = torch.tensor([0, 3, call["input_ids"].shape[1]], dtype=torch.int32)
    with (
        tokenprune.attach(model, PLANS["pre_llm"]),
        pytest.raises(UnsupportedCallError, match="packed into one row"),
    ):
        model(**call, cu_seq_lens_q=borders, cu_seq_lens_k=borders)


@pytest.mark.parametrize("place", PLANS)
def test_position_ids_that_count_on_are_served(place: str) -> None:
    model, call = models.llava_clip(), inputs(SHORT)
    own = torch.arange(call["input_ids"].shape[1])[None]
    with tokenprune.attach(model, PLANS[place]):
        expected = logits(model, call)
        assert torch.equal(logits(model, {**call, "position_ids": own}), expected)
        del call["attention_mask"]
        assert torch.equal(logits(model, {**call, "position_ids": own}), expected)


def test_text_in_one_row_is_the_plain_models() -> None:
    """Nothing is removed from it, so nothing has to be refused."""
    model = models.llava_clip()
    call = {
        "input_ids": torch.tensor([[1, 30, 31, 1, 32]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1]]),
        "use_cache": False,
    }
    expected = logits(model, call)
    with tokenprune.attach(model, PLANS["decoder"]):
        assert torch.equal(logits(model, call), expected)


@pytest.mark.parametrize("place", PLANS)
@pytest.mark.parametrize("padded", [True, False])
def test_a_static_cache_is_served_as_a_dynamic_one(place: str, padded: bool) -> None:
    model = models.llava_clip()
    call = inputs(LONG, SHORT) if padded else inputs(SHORT)
    config = model.config.text_config
    with tokenprune.attach(model, PLANS[place]):
        expected = logits(model, call)
        static = StaticCache(config=config, max_cache_len=256)
        for cache in (static, DynamicCache(config=config)):
            found = model(**call, past_key_values=cache, use_cache=True).logits
            torch.testing.assert_close(found, expected)
