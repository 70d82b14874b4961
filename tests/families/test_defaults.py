"""Defaults of torch that a user has set change nothing about a plan."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import tokenprune
from tests.families.cases import CASES
from tests.families.plans import plan, staged

FAMILIES = ["llava", "llava_next", "llava_onevision", "internvl", "smolvlm", "qwen2_vl"]
TOWER = {"strategy": "tome", "at": "encoder", "layer": 0, "keep": 0.75}
PLANS = {
    "tower": plan(TOWER), **{name: staged("", name, 0.5) for name in ("pre_llm", "decoder")}
}  # fmt: skip


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("stages", PLANS)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_another_default_device(name: str, stages: str) -> None:
    model, call = CASES[name].create(), CASES[name].inputs("several", "left")
    with tokenprune.attach(model, PLANS[stages]) as handle:
        plain, traced = model(**call).logits, handle.trace.images
        with torch.device("meta"):  # as a GPU would be: elsewhere than the tensors at hand
            found, again = model(**call).logits, handle.trace.images
    assert torch.equal(found, plain)
    assert [one.kept for one in again] == [one.kept for one in traced]


@pytest.mark.parametrize("strategy", ["apet", "prunevid", "divprune", "vidcom2", "random"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_another_default_type(dtype: torch.dtype, strategy: str) -> None:
    model, call = CASES["llava"].create(), CASES["llava"].inputs("several", "left")
    with tokenprune.attach(model, plan({"strategy": strategy, "at": "pre_llm", "keep": 0.5})):
        plain = model(**call).logits
        torch.set_default_dtype(dtype)
        found = model(**call).logits
    mask = call["attention_mask"].bool()
    assert torch.equal(found[mask], plain[mask])


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "mistral3", "llava_pixtral"])
@torch.no_grad()
def test_sizes_of_pictures_may_be_pairs_of_numbers(name: str) -> None:
    model, call = CASES[name].create(), CASES[name].inputs("several", "left")
    pairs = [tuple(size) for size in call["image_sizes"].tolist()]
    with tokenprune.attach(model, staged(name, "pre_llm", 0.5)):
        plain = model(**call).logits
        assert torch.equal(model(**{**call, "image_sizes": pairs}).logits, plain)
