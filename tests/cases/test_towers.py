"""A plan on the tower inside of a multimodal LLM: the model itself is named as the place for it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, inputs
from tests.mllm.plans import plan, tome
from tokenprune.errors import UnsupportedCallError

IPCV = {"at": "encoder", "strategy": "ipcv", "keep": 18, "layer": 2}
WAY_OUT = r"runs inside of a LlavaForConditionalGeneration.*attach the plan to the Llava"


def tower(model: Any) -> Any:
    return model.model.vision_tower


@pytest.mark.parametrize("build", [models.llava_clip, models.llava_siglip])
@pytest.mark.parametrize("call", ["forward", "generate", "get_image_features"])
def test_a_plan_on_the_tower_alone_names_the_model(build: Any, call: str) -> None:
    model, given = build(), inputs(SHORT)
    only = {"pixel_values": given["pixel_values"]}
    with tokenprune.attach(tower(model), plan(tome())):
        with pytest.raises(UnsupportedCallError, match=WAY_OUT):
            getattr(model, call)(**(only if call == "get_image_features" else given))
        assert tower(model)(given["pixel_values"]).last_hidden_state.shape[1] < 37


def test_restored_tokens_come_too_late_for_an_earlier_layer() -> None:
    model = models.llava_clip()
    with tokenprune.attach(tower(model), plan(IPCV)):
        with pytest.raises(UnsupportedCallError, match=WAY_OUT):
            model(**inputs(SHORT))
        assert tower(model)(models.pixels()).last_hidden_state.shape[1] == 37


@torch.no_grad()
def test_what_a_calling_function_deletes_is_gone() -> None:
    """The encoder looks whose code it runs in, and keeps none of the variables there."""
    encoder, pictures = models.clip_vision(), models.pixels()
    handle = tokenprune.attach(encoder, plan(tome()))
    encoder(pictures)
    handle.detach()
    gone = weakref.ref(encoder)
    del encoder, handle
    gc.collect()
    assert gone() is None


def test_encoders_inside_of_other_models_are_left_in_peace() -> None:
    class Probe(torch.nn.Module):
        def __init__(self, encoder: Any) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, pixels: Any) -> Any:
            return self.encoder(pixels).last_hidden_state.mean(dim=1)

    encoder = models.clip_vision()
    with tokenprune.attach(encoder, plan(tome())):
        assert Probe(encoder)(models.pixels()).shape == (2, 32)
