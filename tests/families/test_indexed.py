"""LLMs whose attention sees keys that an indexer chooses, from what a plan left of the prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, generated, language, logits
from tests.families.fate import gone
from tests.families.models.common import built
from tests.families.plans import plan, staged
from tokenprune.errors import LayerError

FIRST = {"qwen4_exp": 1, "glm5_next": 1}
"""The first layer with an indexer, in front of others."""
NEW: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


def cut(name: str) -> dict[str, Any]:
    """A plan that prunes in front of the first layer with an indexer."""
    stage = {"strategy": "random", "at": "decoder", "layer": FIRST[name], "keep": 0.5}
    return plan(stage)


@torch.no_grad()
@pytest.mark.parametrize("name", FIRST)
def test_the_indexer_hides_keys_of_the_tiny_model(name: str) -> None:
    """Otherwise nothing would be tested here."""
    case = case_of(name)
    model, call = case.build(attention="eager"), case.inputs("one", "none")
    seen: list[Tensor] = []
    attention = language(model).layers[FIRST[name]].self_attn
    hook = attention.register_forward_hook(lambda _, __, out: seen.append(out[1][0, 0, -1]))
    logits(model, call)
    hook.remove()
    assert 0 < int((seen[0] > 0).sum()) < len(seen[0]) / 2 + 1


@pytest.mark.parametrize("name", FIRST)
def test_the_first_layer_with_an_indexer_may_prune(name: str) -> None:
    """Behind a cache it goes on with the places that it kept, as without one."""
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    dense, _ = generated(model, call)
    with tokenprune.attach(model, cut(name)):
        tokens, _ = generated(model, call)
        again = model.generate(**call, **NEW, use_cache=False)
    assert torch.equal(again[:, -tokens.shape[1] :], tokens)
    assert not torch.equal(tokens, dense)


@pytest.mark.parametrize("name", FIRST)
def test_rows_that_keep_fewer_tokens_are_what_they_are_alone(name: str) -> None:
    """They begin with dummies, which no block of keys and no n-gram has."""
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    with tokenprune.attach(model, cut(name)):
        tokens, scores = generated(model, call)
        for row, alone in enumerate(case.alone("several", "left", torch.float64)):
            one, own = generated(model, alone)
            assert torch.equal(one[0], tokens[row])
            assert float((own[:, 0] - scores[:, row]).abs().max()) < case.rounding


def test_layers_that_see_what_an_earlier_one_chose_are_refused_by_name() -> None:
    """Its choice is of places in its own sequence, and nobody knows it later on."""
    case = case_of("glm5_next")
    config = case.config()
    settings = {
        "layer_types": ["linear_attention", *["full_attention"] * 3],
        "indexer_types": ["full", "full", "shared", "full"],
    }
    text = {**config.text_config.to_dict(), **settings}
    config.text_config = type(config.text_config).from_dict(text)
    model = built(transformers.Glm5NextForConditionalGeneration, config, torch.float32, "sdpa")
    shared = plan({"strategy": "random", "at": "decoder", "layer": 2, "keep": 0.5})
    with pytest.raises(LayerError, match="layer 2 of this LLM sees the keys that an earlier layer"):
        tokenprune.attach(model, shared)
    ahead = plan({"strategy": "fastv", "at": "decoder", "layer": 3, "keep": 0.5})
    with tokenprune.attach(model, ahead) as handle:  # reads layer 1
        logits(model, case.inputs("one"))
        assert all(2 * image.kept == image.patches for image in handle.trace.images)


@torch.no_grad()
def test_layers_that_scale_queries_by_places_get_those_without_gaps() -> None:
    """Renumbered survivors are what the plain LLM makes of them alone."""
    case = case_of("mistral_large4")
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    given: dict[str, Any] = {}
    hook = language(model).register_forward_pre_hook(
        lambda _, __, kwargs: given.update(kwargs), with_kwargs=True
    )
    logits(model, call)
    hook.remove()
    embeds = given["inputs_embeds"]
    early = plan({"strategy": "random", "at": "pre_llm", "keep": 0.5}, positions="compact")
    with tokenprune.attach(model, early) as handle:
        short = logits(model, call)
        lost = gone(case, handle.trace, call["input_ids"], case.prompts("one", "none"))[0]
    alone = model.lm_head(language(model)(inputs_embeds=embeds[:, ~lost]).last_hidden_state)
    cap = model.final_logit_softcapping
    assert bool(lost.any())
    torch.testing.assert_close(short[:, ~lost], cap * torch.tanh(alone / cap))


@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
def test_renumbered_places_go_on_behind_a_cache(stage: str) -> None:
    case = case_of("mistral_large4")
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    with tokenprune.attach(model, {**staged(case.name, stage, 0.5), "positions": "compact"}):
        tokens, _ = generated(model, call)
        again = model.generate(**call, **NEW, use_cache=False)
    assert torch.equal(again[:, -tokens.shape[1] :], tokens)
