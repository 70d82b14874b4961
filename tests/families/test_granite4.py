"""Granite 4 Vision, whose pictures enter in front of layers of the LLM, behind cuts too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import torch

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.cells import run
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.models.granite4 import CORNERS, LEVELS
from tests.families.plans import layers, plan
from tests.families.test_signals import AHEAD, BEFORE, last_rows, looking, within
from tests.mllm.strategies import PLUGIN, Look
from tokenprune.errors import SignalError
from tokenprune.plugins.host import register_plugin

NAME, EXACT = "granite4_vision", 1e-9
NEW = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Look.seen.clear()
    with register_plugin(PLUGIN, "granite4-signals"):
        yield


def at(layer: int, keep: float, strategy: str = "random") -> dict[str, Any]:
    return {"strategy": strategy, "at": "decoder", "layer": layer, "keep": keep}


@pytest.mark.parametrize("early", [(), (0.7,)], ids=["inside", "before"])
@pytest.mark.parametrize("where", [(0, 2), (1, 3), (0, 1, 2, 3)], ids=str)
def test_what_enters_behind_cuts_is_that_of_the_tokens_left(
    where: tuple[int, ...], early: tuple[float, ...]
) -> None:
    case = case_of(NAME)
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    prompts, first = case.prompts("several", "left"), [0] * len(early)
    stages = [{"strategy": "random", "at": "pre_llm", "keep": keep} for keep in early]
    with tokenprune.attach(model, plan(*stages, *(at(layer, 0.7) for layer in where))) as handle:
        short, trace = run(model, call), handle.trace
        again = model.generate(**call, **NEW, use_cache=False)
    cuts = [
        (layer, gone(case, trace, call["input_ids"], prompts, step))
        for step, layer in enumerate((*first, *where))
    ]
    assert all(bool((~one & later).any()) for (_, one), (_, later) in pairwise(cuts))
    with ExitStack() as stack:
        for layer, places in cuts:
            stack.enter_context(hidden_from(layers(model), layer, places))
        full = run(model, call)
    assert torch.equal(short.tokens, full.tokens)
    assert short.apart(full, call["attention_mask"].bool() & ~cuts[-1][1]) < EXACT
    assert torch.equal(again[:, -3:], short.tokens[:, :3])


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_states_of_layers_are_those_of_the_plain_model(layer: int) -> None:
    """No bit differs where all is kept, whichever layers the features enter by the engine."""
    case = case_of(NAME)
    model, call = case.build(), case.inputs("several")
    with torch.no_grad():
        plain = model(**call, output_hidden_states=True)
        with tokenprune.attach(model, plan(at(layer, 1.0))):
            kept = model(**call, output_hidden_states=True)
    assert torch.equal(kept.logits, plain.logits)
    assert len(kept.hidden_states) == len(plain.hidden_states)
    assert all(map(torch.equal, kept.hidden_states, plain.hidden_states))


def test_attention_behind_a_cut_is_that_of_layers_with_their_features() -> None:
    case = case_of(NAME)
    model, call = case.build(attention="eager"), case.inputs("one")
    wanted = plan(at(1, 0.5, "uniform"), looking(3, BEFORE, AHEAD))
    rows = last_rows(model, [2, 3], call, wanted)
    (tokens,) = Look.seen
    found = [tokens.signal(signal)[0] for signal in (BEFORE, AHEAD)]
    assert all(within(*pair) for pair in zip(found, rows, strict=True))


def test_strategies_before_the_llm_see_all_depths_of_a_token() -> None:
    case = case_of(NAME)
    model, call = case.build(), case.inputs("one")
    stage = looking(0)
    stage["at"] = "pre_llm"
    del stage["layer"]
    with torch.no_grad():
        made = model.model.get_image_features(call["pixel_values"], call["image_sizes"])
    with tokenprune.attach(model, plan(stage)) as handle:
        logits(model, call)
        (image,) = handle.trace.images
    (tokens,) = Look.seen
    depths = [rows for _, (rows,) in made.deepstack_features]
    assert len(depths) == len(LEVELS) + len(CORNERS)
    assert tokens.hidden.shape == (1, image.patches, sum(rows.shape[-1] for rows in depths))
    whole = torch.cat(depths, dim=-1)
    assert all(bool((whole == one).all(dim=-1).any()) for one in tokens.hidden[0])


def test_pictures_are_not_compared_with_words_before_the_llm() -> None:
    model = case_of(NAME).build()
    stage = looking(0, tokenprune.Signal.TEXT_EMBEDDINGS)
    stage["at"] = "pre_llm"
    del stage["layer"]
    with pytest.raises(SignalError, match="text_embeddings, which granite4_vision can't supply"):
        tokenprune.attach(model, plan(stage))


def test_survivors_may_be_renumbered() -> None:
    """Positions without gaps are those of a call of the LLM with nothing but what is left."""
    case = case_of(NAME)
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    seen: dict[str, Any] = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    logits(model, call)
    hook.remove()
    early = {"strategy": "random", "at": "pre_llm", "keep": 0.5}
    with tokenprune.attach(model, {**plan(early), "positions": "compact"}) as handle:
        short = logits(model, call)[:, -1]
        ids = call["input_ids"]
        kept = (~gone(case, handle.trace, ids, case.prompts("one", "none"))[0]).nonzero()[:, 0]
    marks = seen["vision_mask"][0, :, 0]
    shown = kept[marks[kept]]
    number = marks.cumsum(0)[shown] - 1
    with torch.no_grad():
        states = model.model.language_model(
            inputs_embeds=seen["inputs_embeds"][:, kept],
            vision_mask=seen["vision_mask"][:, kept],
            deepstack_features={
                layer: rows[number] for layer, rows in seen["deepstack_features"].items()
            },
        ).last_hidden_state
        scaled = model.lm_head(states[:, -1]) / model.config.text_config.logits_scaling
    assert float((short - scaled).abs().max()) < EXACT
