"""Attention of all heads as one, and of the block behind those that feed the projector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.adapters.variants import adapted
from tests.mllm.calls import model
from tests.mllm.plans import tome
from tests.mllm.test_mllm_block_signals import _plugin, plain, read, seen  # noqa: F401
from tokenprune.errors import SignalError

BEHIND = 3


def joined(kind: str, block: int) -> tuple[Tensor, Tensor]:
    """Softmax rows `[B, T, T]` with all heads as one, by loops, and joined keys `[B, T, C]`."""
    adapter = adapted(model(kind, "eager").model.vision_tower)
    with torch.no_grad():
        query, key, _ = adapter.heads(
            adapter.spec().blocks[block], plain(kind).hidden_states[block]
        )
    batch, heads, count, width = query.shape
    rows = torch.zeros(batch, count, count)
    for b in range(batch):
        for i in range(count):
            logits = sum(key[b, h] @ query[b, h, i] for h in range(heads))
            rows[b, i] = (logits / (heads * width) ** 0.5).softmax(0)
    return rows, torch.cat([key[:, h] for h in range(heads)], dim=-1)


@pytest.mark.parametrize("block", [1, BEHIND])
def test_all_heads_as_one_in_a_used_block_and_in_the_one_behind(block: int) -> None:
    names = (f"cls_joined@{block}", f"received_joined@{block}", f"keys_joined@{block}")
    signals = seen("clip", read(*names)).signals
    rows, keys = joined("clip", block)
    received = rows[:, 1:, 1:].mean(dim=1)
    for name, want in (
        ("cls_attention_joined", rows[:, 0, 1:]),
        ("attention_received_joined", received),
        ("keys_joined", keys[:, 1:]),
    ):
        found = signals[f"{name}@{block}"]
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def test_heads_apart_in_the_block_behind() -> None:
    tower = plain("clip")
    names = ("cls_attention", "received_from_all")
    signals = seen("clip", read(*(f"{name}@{BEHIND}" for name in names))).signals
    attention = tower.attentions[BEHIND].mean(dim=1)
    near = {"atol": 1e-6, "rtol": 1e-4}
    torch.testing.assert_close(signals[f"cls_attention@{BEHIND}"], attention[:, 0, 1:], **near)
    received = attention[:, :, 1:].mean(dim=1)
    torch.testing.assert_close(signals[f"attention_received_from_all@{BEHIND}"], received, **near)


def test_it_is_of_the_tokens_that_are_left() -> None:
    name = f"keys_joined@{BEHIND}"
    tokens = seen("clip", tome(18), read(name))
    assert tokens.signals[name].shape[:2] == (len(tokens.hidden), 18)
    alone = {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 14}
    tokens = seen("clip", alone, read(name))
    assert tokens.signals[name].shape[:2] == tokens.hidden.shape[:2] == (len(tokens.hidden), 36)


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [
        ("siglip", f"keys_joined@{BEHIND + 1}", "isn't used"),  # all its blocks are
        ("clip", f"hidden@{BEHIND}", "isn't used"),
        ("clip", f"keys_joined@{BEHIND + 1}", f"attention of block {BEHIND} can be had"),
    ],
)
def test_what_cannot_be_had_is_refused(kind: str, name: str, what: str) -> None:
    with pytest.raises(SignalError, match=what):
        seen(kind, read(name))
