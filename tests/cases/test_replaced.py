"""Parts that were replaced after a plan was attached are followed, or refused by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, inputs, logits
from tests.mllm.plans import COMBINATIONS, fastv, plan, tome
from tokenprune.errors import UnsupportedCallError

TOME = plan(tome())
X = models.pixels()


def run(model: Any) -> Any:
    with torch.no_grad():
        return model(X).last_hidden_state


@pytest.mark.parametrize("number", [0, 1, models.DEPTH - 1])
@pytest.mark.parametrize("how", ["replaced", "left out"])
def test_a_block_that_is_no_longer_there_is_refused_by_name(number: int, how: str) -> None:
    model = models.clip_vision()
    layers = model.encoder.layers
    with tokenprune.attach(model, TOME):
        run(model)
        if how == "replaced":
            layers[number] = copy.deepcopy(layers[number])
        else:
            del layers[number]
        with pytest.raises(UnsupportedCallError, match=rf"block {number} was replaced or left out"):
            run(model)
    run(model)


def test_a_forward_that_was_replaced_after_attach_is_refused_by_name() -> None:
    model = models.clip_vision()
    layer = model.encoder.layers[1]
    with tokenprune.attach(model, TOME):
        layer.forward = lambda hidden, *rest, **named: hidden
        with pytest.raises(UnsupportedCallError, match="block 1 was replaced"):
            run(model)
    assert "forward" in vars(layer)


class Scaled(nn.Module):
    """What adapters of weights do to a linear layer."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = 3 * self.base_layer(hidden)
        return changed


def test_projections_that_were_replaced_after_attach_are_followed() -> None:
    kept = {}
    for order in ("before", "after"):
        model = models.clip_vision()
        if order == "after":
            handle = tokenprune.attach(model, TOME)
        for layer in model.encoder.layers:
            layer.self_attn.k_proj = Scaled(layer.self_attn.k_proj)
        if order == "before":
            handle = tokenprune.attach(model, TOME)
        kept[order] = run(model), handle.trace.images[0].steps[-1].anchor
    assert torch.equal(kept["before"][0], kept["after"][0])
    assert torch.equal(kept["before"][1], kept["after"][1])


def with_scaled_projections(model: Any) -> None:
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj = Scaled(layer.self_attn.q_proj)
        layer.self_attn.k_proj = Scaled(layer.self_attn.k_proj)


def test_scores_are_read_from_projections_that_were_wrapped_after_attach() -> None:
    kept = {}
    for order in ("before", "after"):
        model = models.llava_clip()
        if order == "before":
            with_scaled_projections(model)
        with tokenprune.attach(model, plan(fastv())) as handle:
            logits(model, inputs(SHORT))
            if order == "after":
                with_scaled_projections(model)
            kept[order] = logits(model, inputs(SHORT)), handle.trace.images[0].steps[-1].anchor
        assert not any(module._forward_hooks for module in model.model.language_model.modules())
    assert torch.equal(kept["before"][0], kept["after"][0])
    assert torch.equal(kept["before"][1], kept["after"][1])


def test_scores_are_read_behind_hooks_that_were_registered_after_attach() -> None:
    kept = {}
    for order in ("before", "after", "none"):
        model = models.llava_clip()
        projection = model.model.language_model.layers[1].self_attn.q_proj
        if order == "before":
            projection.register_forward_hook(lambda module, args, output: 3 * output)
        with tokenprune.attach(model, plan(fastv())) as handle:
            logits(model, inputs(SHORT))
            if order == "after":
                projection.register_forward_hook(lambda module, args, output: 3 * output)
            kept[order] = logits(model, inputs(SHORT)), handle.trace.images[0].steps[-1].anchor
        assert len(projection._forward_hooks) == (order != "none")
    assert torch.equal(kept["before"][0], kept["after"][0])
    assert torch.equal(kept["before"][1], kept["after"][1])
    assert not torch.equal(kept["before"][0], kept["none"][0])


LAYERS = "model.language_model.layers"
PARTS = (f"{LAYERS}.0", f"{LAYERS}.2", f"{LAYERS}.{models.DEPTH - 1}", LAYERS)
PARTS += ("model.language_model", "model.multi_modal_projector", "model.vision_tower", "model")


@pytest.mark.parametrize("place", ["encoder", "pre_llm", "decoder"])
@pytest.mark.parametrize("path", PARTS)
def test_a_replaced_part_of_a_multimodal_llm_is_refused_by_name(path: str, place: str) -> None:
    model = models.llava_clip()
    with tokenprune.attach(model, COMBINATIONS[place]):
        logits(model, inputs(SHORT))
        model.set_submodule(path, copy.deepcopy(model.get_submodule(path)))
        for run in (model, model.generate):
            with pytest.raises(
                UnsupportedCallError, match=rf"(?m)\b{path}\S* was replaced or taken"
            ):
                run(**inputs(SHORT))
    logits(model, inputs(SHORT))


def test_a_wrapper_around_a_layer_is_followed() -> None:
    model = models.llava_clip()
    layers = model.model.language_model.layers
    with tokenprune.attach(model, plan(fastv())):
        expected = logits(model, inputs(SHORT))
        layers[1] = torch.compile(layers[1], backend="eager")
        torch.testing.assert_close(logits(model, inputs(SHORT)), expected)
