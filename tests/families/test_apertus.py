"""Apertus 1.5: codes of a picture are words of its vocabulary, which a prompt could spell out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.models.apertus import CODES
from tests.families.models.common import IMAGE, VOCABULARY
from tests.families.plans import plan, staged
from tokenprune.errors import UnsupportedCallError

NAME = "apertus1p5"


def spelled() -> dict[str, Tensor]:
    """A call whose prompt has a picture's codes in the place of its placeholders."""
    call = case_of(NAME).inputs("one", "none")
    pictured = {"pixel_values": call.pop("pixel_values"), "image_sizes": call.pop("image_sizes")}
    (codes,) = case_of(NAME).build().model.get_image_tokens(**pictured)
    assert int(codes.min()) >= VOCABULARY
    assert int(codes.max()) < VOCABULARY + CODES
    ids = call["input_ids"].clone()
    ids[ids == IMAGE] = codes
    return {**call, "input_ids": ids}


def test_a_prompt_that_spells_out_codes_is_refused() -> None:
    model, call = case_of(NAME).build(), spelled()
    # the model itself makes no difference
    assert torch.equal(logits(model, call), logits(model, case_of(NAME).inputs("one", "none")))
    with tokenprune.attach(model, staged(NAME, "pre_llm", 0.5)):
        for ask in (model, model.model):
            with pytest.raises(UnsupportedCallError, match=r"is a code of a picture.*wouldn't be"):
                ask(**call)
        with pytest.raises(UnsupportedCallError, match=r"row 0, place 11"):
            model.generate(**call, max_new_tokens=2)


def test_a_code_that_the_model_says_itself_ends_no_answer() -> None:
    case = case_of(NAME)
    model, call = case.create(), case.inputs("one", "none")
    head = torch.nn.Linear(model.lm_head.in_features, VOCABULARY + CODES, bias=True)
    with torch.no_grad():
        head.bias.zero_()
        head.bias[VOCABULARY] = 1e4  # whatever it is asked
    model.lm_head = head
    with tokenprune.attach(model, plan({"strategy": "random", "at": "pre_llm", "keep": 0.5})):
        made = model.generate(**call, max_new_tokens=3, do_sample=False)
    assert made[0, -3:].tolist() == [VOCABULARY] * 3
