"""The names inside transformers that `transformers.dual_names` relies on exist as relied on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers import dual_names as compat
from tokenprune_adapters.transformers import vit_names

from tests import models


@pytest.mark.parametrize("build", [models.clip, models.siglip, models.siglip2])
def test_dual_encoders_give_features_of_each_tower(build: Callable[[], Any]) -> None:
    model = build()
    ids = torch.ones(2, compat.text_length(model), dtype=torch.int64)
    patches = vit_names.takes_patches(vit_names.vision_module(model))
    inputs = models.siglip2_inputs() if patches else {"pixel_values": models.pixels()}
    out = model(input_ids=ids, **inputs)
    for features, expected in (
        (compat.image_features(model, inputs), out.image_embeds),
        (compat.text_features(model, {"input_ids": ids}), out.text_embeds),
    ):
        # the model's own output is of unit length, the features aren't
        torch.testing.assert_close(torch.nn.functional.normalize(features, dim=-1), expected)
    assert compat.text_length(model) == model.config.text_config.max_position_embeddings == 16
    assert compat.pools(model)


def test_siglips_head_can_be_left_out() -> None:
    assert not compat.pools(models.siglip(vision_use_head=False))
