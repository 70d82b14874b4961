"""Pictures of a sequence as dense batches, within which masks hide the windows of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenprune.engine.encoder.attention import attention
from tokenprune.engine.lines import Shape, joined, stacked
from tokenprune.interface.signals import MASKED, UNPAIRED, BlockAttention, Signal
from tokenprune.ops.attend_short import suits

Heads = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]
"""Query, key and value of every batch, `[B, H, L, d]` each."""

# Entries of masks up to which weights are computed for signals (ours).
_WEIGHTS = 1 << 19
# Batches up to which pictures aren't padded to fewer (ours).
_FEW = 2
# Strides of masks that attention kernels take without a copy.
_ALIGNED = 16


@dataclass(frozen=True)
class Pictures:
    """Pictures or frames, stack by stack, those of neighbouring stacks of equal length together.

    No row has to move for them, whatever the lengths of the windows are.

    Attributes:
        shapes: pictures and rows of each, (B, L), of every batch.
        bias: `[R]` added to the logits of keys, or None.
        window: `[R]` number of the window in which the attention of a row stays; None if it sees
            its picture.
        masks: made of both by now, `[B, 1 or L, L]` for every batch, by type.
    """

    shapes: Sequence[Shape]
    bias: Tensor | None = None
    window: Tensor | None = None
    masks: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, shapes: Sequence[Shape], bias: Tensor | None, window: Tensor | None = None
    ) -> Pictures:
        """The pictures of stacks.

        Args:
            shapes: pictures and rows of each, (B, L), of every stack.
            bias: see the class.
            window: see the class.
        """
        return cls(_alike(shapes), bias, window)

    def serves(self, wanted: Sequence[Signal]) -> bool:
        """Whether signals can be computed from these batches."""
        if self.window is None:
            return True
        few = sum(batch * length**2 for batch, length in self.shapes) <= _WEIGHTS
        return all(signal.compute in (MASKED if few else UNPAIRED) for signal in wanted)

    def heads(self, states: Tensor) -> list[Tensor]:
        """Heads of the sequence `[1, H, R, d]` as views `[B, H, L, d]`."""
        if len(self.shapes) == 1 and self.shapes[0][0] == 1:
            return [states]
        parts = torch.split(states[0], [batch * length for batch, length in self.shapes], dim=1)
        return [
            torch.unflatten(part, 1, shape).transpose(0, 1)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def biases(self, bias: Tensor | None) -> list[Tensor | None]:
        """What is added to the logits of keys, `[B, L]` of every batch."""
        return [None] * len(self.shapes) if bias is None else [*stacked(bias, self.shapes)]

    def attend(self, heads: Heads, biases: Sequence[Tensor | None]) -> Tensor:
        """Attention of the `heads` of every batch, `biases` with it: `[1, H, R, d]`."""
        query, key, _ = heads
        masks: Sequence[Tensor | None] = [None] * len(self.shapes)
        if self.window is not None or self.bias is not None:
            if self.window is None and all(map(suits, query, key)):
                whole = zip(*heads, biases, strict=True)
                return self._sequence([attention(*part) for part in whole])
            masks = self._masks(query[0].dtype)
        parts = zip(*heads, masks, strict=True)
        return self._sequence([masked(*part) for part in parts])

    def views(self, heads: Heads, biases: Sequence[Tensor | None]) -> list[BlockAttention]:
        """What signals are computed from, batch by batch."""
        parts = zip(*heads, strict=True)
        if self.window is None:
            return [
                BlockAttention(*part, bias, 0) for part, bias in zip(parts, biases, strict=True)
            ]
        masks = self._masks(torch.float32)
        return [
            BlockAttention(*part, None, 0, mask=mask)
            for part, mask in zip(parts, masks, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Values `[B, L, ...]` of every batch as those of the sequence, `[R, ...]`."""
        return joined([part.flatten(0, 1) for part in parts])

    def _sequence(self, made: Sequence[Tensor]) -> Tensor:
        return self.join([part.transpose(1, 2) for part in made]).transpose(0, 1)[None]

    def _each(self, values: Tensor | None) -> Sequence[Tensor | None]:
        """Values of rows `[R]` by batch, `[B, L]`."""
        return [None] * len(self.shapes) if values is None else stacked(values, self.shapes)

    def _masks(self, dtype: torch.dtype) -> list[Tensor]:
        if dtype not in self.masks:
            parts = zip(self._each(self.window), self._each(self.bias), strict=True)
            self.masks[dtype] = [mask_of(window, bias, dtype) for window, bias in parts]
        return self.masks[dtype]


def few(shapes: Sequence[Shape]) -> bool:
    """Whether pictures `[B, L]` of so many stacks are few batches."""
    return len(_alike(shapes)) <= _FEW


def _alike(shapes: Sequence[Shape]) -> list[Shape]:
    """Neighbours with equally many rows together."""
    alike: list[Shape] = []
    for batch, length in shapes:
        if alike and alike[-1][1] == length:
            batch += alike.pop()[0]
        alike.append((batch, length))
    return alike


def masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention `[B, H, L, d]` with a mask `[B, 1 or L, L]` of its type."""
    if mask is not None:
        mask = mask[:, None].expand(-1, query.shape[1], query.shape[2], -1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def mask_of(window: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A mask `[B, 1 or L, L]` of windows and biases `[B, L]`, of strides that kernels take."""
    one = bias if window is None else window
    assert one is not None
    batch, length = one.shape
    wide = -(-length // _ALIGNED) * _ALIGNED
    # zeros also where no key is, since kernels may read what stands behind the last one
    plain = wide == length and bias is not None
    make = torch.empty if plain else torch.zeros
    mask = make(batch, 1 if window is None else length, wide, dtype=dtype, device=one.device)
    mask = mask[..., :length]
    if bias is not None:
        mask.copy_(bias[:, None])
    if window is not None:
        mask.masked_fill_(window[:, :, None] != window[:, None], -torch.inf)
    return mask
