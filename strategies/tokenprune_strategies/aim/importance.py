"""How important a token is: where random walks over an LLM layer's attention end."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.interface.signals import LayerBefore, Signal
from tokenprune.interface.signals.attention import visible
from tokenprune.ops import attention_rows

STEPS, TEMPERATURE = 5, 0.1


def page_rank(view: LayerBefore) -> Tensor:
    """Root mean square over heads of each token's share of the walks, `[B, T]`; padding has 0.

    The walks of a head begin at all tokens of the prompt alike, text and visual, and follow its
    softmax rows at the temperature for all steps. Heads are read one after another, so that the
    weights of one stand in memory, `[B, T, T]`.
    """
    query, key = view.query, view.key
    prompt = view.text.prompt.to(query.device).float()
    begin = (prompt / prompt.sum(dim=1, keepdim=True))[:, None]
    slots = torch.arange(prompt.shape[1], device=query.device).expand(len(prompt), -1)
    seen = visible(slots, view.text.valid, view.mask)
    cap = view.softcap and view.softcap / TEMPERATURE
    scale = query.shape[-1] ** -0.5 / TEMPERATURE
    heads, sharing = query.shape[1], query.shape[1] // key.shape[1]
    power = torch.zeros_like(prompt)
    for head in range(heads):
        q, k = query[:, head, None], key[:, head // sharing, None]
        step = attention_rows(q, k, seen=seen, scale=scale, softcap=cap)[:, 0]
        walk = begin
        with torch.autocast(walk.device.type, enabled=False):
            for _ in range(STEPS):
                walk = walk @ step
        power = power + walk[:, 0].square()
    return (power / heads).sqrt()


PAGE_RANK = Signal(
    "aim_page_rank",
    "[B, N] root mean square over heads of the share of random walks that end at each token: they "
    "begin at all tokens of the prompt alike and take 5 steps by the softmax rows, at temperature "
    "0.1, of the LLM layer before the site",
    needs=LayerBefore,
    compute=page_rank,
)
