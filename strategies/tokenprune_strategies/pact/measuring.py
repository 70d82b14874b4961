"""What the layer ahead makes of a token: how far one query agrees with it, and its key."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.interface.signals import LayerAhead, Signal
from tokenprune.ops import attention_rows


def agreement(view: LayerAhead) -> Tensor:
    """Head mean of the softmax row of one query, `[B, T]`; 0 behind the last visual token.

    The query is the mean of those of all tokens up to the last visual one, which are its keys too.
    """
    plain, text = view.unrotated, view.text
    front = (text.valid & ~text.behind).to(plain.query.device)
    front = torch.where(front.any(dim=1, keepdim=True), front, True)  # prompts without visual ones
    share = front.float() / front.sum(dim=1, keepdim=True)
    query = (plain.query.float() * share[:, None, :, None]).sum(dim=2, keepdim=True)
    rows = attention_rows(query, plain.key, seen=front[:, None], softcap=plain.softcap)
    return rows.mean(dim=1)[:, 0]


def keys(view: LayerAhead) -> Tensor:
    """Rotated keys of all heads side by side, `[B, T, C]`; positions count from the first token."""
    return view.counted.key.transpose(1, 2).flatten(2)


AGREEMENT = Signal(
    "pact_agreement",
    "[B, N] head mean of the softmax row, without rotary embeddings, of one query: the mean of "
    "those of all tokens up to the last visual one, over the same tokens, in the LLM layer at the "
    "site itself",
    needs=LayerAhead,
    compute=agreement,
)
AHEAD_KEYS = Signal(
    "pact_keys",
    "[B, N, C] keys of the LLM layer at the site itself, all heads side by side, rotated by "
    "positions counted from the prompt's first token",
    needs=LayerAhead,
    compute=keys,
)
