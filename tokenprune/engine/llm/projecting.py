"""The projector behind a followed tower: timed, and run on the units that are left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.engine.call import current
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.spreading import spread
from tokenprune.ops import take

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


def of_kept(owner: Attachment) -> Callable[..., Any]:
    """An override of a projector that gets a row for every unit of every piece.

    What it makes has rows of all units again, zeros for those that are gone.

    Args:
        owner: the attachment.
    """

    def forward(original: Callable[..., Any], features: Tensor, *args: Any, **kwargs: Any) -> Any:
        call = current(owner)
        state = None if call is None else call.state(EncoderState)
        mllm = None if call is None else call.state(MllmState)
        if call is None or state is None or mllm is None or mllm.encoding is None:
            return original(features, *args, **kwargs)
        with call.meter.stage("project"):
            count, index = math.prod(state.grid), state.index.to(features.device)
            if index.shape[1] == count:
                return original(features, *args, **kwargs)
            # class tokens stand in front where the model projects them too
            prefix = features.shape[1] - count
            kept = torch.cat((features[:, :prefix], take(features[:, prefix:], index)), dim=1)
            return spread(original(kept, *args, **kwargs), index, prefix, count)

    return forward
