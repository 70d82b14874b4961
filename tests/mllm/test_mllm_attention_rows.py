"""Softmax rows of an LLM layer: masks of every kind, capped logits, heads that share keys."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenprune import Signal
from tokenprune.engine.llm.masks import seen_by
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.signals import LayerBefore, PromptText

BATCH, HEADS, SHARED, COUNT, WIDTH = 2, 4, 2, 9, 6
PADDING = 2
"""Slots in front of the second sample."""


def masks() -> dict[str, Tensor | None]:
    """`[1, T, T]`, as families have them."""
    slots = torch.arange(COUNT)
    causal = slots <= slots[:, None]
    image = (slots > 2) & (slots < 6)
    return {
        "causal": None,
        "window": (causal & (slots[:, None] - slots < 3))[None],
        "both ways": (causal | (image & image[:, None]))[None],
        "prefix": torch.ones(1, COUNT, COUNT, dtype=torch.bool),
    }


def view_of(seed: int, mask: Tensor | None, cap: float | None) -> LayerBefore:
    generator = torch.Generator().manual_seed(seed)
    query = 2 * torch.randn(BATCH, HEADS, COUNT, WIDTH, generator=generator)
    key = 2 * torch.randn(BATCH, SHARED, COUNT, WIDTH, generator=generator)
    valid = torch.ones(BATCH, COUNT, dtype=torch.bool)
    valid[1, :PADDING] = False
    there = torch.zeros_like(valid)
    there[0, 6:], there[1, 7:] = True, True
    behind = torch.ones_like(valid)
    text = PromptText(
        torch.zeros(BATCH, COUNT, 1), valid, there, behind, torch.tensor([8, 7]), ~valid
    )
    return LayerBefore(lambda rotated: (query, key), text, mask, cap)


def seen(view: LayerBefore, b: int, q: int, k: int) -> bool:
    if not bool(view.text.valid[b, k]):
        return False
    return k <= q if view.mask is None else bool(view.mask[0, q, k])


def weights(view: LayerBefore, b: int, h: int, q: int) -> list[float]:
    places = [k for k in range(COUNT) if seen(view, b, q, k)]
    logits = []
    for k in places:
        dot = sum(
            float(view.query[b, h, q, d]) * float(view.key[b, h * SHARED // HEADS, k, d])
            for d in range(WIDTH)
        )
        logit = dot / math.sqrt(WIDTH)
        cap = view.softcap
        logits.append(logit if cap is None else cap * math.tanh(logit / cap))
    powers = [math.exp(logit) for logit in logits]
    found = [0.0] * COUNT
    for k, power in zip(places, powers, strict=True):
        found[k] = power / sum(powers)
    return found


@given(st.integers(0, 99), st.sampled_from(list(masks())), st.sampled_from([None, 1.5]))
@settings(deadline=None, max_examples=16)
def test_signals_heed_masks_and_caps(seed: int, kind: str, cap: float | None) -> None:
    view = view_of(seed, masks()[kind], cap)
    last, most, mean, spread = (
        signal.of(view)
        for signal in (
            Signal.LAST_QUERY_ATTENTION,
            Signal.QUESTION_ATTENTION_MAX,
            Signal.QUESTION_ATTENTION_MEAN,
            Signal.PROMPT_ATTENTION_MEAN,
        )
    )
    for b, (asking, end) in enumerate((([6, 7, 8], 8), ([7, 8], 7))):
        rows = {q: [weights(view, b, h, q) for h in range(HEADS)] for q in range(COUNT)}
        prompt = range(PADDING if b else 0, end + 1)
        for k in range(COUNT):
            of = {q: [row[k] for row in rows[q]] for q in rows}
            able = [q for q in asking if seen(view, b, q, k)]
            total = sum(sum(of[q]) / HEADS for q in asking)
            assert float(last[b, k]) == pytest.approx(sum(of[end]) / HEADS, abs=1e-5)
            assert float(most[b, k]) == pytest.approx(max(max(of[q]) for q in asking), abs=1e-5)
            assert float(mean[b, k]) == pytest.approx(total / max(len(able), 1), abs=1e-5)
            every = sum(sum(of[q]) / HEADS for q in prompt)
            assert float(spread[b, k]) == pytest.approx(every / len(prompt), abs=1e-5)


def test_rows_say_what_is_seen_and_padding_stays_finite() -> None:
    view = view_of(0, masks()["window"], None)
    rows, sees = view.rows(torch.tensor([[8, 3], [0, 8]]))
    assert rows.shape == (BATCH, HEADS, 2, COUNT)
    assert sees[0].int().tolist() == [[0] * 6 + [1] * 3, [0] + [1] * 3 + [0] * 5]
    assert sees[1].int().tolist() == [[1] * COUNT, [0] * 6 + [1] * 3]
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))


def test_masks_of_layers_say_what_is_seen() -> None:
    wanted = torch.ones(2, 4, 4).tril().bool()
    assert seen_by(None) is None
    assert seen_by(torch.ones(2, 4)) is None
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        added = torch.zeros(2, 1, 4, 4, dtype=dtype)
        added = added.masked_fill(~wanted[:, None], torch.finfo(dtype).min)
        for hidden in (added, added.masked_fill(~wanted[:, None], float("-inf"))):
            found = seen_by(hidden)
            assert found is not None
            assert torch.equal(found, wanted)
    found = seen_by(wanted[:1, None])
    assert found is not None
    assert torch.equal(found, wanted[:1])


@pytest.mark.parametrize("mask", [{}, torch.ones(2, 3, 4, 4)], ids=["block", "per head"])
def test_masks_that_do_not_tell_are_refused(mask: object) -> None:
    with pytest.raises(UnsupportedCallError, match=r"dict|\(2, 3, 4, 4\)"):
        seen_by(mask)
