"""The bias on keys together with the masks that the LLM's layers have of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import models
from tests.train.test_train_losses import batch, plain, session
from tests.train.tiny import plan, tiny
from tokenprune.errors import UnsupportedCallError
from tokenprune.lab.train.biasing import biased_mask

LEAST = torch.finfo(torch.float32).min
VALID = torch.tensor([[True] * 6, [False, False, True, True, True, True]])


def window(width: int) -> Tensor:
    """`[2, 1, 6, 6]`: causal order, the last `width` keys, no padding."""
    mask = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    for row in range(2):
        for query in range(6):
            for key in range(6):
                near = query - width < key <= query
                mask[row, 0, query, key] = near and bool(VALID[row, key])
    return mask


def additive(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, LEAST)


@pytest.mark.parametrize("width", [1, 3, 6])
@pytest.mark.parametrize("form", ["bool", "additive"])
def test_a_window_stays_a_window(width: int, form: str) -> None:
    torch.manual_seed(0)
    keys, own = torch.randn(2, 6), window(width)
    made = biased_mask(keys, VALID, own if form == "bool" else additive(own))
    assert made.shape == (2, 1, 6, 6)
    for row in range(2):
        for query in range(6):
            for key in range(6):
                seen = bool(own[row, 0, query, key]) or query == key
                wanted = float(keys[row, key]) if seen else LEAST
                assert float(made[row, 0, query, key]) == pytest.approx(wanted)


def test_without_a_mask_the_order_is_causal() -> None:
    keys = torch.randn(2, 6)
    assert torch.equal(biased_mask(keys, VALID, None), biased_mask(keys, VALID, window(6)))


def test_what_a_mask_adds_is_kept() -> None:
    keys, slope = torch.randn(2, 6), torch.arange(6.0)[None, None, None] / 7
    made = biased_mask(keys, VALID, additive(window(6)) + slope)
    assert float(made[0, 0, 5, 3]) == pytest.approx(float(keys[0, 3]) + 3 / 7)


def test_an_unknown_mask_is_refused() -> None:
    for given in ("blocks", torch.ones(2, 6), torch.ones(2, 1, 6, 5)):
        with pytest.raises(UnsupportedCallError, match="as attention mask"):
            biased_mask(torch.zeros(2, 6), VALID, given)


def mistral(length: int | None, attention: str = "sdpa") -> Any:
    from transformers import CLIPVisionConfig, MistralConfig

    language = MistralConfig(**models._language(), sliding_window=length)
    return models._llava(CLIPVisionConfig(**models._vision()), language, attention)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_window_that_hides_something_is_refused_by_name(attention: str) -> None:
    loaded = tiny(mistral(20, attention))
    made, given = session(loaded, plan("covipal_style")), batch(tiny())
    with pytest.raises(UnsupportedCallError, match="sliding window or chunk of 20"):
        made.biased(given, torch.zeros(4, 36))
    loaded = tiny(mistral(64, attention))
    made = session(loaded, plan("covipal_style"))
    torch.testing.assert_close(made.biased(given, torch.zeros(4, 36)), plain(loaded, given))
