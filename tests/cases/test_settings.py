"""What was read at attach and has changed since is noticed; a config counts as an argument does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, inputs, logits
from tests.mllm.plans import drawn, fastv, plan, tome
from tokenprune.errors import UnsupportedCallError

PLANS = {"encoder": plan(tome()), "pre_llm": plan(drawn()), "decoder": plan(fastv())}


@pytest.mark.parametrize(
    ("name", "value"), [("vision_feature_layer", -1), ("vision_feature_select_strategy", "full")]
)
@pytest.mark.parametrize("place", PLANS)
def test_other_features_than_at_attach_are_refused_by_name(
    place: str, name: str, value: Any
) -> None:
    model = models.llava_clip()
    before = getattr(model.config, name)
    assert before != value
    with tokenprune.attach(model, PLANS[place]):
        pruned = logits(model, inputs(SHORT))
        setattr(model.config, name, value)
        with pytest.raises(UnsupportedCallError, match=rf"{name}={value!r} chooses other features"):
            model(**inputs(SHORT))
        with pytest.raises(UnsupportedCallError, match=name):
            model.generate(**inputs(SHORT), max_new_tokens=2)
        setattr(model.config, name, before)
        assert torch.equal(logits(model, inputs(SHORT)), pruned)


@pytest.mark.parametrize("whole", [True, False])
def test_a_config_that_asks_for_attention_maps_is_refused_as_the_argument(whole: bool) -> None:
    model = models.llava_clip("eager")
    with tokenprune.attach(model, plan(fastv())):
        with pytest.raises(UnsupportedCallError) as by_argument:
            model(**inputs(SHORT), output_attentions=True)
        (model.config if whole else model.config.text_config).output_attentions = True
        with pytest.raises(UnsupportedCallError) as by_config:
            model(**inputs(SHORT))
    assert str(by_config.value) == str(by_argument.value)
    model(**inputs(SHORT))


@pytest.mark.parametrize("place", PLANS)
def test_another_attention_implementation_is_followed(place: str) -> None:
    model = models.llava_clip()
    with tokenprune.attach(model, PLANS[place]):
        expected = logits(model, inputs(SHORT))
        model.set_attn_implementation("eager")
        torch.testing.assert_close(logits(model, inputs(SHORT)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("place", PLANS)
def test_another_dtype_is_followed(place: str) -> None:
    model = models.llava_clip()
    with tokenprune.attach(model, PLANS[place]):
        model.to(torch.bfloat16)
        moved = logits(model, inputs(SHORT))
    with tokenprune.attach(model, PLANS[place]):
        assert torch.equal(logits(model, inputs(SHORT)), moved)
