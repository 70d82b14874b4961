"""The blocks of Llama 4's vision tower in transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Given
from tokenprune_adapters.shared.rotary import rotated_complex
from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import LLAMA4, TURNS, VisionNames

_MODULE = "transformers.models.llama4.modeling_llama4"


class Llama4VisionAdapter(HfVitAdapter):
    """Llama4VisionEncoder, the part of the tower between its two norms.

    The class token stands behind the patches there, and in front of them here. A block's own
    rotation knows one grid for all pictures of a call, so no block runs by its own forward in a
    pass in which patches leave.
    """

    name: ClassVar[str] = "llama4-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Llama4VisionEncoder",)
    names: ClassVar[VisionNames] = LLAMA4
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Llama4VisionEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Llama4VisionAttention",)
    class_token: ClassVar[bool] = True
    whole_blocks: ClassVar[bool] = True

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """Calls of blocks, whose states go by name, and whose outputs are tuples."""
        (name, *_) = self.names.called
        return {(block, "forward"): partial(_called, name) for block in self.blocks}

    def run(
        self, original: Callable[..., Any], hidden: Tensor, args: Any, kwargs: Arguments
    ) -> Tensor:
        """A block's own forward, with the class token behind the patches."""
        output, *_ = original(class_behind(hidden), *args, **kwargs)
        return class_in_front(output)

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Rotary rows of the class token and of the patches that are left, `[B, 1, 1 + K, d/2]`."""
        rows = kwargs[TURNS][:, 0]
        front = rows[-1].expand(len(index), 1, -1)
        return args, {**kwargs, TURNS: torch.cat((front, rows[index]), dim=1)[:, None]}

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate query and key `[B, H, 1 + K, d]`, by rows of all patches or of those left."""
        turns = kwargs[TURNS].to(query.device)
        if turns.dim() == 3:
            turns = class_in_front(turns.transpose(0, 1))[:, None]
        return rotated_complex(query, turns), rotated_complex(key, turns)


def class_in_front(hidden: Tensor) -> Tensor:
    """States `[B, N + 1, D]` with the last of them first."""
    return torch.cat((hidden[:, -1:], hidden[:, :-1]), dim=1)


def class_behind(hidden: Tensor) -> Tensor:
    """States `[B, 1 + N, D]` with the first of them last."""
    return torch.cat((hidden[:, 1:], hidden[:, :1]), dim=1)


def _called(name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    hidden, rest = (kwargs.pop(name), args) if name in kwargs else (args[0], args[1:])
    return (class_behind(original(class_in_front(hidden), *rest, **kwargs)),)
