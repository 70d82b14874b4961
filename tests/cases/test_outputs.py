"""Outputs that a plan changes the meaning of are followed where right, and else refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune
from tests import models, towers
from tests.mllm.plans import drawn, plan, tome
from tokenprune.errors import UnsupportedCallError

BUILDERS: dict[str, Any] = {
    "clip": models.clip_vision,
    "projected": lambda attention: models.clip_vision(attention, projected=True),
    "siglip": models.siglip_vision,
    "dinov2": towers.dinov2,
    "internvl": towers.internvl,
}
X = models.pixels()


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("schedule", ["last", "mean"])
@pytest.mark.parametrize("family", BUILDERS)
def test_attention_maps_of_a_pruned_encoder_are_refused_by_name(family: str, schedule: str) -> None:
    model = BUILDERS[family]("eager")
    dense = model(X, output_attentions=True).attentions
    assert len(dense) == models.DEPTH
    refused = pytest.raises(UnsupportedCallError, match="output_attentions: blocks that a plan")
    with tokenprune.attach(model, plan({**tome(), "schedule": schedule})):
        with refused:
            model(X, output_attentions=True)
        model.config.output_attentions = True
        with refused:
            model(X)
        assert getattr(model(X, output_attentions=False), "attentions", None) is None
    with tokenprune.attach(model, plan()):  # measures only
        assert len(model(X).attentions) == models.DEPTH


def test_attention_maps_of_the_tower_are_refused_where_its_blocks_are_split() -> None:
    model = models.llava_clip("eager")
    tower: Any = model.model.vision_tower
    tower.config.output_attentions = True
    call = {"input_ids": torch.tensor([[1, models.IMAGE_TOKEN, 3]]), "pixel_values": X[:1]}
    call["input_ids"] = torch.tensor([[1] + [models.IMAGE_TOKEN] * models.PATCHES + [3]])
    with (
        tokenprune.attach(model, plan(tome())),
        pytest.raises(UnsupportedCallError, match=r"config\.output_attentions: blocks"),
    ):
        model(**call)
    with tokenprune.attach(model, plan(drawn())):
        model(**call)


@pytest.mark.parametrize("classifier", ["clip", "siglip", "dinov2"])
def test_tuples_in_place_of_named_outputs_are_the_same(classifier: str) -> None:
    build = towers.dinov2 if classifier == "dinov2" else getattr(models, classifier)
    model = build(classifier=True)
    with tokenprune.attach(model, plan(tome())):
        expected = model(X).logits
        assert torch.equal(model(X, return_dict=False)[0], expected)


def test_hidden_states_are_those_of_each_depth() -> None:
    model = models.clip_vision()
    with tokenprune.attach(model, plan({**tome(), "schedule": "last"})):
        output = model(X, output_hidden_states=True)
    lengths = [states.shape[1] for states in output.hidden_states]
    assert lengths == [37, 37, 37, 28, 19]  # a merge halves at most
