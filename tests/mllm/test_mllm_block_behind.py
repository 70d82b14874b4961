"""Attention of all heads as one, and of the block behind those that feed the projector."""

from __future__ import annotations

import itertools
from typing import Any

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


def projected(kind: str, block: int) -> tuple[Any, dict[str, Tensor]]:
    """A plain block's attention, and its query, key and value `[B, T, C]` of every token, by loops.

    Row c of a weight makes channel c, and heads stand side by side in the channels.
    """
    tower = model(kind, "eager").model.vision_tower
    own = (tower.encoder if hasattr(tower, "encoder") else tower.vision_model.encoder).layers[block]
    entered = own.layer_norm1(plain(kind).hidden_states[block])
    found = {}
    for name in ("query", "key", "value"):
        linear = getattr(own.self_attn, f"{name[0]}_proj")
        rows = torch.zeros_like(entered)
        for b, t in itertools.product(range(rows.shape[0]), range(rows.shape[1])):
            rows[b, t] = (linear.weight * entered[b, t]).sum(dim=1) + linear.bias
        found[name] = rows
    return own.self_attn, found


@pytest.mark.parametrize(("kind", "block"), [("clip", 1), ("clip", BEHIND), ("siglip", 2)])
def test_queries_and_values_of_all_heads_side_by_side(kind: str, block: int) -> None:
    parts = {"queries": "query", "keys": "key", "values": "value"}
    names = {f"{several}_joined@{block}": one for several, one in parts.items()}
    signals = seen(kind, read(*names)).signals
    with torch.no_grad():
        _, want = projected(kind, block)
    prefix = int(kind == "clip")
    for name, one in names.items():
        torch.testing.assert_close(signals[name], want[one][:, prefix:], atol=1e-5, rtol=1e-4)


def test_the_plain_attention_follows_from_them() -> None:
    """What `projected` says of the order of heads is what the model means by it."""
    with torch.no_grad():
        attention, found = projected("clip", 1)
        heads, width = attention.num_heads, attention.head_dim
        made = torch.zeros_like(found["query"])
        for b, t, h in itertools.product(*map(range, (*made.shape[:2], heads))):
            mine = slice(h * width, (h + 1) * width)
            logits = found["key"][b, :, mine] @ found["query"][b, t, mine] / width**0.5
            made[b, t, mine] = logits.softmax(0) @ found["value"][b, :, mine]
        put_out: list[Tensor] = []
        hook = attention.register_forward_hook(lambda *given: put_out.append(given[2][0]))
        plain("clip")
        hook.remove()
        torch.testing.assert_close(attention.out_proj(made), put_out[0], atol=1e-5, rtol=1e-4)


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
