"""Adapters of PEFT, put on before the plan or after it: choices heed them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune
from tests import models
from tests.mllm.calls import LONG, SHORT, inputs
from tests.mllm.plans import drawn, fastv, plan, tome
from tokenprune.errors import UnsupportedModelError

peft = pytest.importorskip("peft", reason="peft is no dependency")

PLANS = {"encoder": plan(tome()), "pre_llm": plan(drawn()), "decoder": plan(fastv())}


def adapted(model: Any) -> Any:
    """The same random adapters on queries and keys of LLM and tower, whenever it is called."""
    settings = peft.LoraConfig(
        r=4, lora_alpha=64, target_modules=["q_proj", "k_proj"], init_lora_weights=False
    )
    torch.manual_seed(1)
    return peft.get_peft_model(model, settings).eval()


@torch.no_grad()
def kept(handle: Any, model: Any, call: Any) -> tuple[Any, Any]:
    found = model(**call).logits
    return [image.steps[-1].anchor.tolist() for image in handle.trace.images], found


@pytest.mark.parametrize("place", PLANS)
@pytest.mark.parametrize("prompts", [[SHORT], [LONG, SHORT]])
def test_the_order_of_adapters_and_plan_changes_nothing(place: str, prompts: Any) -> None:
    call = inputs(*prompts)
    model = models.llava_clip()
    wrapped = adapted(model)
    with tokenprune.attach(model, PLANS[place]) as handle:
        expected = kept(handle, wrapped, call)

    model = models.llava_clip()
    with tokenprune.attach(model, PLANS[place]) as handle:
        plain = kept(handle, model, call)
        found = kept(handle, adapted(model), call)
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1])
    assert not torch.allclose(found[1], plain[1], atol=1e-3), "the adapters do something"


def test_adapters_that_are_switched_off_or_merged_count_as_they_are() -> None:
    call, model = inputs(SHORT), models.llava_clip()
    with tokenprune.attach(model, PLANS["decoder"]) as handle:
        plain = kept(handle, model, call)
        wrapped = adapted(model)
        on = kept(handle, wrapped, call)
        with wrapped.disable_adapter():
            off = kept(handle, wrapped, call)
        assert off[0] == plain[0]
        torch.testing.assert_close(off[1], plain[1])
        wrapped.merge_adapter()
        merged = kept(handle, wrapped, call)
    assert merged[0] == on[0]
    torch.testing.assert_close(merged[1], on[1], atol=1e-4, rtol=1e-4)


def test_the_wrapped_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedModelError, match=r"PeftModel isn't served.*get_base_model"):
        tokenprune.attach(adapted(models.llava_clip()), PLANS["decoder"])
