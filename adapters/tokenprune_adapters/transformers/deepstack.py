"""Features of several depths that an LLM adds to its visual tokens behind its first layers.

The library packs them, a row for each visual token of the batch. Here they are read as an argument
with a row for each token, so that they are cut as everything else is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.interface.calls import LlmCall

MARKS = "visual_pos_masks"
"""`[B, T]` True for visual tokens."""
ROWS = "deepstack_visual_embeds"
"""Of every level `[n, d]`, for the tokens marked."""
METHOD = "_deepstack_process"
"""Called with states, marks and the rows of one level."""


def axes(levels: int) -> dict[str, int]:
    """On which axis the tokens stand in the arguments as they are read."""
    return {MARKS: 1, **{_name(level): 1 for level in range(levels)}}


def read(call: LlmCall, given: Mapping[str, Any]) -> LlmCall:
    """The LLM's call with a row for each token and level, zeros for text."""
    marks, levels = given.get(MARKS), given.get(ROWS)
    if marks is None or levels is None:
        return call
    levelled = {_name(level): spread(rows, marks) for level, rows in enumerate(levels)}
    return replace(call, per_token={**call.per_token, **levelled})


def written(call: LlmCall) -> tuple[LlmCall, dict[str, Any]]:
    """The call without these rows, and the argument that packs them."""
    names = [name for name in call.per_token if name.startswith(f"{ROWS}.")]
    if not names:
        return call, {}
    marks = call.per_token[MARKS]
    packed = [call.per_token[name][marks] for name in names]
    rest = {name: value for name, value in call.per_token.items() if name not in names}
    return replace(call, per_token=rest), {ROWS: packed}


def narrowed(columns: Tensor, args: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments of `METHOD` for the tokens `columns` `[B, K]` of the LLM's input only."""
    states, marks, rows = args
    columns = columns.to(marks.device)
    full = spread(rows, marks)
    left = marks.gather(1, columns)
    index = columns.to(full.device)[..., None].expand(-1, -1, full.shape[-1])
    return states, left, full.gather(1, index)[left.to(full.device)]


def spread(rows: Tensor, marks: Tensor) -> Tensor:
    """Rows `[n, d]` of the tokens marked in `[B, T]`, among zeros for the others: `[B, T, d]`."""
    marks = marks.to(rows.device)
    full = torch.zeros(*marks.shape, rows.shape[-1], dtype=rows.dtype, device=rows.device)
    full[marks] = rows
    return full


def _name(level: int) -> str:
    return f"{ROWS}.{level}"
