"""States of LLMs whose layers hand on several streams of every token (AltUp, hyper-connections)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FLOOR = 1e-5
"""Smallest mean square by which a stream is divided, as in the library."""


def beside(streams: Tensor) -> Tensor:
    """Streams `[A, B, T, D]` side by side, `[B, T, A D]`."""
    return streams.permute(1, 2, 0, 3).flatten(2)


def apart(hidden: Tensor, count: int) -> Tensor:
    """The `count` streams `[A, B, T, D]` of states `[B, T, A D]`."""
    return hidden.view(*hidden.shape[:2], count, -1).permute(2, 0, 1, 3).contiguous()


def predicted(altup: Any, hidden: Tensor) -> Tensor:
    """What a layer computes with, `[B, T, D]`: its prediction of the active stream.

    Args:
        altup: the part of the layer that predicts.
        hidden: its streams, `[B, T, A, D]`.
    """
    streams: Tensor = altup.predict(hidden.movedim(2, 0))
    return streams[altup.config.altup_active_idx]


def mixed(connection: Any, hidden: Tensor, output: int) -> Tensor:
    """What a layer computes with, `[B, T, D]`: what a hyper-connection makes of its streams.

    Args:
        connection: the part of the layer that mixes them.
        hidden: its streams, as the layer gets them.
        output: which of the things that this puts out it is.
    """
    made: Tensor = connection(hidden)[output]
    return made


def united(language: Any, hidden: Tensor) -> Tensor:
    """The mean `[B, T, D]` of streams as long as the first one, in front of the LLM's last norm.

    Args:
        language: the LLM without head.
        hidden: its streams, side by side.
    """
    first, *others = apart(hidden, language.config.altup_num_inputs)
    long = first.square().mean(dim=-1, keepdim=True).sqrt()
    found = [first]
    for back, stream in zip(language.altup_unembed_projections, others, strict=True):
        state = back(stream)
        found.append(state * long / state.square().mean(dim=-1, keepdim=True).clamp(FLOOR).sqrt())
    return torch.stack(found).mean(dim=0)
