"""Several questions about one picture: one pass through the encoder for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current
from tokenprune.engine.encoder.state import EncoderState


def share_pictures(attachment: Attachment, projector: nn.Module, shared: int) -> None:
    """Repeat every picture `shared` times between encoder and pre-LLM stages.

    From there on every question has a picture of its own, which may be reduced differently.
    """

    def forward(original: Callable[..., Any], features: Tensor) -> Any:
        call = current(attachment)
        state = None if call is None else call.state(EncoderState)
        if call is not None and state is not None:
            numbers = call.trace.begin(shared * len(state.images), state.grid)
            call.put(_repeated(state, shared, numbers))
        return original(features.repeat_interleave(shared, dim=0))

    attachment.patches.override(projector, "forward", forward)


def _repeated(state: EncoderState, shared: int, numbers: list[int]) -> EncoderState:
    """The state of pictures `numbers`, each `shared` of which are one of its own."""

    def many(value: Tensor) -> Tensor:
        return value.repeat_interleave(shared, dim=0)

    return replace(
        state,
        images=numbers,
        size=many(state.size),
        index=many(state.index),
        riders={name: many(value) for name, value in state.riders.items()},
        signals={name: many(value) for name, value in state.signals.items()},
        prefixed={name: many(value) for name, value in state.prefixed.items()},
        companions={number: many(value) for number, value in state.companions.items()},
        previous=None,
        videos=None,  # with one picture a question, frames or not makes no difference
    )
