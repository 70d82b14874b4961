"""Activation checkpointing around parts of a model with a plan: right gradients, or a refusal."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import checkpoint

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, inputs
from tests.mllm.plans import drawn, fastv, plan, tome
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError

PLANS = {"encoder": plan(tome()), "pre_llm": plan(drawn()), "decoder": plan(fastv(2))}
PLACES = {
    "model": "model",
    "LLM": "model.language_model",
    "tower": "model.vision_tower",
    "projector": "model.multi_modal_projector",
    "early layer": "model.language_model.layers.1",
    "late layer": "model.language_model.layers.3",
}
REFUSED = {
    ("encoder", "LLM"): "the LLM again",
    ("pre_llm", "LLM"): "the LLM again",
    ("decoder", "LLM"): "the LLM again",
    ("encoder", "projector"): "the projector again",
    ("pre_llm", "projector"): "their signals are gone",
    ("decoder", "late layer"): "layer 3 again",
}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of the prompt's last logits, by the parameters' names without wrappers."""
    model.zero_grad(set_to_none=True)
    model(**inputs(SHORT)).logits[:, -1].sum().backward()
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {name.replace("_checkpoint_wrapped_module.", ""): one for name, one in found.items()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stages", PLANS)
def test_a_checkpointed_part_has_its_gradients_or_is_refused(stages: str, place: str) -> None:
    model: Any = models.llava_clip()
    part = model.get_submodule(PLACES[place])
    with tokenprune.attach(model, PLANS[stages]):
        expected = gradients(model)
        model.set_submodule(PLACES[place], checkpoint_wrapper(part))
        if (stages, place) in REFUSED:
            with pytest.raises(UnsupportedCallError, match=REFUSED[stages, place]):
                gradients(model)
            model.set_submodule(PLACES[place], part)
        found = gradients(model)
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert torch.equal(found[name], one), name


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("stages", PLANS)
def test_a_checkpoint_around_the_model_runs_it_again(stages: str, reentrant: bool) -> None:
    model: Any = models.llava_clip()
    with tokenprune.attach(model, PLANS[stages]):
        expected = gradients(model)
        model.zero_grad(set_to_none=True)
        run = partial(lambda call, _: model(**call).logits[:, -1].sum(), inputs(SHORT))
        given = torch.zeros(1, requires_grad=True)
        checkpoint(run, given, use_reentrant=reentrant).backward()
        for name, one in expected.items():
            assert torch.equal(model.get_parameter(name).grad, one), name


def test_a_wrapped_layer_is_refused_at_attach() -> None:
    model: Any = models.llava_clip()
    layers = model.model.language_model.layers
    layers[2] = checkpoint_wrapper(layers[2])
    with pytest.raises(UnsupportedModelError, match=r"layers\.2.*without activation checkpointing"):
        tokenprune.attach(model, PLANS["decoder"])
