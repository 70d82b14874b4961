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

IMG = models.IMAGE_TOKEN
PROMPTS = [[1, IMG, 7, 8, 9, 10], [1, IMG, 11, IMG, 12], [1, 13, IMG, 14, 15], [1, IMG, 16]]
VSCAN = {"score": "received", "window": 2}  # SigLIP has no class token
VISTOG = {"init_seed": 0, "dim": models.WIDTH, "groups": 9}

STAGES: dict[str, list[dict[str, Any]]] = {
    **{
        f"{name}-encoder": [{"at": "encoder", "strategy": name, "keep": 14}]
        for name in ("evoprune", "tome", "random", "uniform", "fopru")
    },
    "ipcv-encoder": [{"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 14}],
    **{
        f"{name}-pre_llm": [{"at": "pre_llm", "strategy": name, "keep": 9}]
        for name in ("fopru", "random", "uniform")
    },
    "vistog-pre_llm": [{"at": "pre_llm", "strategy": "vistog", "keep": 9, "params": VISTOG}],
    **{
        f"{name}-decoder": [{"at": "decoder", "strategy": name, "layer": 2, "keep": 9}]
        for name in ("fastv", "random", "uniform")
    },
    "vscan-pre_llm": [{"at": "pre_llm", "strategy": "vscan", "keep": 9, "params": VSCAN}],
    "vscan-decoder": [{"at": "decoder", "strategy": "vscan", "keep": 9}],
    "vscan-both": [
        {"at": "pre_llm", "strategy": "vscan", "keep": {"average": 10}, "params": VSCAN},
        {"at": "decoder", "strategy": "vscan", "keep": 6, "params": {"rope_in_scoring": False}},
    ],
    "evoprune+vscan": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20},
        {"at": "pre_llm", "strategy": "fopru", "keep": 16},
        {"at": "pre_llm", "strategy": "vscan", "keep": 9, "params": VSCAN},
        {"at": "decoder", "strategy": "vscan", "keep": 4},
    ],
    "evoprune+fastv": [
        {"at": "encoder", "strategy": "evoprune", "keep": 14},
        {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.5},
    ],
    "evoprune+fopru+fastv": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20},
        {"at": "pre_llm", "strategy": "fopru", "keep": 0.5},
        {"at": "decoder", "strategy": "fastv", "layer": 1, "keep": 4},
    ],
    "ipcv+fopru+fastv": [
        {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 14},
        {"at": "pre_llm", "strategy": "fopru", "keep": 20},
        {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 5},
    ],
    "evoprune+vistog": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20},
        {"at": "pre_llm", "strategy": "vistog", "keep": 9, "params": VISTOG},
    ],
}
LEFT = {  # tokens per image: into the LLM, and after its last layer
    "evoprune-encoder": (14, 14), "tome-encoder": (14, 14), "random-encoder": (14, 14),
    "uniform-encoder": (14, 14), "fopru-encoder": (14, 14), "ipcv-encoder": (36, 36),
    "fopru-pre_llm": (9, 9), "random-pre_llm": (9, 9), "uniform-pre_llm": (9, 9),
    "vistog-pre_llm": (9, 9), "fastv-decoder": (36, 9), "random-decoder": (36, 9),
    "uniform-decoder": (36, 9), "evoprune+fastv": (14, 7), "evoprune+fopru+fastv": (10, 4),
    "ipcv+fopru+fastv": (20, 5), "evoprune+vistog": (9, 9), "vscan-pre_llm": (9, 9),
    "vscan-decoder": (36, 9), "vscan-both": (14, 6), "evoprune+vscan": (9, 4),
}  # fmt: skip
TOWERS = {"clip": models.llava_clip, "siglip": models.llava_siglip}
Build = Callable[..., Any]

every_plan = pytest.mark.parametrize("name", STAGES)
every_tower = pytest.mark.parametrize("build", TOWERS.values(), ids=TOWERS)


def _plan(name: str, **more: Any) -> dict[str, Any]:
    return {"schema_version": 1, "stages": STAGES[name], **more}


def _text_logits(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Logits at the text tokens of every sample, without padding."""
    with torch.inference_mode():
        logits = model(**inputs).logits
    assert logits.shape[:2] == inputs["input_ids"].shape
    text = (inputs["attention_mask"] == 1) & (inputs["input_ids"] != IMG)
    return [row[kept] for row, kept in zip(logits, text, strict=True)]


@every_tower
@every_plan
def test_keep_all_is_bit_exact(build: Build, name: str) -> None:
    model, inputs = build(), models.llava_inputs(PROMPTS)
    with torch.inference_mode():
        plain = model(**inputs).logits
    stages = [{**stage, "keep": 1.0} for stage in STAGES[name] if stage["strategy"] != "vistog"]
    plan = {"schema_version": 1, "stages": stages}
    with tokenprune.attach(model, plan), torch.inference_mode():
        assert torch.equal(model(**inputs).logits, plain)


@every_tower
@every_plan
def test_counts_are_the_plans_for_every_image(build: Build, name: str) -> None:
    model, inputs = build(), models.llava_inputs(PROMPTS)
    with tokenprune.attach(model, _plan(name)) as handle, torch.inference_mode():
        model(**inputs)
    into_llm, last = LEFT[name]
    assert handle.meter.tokens["llm"] == into_llm
    per_prompt = {number: prompt.count(IMG) for number, prompt in enumerate(PROMPTS)}
    owner = [number for number, images in per_prompt.items() for _ in range(images)]
    left = dict.fromkeys(per_prompt, 0)
    for number, image in enumerate(handle.trace.images):
        left[owner[number]] += image.kept
    assert left == {number: last * images for number, images in per_prompt.items()}


@pytest.mark.parametrize("side", ["left", "right"])
@every_tower
@every_plan
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
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
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


@every_tower
@every_plan
def test_detach_leaves_nothing_behind(build: Build, name: str) -> None:
    model, inputs = build(), models.llava_inputs(PROMPTS)
    plain = _text_logits(model, inputs)
    before = footprint(model)
    with tokenprune.attach(model, _plan(name)):
        pruned = _text_logits(model, inputs)
    assert footprint(model) == before
    assert all(torch.equal(a, b) for a, b in zip(_text_logits(model, inputs), plain, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(pruned, plain, strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_plan
def test_bfloat16(name: str, attention: str) -> None:
    model = models.llava_clip(attention).to(torch.bfloat16)
    inputs = models.llava_inputs(PROMPTS)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    with tokenprune.attach(model, _plan(name)) as handle, torch.inference_mode():
        logits = model(**inputs).logits
        assert handle.meter.tokens["llm"] == LEFT[name][0]
    text = inputs["attention_mask"] == 1
    assert logits.dtype == torch.bfloat16
    assert logits[text].isfinite().all()


def test_a_learned_width_that_does_not_fit_is_refused() -> None:
    stage = {"at": "pre_llm", "strategy": "vistog", "keep": 9, "params": {**VISTOG, "dim": 48}}
    model = models.llava_clip()
    with pytest.raises(tokenprune.TokenpruneError, match=r"48.*32"):
        tokenprune.attach(model, {"schema_version": 1, "stages": [stage]})
