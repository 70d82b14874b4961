"""The projector behind a followed tower: timed, and run on the units that are left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.engine.call import current
from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.spreading import spread
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.ops import take

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


def of_kept(owner: Attachment, adapter: MllmAdapter) -> Callable[..., Any]:
    """An override of a projector that gets a row for every unit of every piece, or of its members.

    What it makes has rows of all units again, zeros for those that are gone.

    Args:
        owner: the attachment.
        adapter: the model's family.
    """

    def forward(original: Callable[..., Any], features: Tensor, *args: Any, **kwargs: Any) -> Any:
        call = current(owner)
        state = None if call is None else call.state(EncoderState)
        mllm = None if call is None else call.state(MllmState)
        if call is None or mllm is None or mllm.encoding is None:
            return original(features, *args, **kwargs)
        packed = call.state(PackedState)
        if packed is not None and not packed.untouched:
            with call.meter.stage("project"):
                rows, outer = features.flatten(0, -2), features.shape[:-2]
                units = rows[packed.packing.members_of(packed.numbers.to(rows.device))]
                given, named = adapter.write_units(mllm.encoding, units, (features, *args), kwargs)
                made = packed.units(original(*given, **named))
                return made.view(*outer, *made.shape)
        with call.meter.stage("project"):
            if state is None:
                return original(features, *args, **kwargs)
            count, index = math.prod(state.grid), state.index.to(features.device)
            if index.shape[1] == count:
                return original(features, *args, **kwargs)
            # class tokens stand in front where the model projects them too
            prefix = features.shape[1] - count
            kept = torch.cat((features[:, :prefix], take(features[:, prefix:], index)), dim=1)
            return spread(original(kept, *args, **kwargs), index, prefix, count)

    return forward
