"""Short convolutions of LFM2 see the shortened prompt, also behind a cut inside the LLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, generated, language, logits
from tests.families.fate import gone
from tests.families.plans import plan
from tests.families.test_decoder import EXACT

CUT = 1
"""The first layer with attention; a convolution stands behind it."""
STAGE = {"strategy": "uniform", "at": "decoder", "layer": CUT, "keep": 0.5}


def arriving(model: Any, call: dict[str, Tensor]) -> dict[str, Any]:
    """What the layer of the cut gets in a plain forward."""
    found: dict[str, Any] = {}

    def take(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.update(kwargs, hidden=args[0] if args else kwargs["hidden_states"])

    hook = language(model).layers[CUT].register_forward_pre_hook(take, with_kwargs=True)
    logits(model, call)
    hook.remove()
    return found


def test_convolutions_behind_a_cut_see_neighbours_that_are_left() -> None:
    case = case_of("lfm2_vl")
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    given, of = arriving(model, call), language(model)
    with tokenprune.attach(model, plan(STAGE)) as handle:
        short = logits(model, call)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts("one", "none"))
    kept = (~removed[0]).nonzero()[:, 0]
    states, rotary = given["hidden"][:, kept], given["position_embeddings"]
    rotary = tuple(part[:, kept] for part in rotary)
    with torch.no_grad():
        for layer in of.layers[CUT:]:
            states = layer(states, attention_mask=None, position_embeddings=rotary)
        expected = model.lm_head(of.embedding_norm(states))
    assert float((short[:, kept] - expected).abs().max()) < EXACT


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_beside_a_cut_reaches_no_convolution(padding: str) -> None:
    case = case_of("lfm2_vl", "several")
    model, call = case.build(torch.float64), case.inputs("several", padding, torch.float64)
    with tokenprune.attach(model, plan(STAGE)):
        together = logits(model, call, **case.positions(call))
        for row, alone in enumerate(case.alone("several", padding, torch.float64)):
            single, seen = logits(model, alone)[0], call["attention_mask"][row].bool()
            assert float((single - together[row, seen]).abs().max()) < EXACT


def test_steps_behind_a_cut_go_on_from_the_cached_states() -> None:
    case = case_of("lfm2_vl", "several")
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    new = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with tokenprune.attach(model, plan(STAGE)):
        tokens, _ = generated(model, call)
        again = model.generate(**call, **new, use_cache=False)
    assert torch.equal(again[:, -5:], tokens)
