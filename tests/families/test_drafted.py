"""Assisted generation: drafted tokens enter behind the prompt and leave caches again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of
from tests.families.case import Case
from tests.families.plans import core, decoder, plan, staged
from tokenprune.errors import UnsupportedCallError

NEW: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
LOOKUP = {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2}
REPEATED = (40, 41, 42, 43, 44, 45, 46, 40, 41, 42)
"""An end of a prompt behind which a lookup finds a draft in front of the first forward."""
SAYS = {"input_ids": REPEATED, "attention_mask": [1] * len(REPEATED)}
FAMILIES = ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "lfm2_vl", "minimax_m3_vl"]
FAMILIES += ["granite4_vision"]


def asked(case: Case) -> dict[str, Tensor]:
    """The call of one picture with an end that repeats itself."""
    call = case.inputs("one", "none", torch.float64)
    silent = [0] * len(REPEATED)
    return {
        name: torch.cat((value, torch.tensor([SAYS.get(name, silent)])), dim=1)
        if name in SAYS or name.endswith("token_type_ids")
        else value
        for name, value in call.items()
    }


def generated(model: Any, call: dict[str, Tensor], **how: Any) -> Tensor:
    """What is generated; positions aren't counted by those of calls before."""
    if hasattr(core(model), "rope_deltas"):
        core(model).rope_deltas = None
    out: Tensor = model.generate(**call, **NEW, **how)
    return out


def looking(name: str) -> dict[str, Any]:
    """A stage that reads what the prompt's last token looks at, where that can be had."""
    strategy = "random" if name in ("lfm2_vl", "minimax_m3_vl") else "fastv"
    return {**decoder(name, 0.4), "strategy": strategy}


@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", FAMILIES)
def test_drafts_from_the_prompt_change_nothing(name: str, stage: str) -> None:
    case = case_of(name)
    model, call = case.create(torch.float64), asked(case)
    lengths: list[int] = []
    core(model).register_forward_pre_hook(
        lambda _, args, given: lengths.append((args or [given["input_ids"]])[0].shape[1]),
        with_kwargs=True,
    )
    wanted = plan(looking(name)) if stage == "decoder" else staged(name, stage, 0.5)
    with tokenprune.attach(model, wanted) as handle:
        tokens = generated(model, call)
        kept = [image.steps[-1].anchor for image in handle.trace.images]
        lengths.clear()
        found = generated(model, call, **LOOKUP)
        again = [image.steps[-1].anchor for image in handle.trace.images]
    assert lengths[0] == call["input_ids"].shape[1] + LOOKUP["prompt_lookup_num_tokens"]
    assert torch.equal(found, tokens)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_drafts_of_another_model_change_nothing() -> None:
    case = case_of("llava")
    model, call = case.create(torch.float64), asked(case)
    drafting = case.create(torch.float64)
    for weight in drafting.parameters():
        weight.data += 0.01 * torch.randn_like(weight)
    with tokenprune.attach(model, plan(looking("llava"))):
        found = generated(model, call, assistant_model=drafting)
        assert torch.equal(found, generated(model, call))


@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
def test_drafts_of_further_layers_change_nothing(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that predict several tokens are given the whole prompt, whatever a plan left of it."""
    modeling = pytest.importorskip("transformers.modeling_layers")
    if not hasattr(modeling, "MtpModel"):
        pytest.skip("transformers drafts with no layers of the checkpoint")
    case, seen = case_of("llava"), []
    model, call = case.create(torch.float64), asked(case)
    model.config.get_text_config().num_mtp_layers = 2

    def loaded(main: Any, **_: Any) -> Any:
        torch.manual_seed(0)
        made = modeling.MtpModel(main, 2).double().eval()
        made.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        return made

    monkeypatch.setattr(modeling.MtpModel, "from_pretrained", loaded)
    with tokenprune.attach(model, staged("llava", stage, 0.5)):
        tokens = generated(model, call)
        assert torch.equal(generated(model, call, use_mtp=True), tokens)
    assert seen[0] == call["input_ids"].shape[1]


def test_drafts_would_see_what_a_strategy_trims() -> None:
    case = case_of("llava")
    model, call = case.create(torch.float64), asked(case)
    trims = {**decoder("llava", 0.5), "strategy": "prunevid"}
    with tokenprune.attach(model, plan(trims)):
        tokens = generated(model, call)
        with pytest.raises(UnsupportedCallError, match="trims caches behind the prompt"):
            generated(model, call, **LOOKUP)
        assert torch.equal(generated(model, call), tokens)
