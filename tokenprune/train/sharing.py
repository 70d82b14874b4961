"""Several questions about one picture: one pass through the encoder for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current
from tokenprune.engine.encoder_state import EncoderState


def share_pictures(attachment: Attachment, projector: nn.Module, shared: int) -> None:
    """Repeat every picture `shared` times between encoder and pre-LLM stages.

    From there on every question has a picture of its own, which may be reduced differently.
    """

    def forward(original: Callable[..., Any], features: Tensor) -> Any:
        call = current(attachment)
        if call is not None and call.encoder is not None:
            call.encoder = _repeated(call.encoder, shared)
        return original(features.repeat_interleave(shared, dim=0))

    attachment.patches.override(projector, "forward", forward)


def _repeated(state: EncoderState, shared: int) -> EncoderState:
    def many(value: Tensor) -> Tensor:
        return value.repeat_interleave(shared, dim=0)

    rows = torch.arange(len(state.images)).repeat_interleave(shared).tolist()
    return replace(
        state,
        images=[state.images[row] for row in rows],
        size=many(state.size),
        index=many(state.index),
        riders={name: many(value) for name, value in state.riders.items()},
        signals={name: many(value) for name, value in state.signals.items()},
        companions={number: many(value) for number, value in state.companions.items()},
        previous=None,
    )
