"""`vtw`: the layer, and that nothing is left behind it."""

from __future__ import annotations

import pytest
import torch
from tokenprune_strategies.vtw import VTW

import tokenprune
from tests import models
from tokenprune.interface.strategy import placement


@pytest.mark.parametrize(("layers", "layer"), [(32, 15), (28, 13), (2, 1)])
def test_its_layer_is_at_fifteen_of_32(layers: int, layer: int) -> None:
    assert placement(VTW, "decoder").layer_of(layers) == layer


def test_behind_its_layer_the_model_sees_text_alone() -> None:
    model, picture = models.llava_clip(), models.IMAGE_TOKEN
    inputs = models.llava_inputs([[1, picture, 7, 8, 9], [1, picture, 11]])
    plan = {"schema_version": 1, "stages": [{"at": "decoder", "strategy": "vtw", "layer": 2}]}
    with tokenprune.attach(model, plan) as handle, torch.no_grad():
        model(**inputs)
        assert handle.meter.tokens["decoder[2]"] == 0
        assert all(image.kept == 0 for image in handle.trace.images)
