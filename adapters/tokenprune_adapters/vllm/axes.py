"""Positions in three axes, as they travel from a tower to a prompt behind the features.

What is left of a picture or a clip stands at offsets in time, height and width from its first
place; in clips of Qwen3-VL words stand between the frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.interface.sites import Grid
from tokenprune_adapters.vllm.digits import DIGITS, digits, number

#: Columns behind the features: the digits of three offsets, and 1 for clips.
CHANNELS = 3 * DIGITS + 1


def placed(index: Tensor, grid: Grid, starts: Tensor) -> Tensor:
    """Offsets `[K, 3]` of tokens of a grid.

    Args:
        index: `[K]` places in raster order.
        grid: merged tokens (t, h, w).
        starts: `[t, 3]` offsets of each frame's first place.
    """
    frame, place = index // (grid[1] * grid[2]), index % (grid[1] * grid[2])
    within = torch.stack((torch.zeros_like(place), place // grid[2], place % grid[2]), dim=-1)
    return starts[frame] + within


def moments(frames: int, interval: float, device: torch.device | None = None) -> Tensor:
    """Starts `[t, 3]` of frames that differ in time alone.

    Args:
        frames: t; 1 for a picture.
        interval: from one frame to the next.
        device: of the result.
    """
    # transformers multiplies in single precision, too
    starts = torch.zeros(frames, 3, dtype=torch.long, device=device)
    starts[:, 0] = (torch.arange(frames, device=device) * interval).long()
    return starts


@dataclass(frozen=True)
class Words:
    """Words in front of every frame of a clip, and one behind it.

    Attributes:
        starts: `[t, 3]` offsets of each frame's first place.
        offsets: `[n, 3]` of the words.
        turns: `[n]` the words' order among frames: frame i itself has turn 3 i + 1.
    """

    starts: Tensor
    offsets: Tensor
    turns: Tensor

    @classmethod
    def around(cls, lengths: Sequence[int], side: int, device: torch.device | None = None) -> Words:
        """Words of frames that follow one another.

        Args:
            lengths: words of each frame, the one behind it included.
            side: how many positions a frame takes.
            device: of the result.
        """
        count = torch.tensor(lengths, device=device)
        begins = (count + side).cumsum(0) - (count + side)
        frame = torch.arange(len(lengths), device=device).repeat_interleave(count)
        number = torch.arange(len(frame), device=device) - (count.cumsum(0) - count)[frame]
        last = (number == count[frame] - 1).long()
        offsets = begins[frame] + number + last * side
        starts = begins + count - 1
        return cls(_everywhere(starts), _everywhere(offsets), 3 * frame + 2 * last)

    def order(self, index: Tensor, grid: Grid) -> Tensor:
        """How tokens of a grid and behind them all words are sorted, `[K + n]`.

        Args:
            index: `[K]` places of the tokens in raster order, ascending.
            grid: merged tokens (t, h, w).
        """
        turns = 3 * (index // (grid[1] * grid[2])) + 1
        return torch.cat((turns, self.turns)).argsort(stable=True)


def written(offsets: Tensor, like: Tensor, *, clip: bool) -> Tensor:
    """Offsets as numbers that survive half precision, `[K, CHANNELS]`.

    Args:
        offsets: `[K, 3]`.
        like: of the dtype and on the device wanted.
        clip: whether they are of a clip.
    """
    kind = torch.full_like(offsets[:, :1], int(clip))
    return torch.cat((digits(offsets).flatten(1), kind), dim=-1).to(like)


def read(channels: Tensor) -> tuple[Tensor, bool]:
    """Offsets `[3, K]` int64 of what `written` made, and whether they are of a clip."""
    offsets = number(channels[:, :-1].reshape(-1, 3, DIGITS))
    return offsets.T, bool(channels[:1, -1].any())


def _everywhere(offsets: Tensor) -> Tensor:
    """The same offsets in all axes, as text has them."""
    return offsets[:, None].expand(-1, 3)
