"""The invariants for every strategy x LLaVA tower x stage, on ragged batches with padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
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
from tokenprune.interface.trace import Trace
from tokenprune.plugins.host import host

SIDES = ("left", "right")

every_plan = pytest.mark.parametrize("name", STAGES)
every_pair = pytest.mark.parametrize(("tower", "name"), PAIRS)


def _plan(name: str, **more: Any) -> dict[str, Any]:
    return {"schema_version": 1, "stages": STAGES[name], **more}


def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(**inputs).logits
    assert logits.shape[:2] == inputs["input_ids"].shape
    return logits


def _text(logits: Tensor, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Logits at the text tokens of every sample, without padding."""
    text = (inputs["attention_mask"] == 1) & (inputs["input_ids"] != IMG)
    return [row[kept] for row, kept in zip(logits, text, strict=True)]


@cache
def _plain(tower: str) -> Tensor:
    """Logits of the plain model."""
    return _logits(TOWERS[tower](), models.llava_inputs(PROMPTS))


@dataclass(frozen=True)
class Run:
    """What calls under a plan gave, each made once, and what was left of it.

    Attributes:
        together: by the side of padding, logits of all prompts in one call.
        alone: logits of every prompt in a call of its own.
        tokens: measured in the call with padding on the left.
        trace: of that call.
        after: logits without the plan, behind all of this.
        before: what stood on the model in front of it.
        left: what stands on it behind.
    """

    together: dict[str, Tensor]
    alone: list[Tensor]
    tokens: dict[str, float]
    trace: Trace
    after: Tensor
    before: dict[str, Any]
    left: dict[str, Any]


@cache
def _run(tower: str, name: str) -> Run:
    model, inputs = TOWERS[tower](), models.llava_inputs(PROMPTS)
    _plain(tower)  # transformers installs hooks of its own at the first call
    before, together, alone, first = footprint(model), {}, [], 0
    with tokenprune.attach(model, _plan(name)) as handle:
        together["left"] = _logits(model, inputs)
        tokens, trace = dict(handle.meter.tokens), handle.trace
        together["right"] = _logits(model, models.llava_inputs(PROMPTS, padding_side="right"))
        for prompt in PROMPTS:
            single, images = models.llava_inputs([prompt]), prompt.count(IMG)
            single["pixel_values"] = inputs["pixel_values"][first : first + images]
            first += images
            alone += _text(_logits(model, single), single)
    left = footprint(model)
    return Run(together, alone, tokens, trace, _logits(model, inputs), before, left)


@every_pair
def test_keep_all_is_bit_exact(tower: str, name: str) -> None:
    stages = [{**stage, "keep": 1.0} for stage in STAGES[name] if keeps_all(stage)]
    model = TOWERS[tower]()
    with tokenprune.attach(model, {"schema_version": 1, "stages": stages}):
        assert torch.equal(_logits(model, models.llava_inputs(PROMPTS)), _plain(tower))


@every_pair
def test_counts_are_the_plans_for_every_image(tower: str, name: str) -> None:
    run, (into_llm, last) = _run(tower, name), LEFT[name]
    seen = run.tokens["llm"]
    assert seen == into_llm if exact(name) else seen <= into_llm
    per_prompt = {number: prompt.count(IMG) for number, prompt in enumerate(PROMPTS)}
    owner = [number for number, images in per_prompt.items() for _ in range(images)]
    left = dict.fromkeys(per_prompt, 0)
    for number, image in enumerate(run.trace.images):
        left[owner[number]] += image.kept
    most = {number: last * images for number, images in per_prompt.items()}
    assert left == most if exact(name) else all(left[n] <= most[n] for n in most)


@pytest.mark.parametrize("side", SIDES)
@every_pair
def test_a_batch_gives_what_its_samples_give_alone(tower: str, name: str, side: str) -> None:
    run, inputs = _run(tower, name), models.llava_inputs(PROMPTS, padding_side=side)
    for batched, alone in zip(_text(run.together[side], inputs), run.alone, strict=True):
        torch.testing.assert_close(batched, alone, rtol=1e-4, atol=1e-5)


def _numbered() -> list[tuple[str, str]]:
    """Plans and how their tokens are numbered.

    Numbers depend on where tokens leave and whether their count is known, not on the strategy; so
    they are compact under the first plan of each kind.
    """
    kinds = {}
    for name, stages in STAGES.items():
        lengths = [host().strategies[stage["strategy"]].length for stage in stages]
        kind = tuple((stage["at"], own) for stage, own in zip(stages, lengths, strict=True))
        kinds.setdefault(kind, name)
    return [(name, "original") for name in STAGES] + [(name, "compact") for name in kinds.values()]


@pytest.mark.parametrize(("name", "positions"), _numbered())
def test_generate_hands_back_the_users_prompt(name: str, positions: str) -> None:
    model, inputs = TOWERS["clip"](), models.llava_inputs(PROMPTS)
    calls = {"greedy": {}, "beams": {"num_beams": 2}, "no cache": {"use_cache": False}}
    wanted = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    found = {}
    with tokenprune.attach(model, _plan(name, positions=positions)), torch.inference_mode():
        for mode, options in calls.items():
            out = model.generate(**inputs, **wanted, do_sample=False, **options)
            length = inputs["input_ids"].shape[1]
            assert torch.equal(out.sequences[:, :length], inputs["input_ids"])
            assert 1 <= out.sequences.shape[1] - length <= 3
            found[mode] = out
    greedy, whole = found["greedy"], found["no cache"]
    assert torch.equal(greedy.sequences, whole.sequences)
    # tokens of tiny models may stay what they are where positions are wrong
    for step, reference in zip(greedy.logits, whole.logits, strict=True):
        torch.testing.assert_close(step, reference, rtol=1e-4, atol=1e-5)


@every_pair
def test_detach_leaves_nothing_behind(tower: str, name: str) -> None:
    run, inputs = _run(tower, name), models.llava_inputs(PROMPTS)
    assert run.left == run.before
    assert torch.equal(run.after, _plain(tower))
    if exact(name):
        texts = (_text(logits, inputs) for logits in (run.together["left"], _plain(tower)))
        assert not all(torch.equal(a, b) for a, b in zip(*texts, strict=True))


@cache
def _narrow(attention: str) -> Any:
    """A model in bfloat16; tests share it, so they leave it as it was."""
    return models.llava_clip(attention).to(torch.bfloat16)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_plan
def test_bfloat16(name: str, attention: str) -> None:
    model, inputs = _narrow(attention), models.llava_inputs(PROMPTS)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    with tokenprune.attach(model, _plan(name)) as handle:
        logits = _logits(model, inputs)
        assert handle.meter.tokens["llm"] <= LEFT[name][0]
    text = inputs["attention_mask"] == 1
    assert logits.dtype == torch.bfloat16
    assert logits[text].isfinite().all()


def test_a_learned_width_that_does_not_fit_is_refused() -> None:
    stage = {"at": "pre_llm", "strategy": "vistog", "keep": 9, "params": {**VISTOG, "dim": 48}}
    model = models.llava_clip()
    with pytest.raises(tokenprune.TokenpruneError, match=r"48.*32"):
        tokenprune.attach(model, {"schema_version": 1, "stages": [stage]})
