"""The invariants for every strategy x LLaVA tower x stage, on ragged batches with padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.contract.cases import footprint
from tests.contract.mllm_cases import (
    IMG,
    LEFT,
    PAIRS,
    PROMPTS,
    STAGES,
    TOWERS,
    VISTOG,
    exact,
    keeps_all,
)

Build = Callable[..., Any]

every_plan = pytest.mark.parametrize("name", STAGES)
every_pair = pytest.mark.parametrize(
    ("build", "name"), [pytest.param(TOWERS[t], name, id=f"{t}-{name}") for t, name in PAIRS]
)


def _plan(name: str, **more: Any) -> dict[str, Any]:
    return {"schema_version": 1, "stages": STAGES[name], **more}


def _text_logits(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Logits at the text tokens of every sample, without padding."""
    with torch.inference_mode():
        logits = model(**inputs).logits
    assert logits.shape[:2] == inputs["input_ids"].shape
    text = (inputs["attention_mask"] == 1) & (inputs["input_ids"] != IMG)
    return [row[kept] for row, kept in zip(logits, text, strict=True)]


@every_pair
def test_keep_all_is_bit_exact(build: Build, name: str) -> None:
    model, inputs = build(), models.llava_inputs(PROMPTS)
    with torch.inference_mode():
        plain = model(**inputs).logits
    stages = [{**stage, "keep": 1.0} for stage in STAGES[name] if keeps_all(stage)]
    plan = {"schema_version": 1, "stages": stages}
    with tokenprune.attach(model, plan), torch.inference_mode():
        assert torch.equal(model(**inputs).logits, plain)


@every_pair
def test_counts_are_the_plans_for_every_image(build: Build, name: str) -> None:
    model, inputs = build(), models.llava_inputs(PROMPTS)
    with tokenprune.attach(model, _plan(name)) as handle, torch.inference_mode():
        model(**inputs)
    into_llm, last = LEFT[name]
    seen = handle.meter.tokens["llm"]
    assert seen == into_llm if exact(name) else seen <= into_llm
    per_prompt = {number: prompt.count(IMG) for number, prompt in enumerate(PROMPTS)}
    owner = [number for number, images in per_prompt.items() for _ in range(images)]
    left = dict.fromkeys(per_prompt, 0)
    for number, image in enumerate(handle.trace.images):
        left[owner[number]] += image.kept
    most = {number: last * images for number, images in per_prompt.items()}
    assert left == most if exact(name) else all(left[n] <= most[n] for n in most)


@pytest.mark.parametrize("side", ["left", "right"])
@every_pair
def test_a_batch_gives_what_its_samples_give_alone(build: Build, name: str, side: str) -> None:
    model = build()
    together = models.llava_inputs(PROMPTS, padding_side=side)
    with tokenprune.attach(model, _plan(name)):
        batched = _text_logits(model, together)
        first = 0
        for number, prompt in enumerate(PROMPTS):
            alone = models.llava_inputs([prompt])
            images = prompt.count(IMG)
            alone["pixel_values"] = together["pixel_values"][first : first + images]
            first += images
            torch.testing.assert_close(
                batched[number], _text_logits(model, alone)[0], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("positions", ["original", "compact"])
@every_plan
def test_generate_hands_back_the_users_prompt(name: str, positions: str) -> None:
    model, inputs = TOWERS["clip"](), models.llava_inputs(PROMPTS)
    calls = {"greedy": {}, "beams": {"num_beams": 2}, "no cache": {"use_cache": False}}
    found = {}
    with tokenprune.attach(model, _plan(name, positions=positions)), torch.inference_mode():
        for mode, options in calls.items():
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False, **options)
            length = inputs["input_ids"].shape[1]
            assert torch.equal(out[:, :length], inputs["input_ids"])
            assert 1 <= out.shape[1] - length <= 4
            found[mode] = out[:, length:]
    assert torch.equal(found["greedy"], found["no cache"])


@every_pair
def test_detach_leaves_nothing_behind(build: Build, name: str) -> None:
    model, inputs = build(), models.llava_inputs(PROMPTS)
    plain = _text_logits(model, inputs)
    before = footprint(model)
    with tokenprune.attach(model, _plan(name)):
        pruned = _text_logits(model, inputs)
    assert footprint(model) == before
    assert all(torch.equal(a, b) for a, b in zip(_text_logits(model, inputs), plain, strict=True))
    if exact(name):
        assert not all(torch.equal(a, b) for a, b in zip(pruned, plain, strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_plan
def test_bfloat16(name: str, attention: str) -> None:
    model = models.llava_clip(attention).to(torch.bfloat16)
    inputs = models.llava_inputs(PROMPTS)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    with tokenprune.attach(model, _plan(name)) as handle, torch.inference_mode():
        logits = model(**inputs).logits
        assert handle.meter.tokens["llm"] <= LEFT[name][0]
    text = inputs["attention_mask"] == 1
    assert logits.dtype == torch.bfloat16
    assert logits[text].isfinite().all()


def test_a_learned_width_that_does_not_fit_is_refused() -> None:
    stage = {"at": "pre_llm", "strategy": "vistog", "keep": 9, "params": {**VISTOG, "dim": 48}}
    model = models.llava_clip()
    with pytest.raises(tokenprune.TokenpruneError, match=r"48.*32"):
        tokenprune.attach(model, {"schema_version": 1, "stages": [stage]})
