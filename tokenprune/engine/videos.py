"""Images of one prompt as the frames of one video: which belong together, and both views of them.

The encoder's batch holds frames `[B, N, ...]`. Where a video has to be seen as a whole, the frames
of equally long videos are joined to `[V, T * N, ...]`, frame by frame, and split again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tokenprune.engine.images import mismatch
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import ArgumentNames
from tokenprune.interface.places import Places
from tokenprune.interface.sites import Grid
from tokenprune.interface.trace import Trace


@dataclass(frozen=True)
class Bucket:
    """Videos of equally many frames.

    Attributes:
        videos: their numbers among the videos of the batch.
        frames: frames T of each.
        rows: their frames' rows in the batch, video by video.
        whole: whether these are all rows, in order.
    """

    videos: tuple[int, ...]
    frames: int
    rows: tuple[int, ...]
    whole: bool

    def pick(self, value: Tensor) -> Tensor:
        """The frames of these videos: `[B, ...]` -> `[V * T, ...]`."""
        return value if self.whole else value[list(self.rows)]

    def join(self, value: Tensor) -> Tensor:
        """Frames as videos: `[B, N, ...]` -> `[V, T * N, ...]`."""
        return torch.unflatten(self.pick(value), 0, (-1, self.frames)).flatten(1, 2)

    def first(self, value: Tensor) -> Tensor:
        """The value of every video's first frame: `[B, ...]` -> `[V, ...]`."""
        return torch.unflatten(self.pick(value), 0, (-1, self.frames))[:, 0]

    def split(self, value: Tensor) -> Tensor:
        """Videos as frames: `[V, T * K, ...]` -> `[V * T, K, ...]`."""
        return torch.unflatten(value, 1, (self.frames, -1)).flatten(0, 1)

    def number(self, value: Tensor, step: int) -> Tensor:
        """Numbers that begin anew in every frame, counted on through the video.

        `[B, N]` -> `[V, T * N]` int64; negative ones stay.

        Args:
            value: the numbers, each less than `step`.
            step: how far the next frame's numbers are moved.
        """
        first = torch.arange(self.frames, device=value.device) * step
        joined = self.join(value)
        moved = joined + first.repeat_interleave(value.shape[1])
        return torch.where(joined < 0, joined, moved)

    def images(self, numbers: Sequence[int]) -> list[int]:
        """The videos' numbers in the trace, from those of the batch's frames."""
        return [numbers[row] for row in self.rows[:: self.frames]]


@dataclass(frozen=True)
class Videos:
    """The videos whose frames a batch of images are, in order.

    Attributes:
        lengths: frames of every video.
    """

    lengths: tuple[int, ...]

    def buckets(self) -> list[Bucket]:
        """Videos of equal length together."""
        starts = list(accumulate(self.lengths, initial=0))
        buckets = []
        for frames in sorted(set(self.lengths)):
            videos = tuple(v for v, length in enumerate(self.lengths) if length == frames)
            rows = tuple(starts[video] + frame for video in videos for frame in range(frames))
            buckets.append(Bucket(videos, frames, rows, len(rows) == starts[-1]))
        return buckets

    def stack(self, parts: Sequence[Tensor]) -> Tensor:
        """Frames of every bucket, `[V * T, ...]` each, in the order of the batch `[B, ...]`."""
        if len(parts) == 1:
            return parts[0]
        order = [row for bucket in self.buckets() for row in bucket.rows]
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(list(parts))[back]

    def begin(self, trace: Trace, grid: Grid) -> list[int]:
        """Add the videos to a trace: for every frame the number of its video."""
        _, height, width = grid
        numbers: list[int] = []
        for frames in self.lengths:
            numbers += trace.begin(1, (frames, height, width)) * frames
        return numbers


def videos_of(
    ids: Tensor | None, placeholder: int, images: int, patches: int, names: ArgumentNames
) -> Videos:
    """The videos of a call whose encoder gets `images` of `patches` each.

    Args:
        ids: the prompt's token ids `[B, L]`, if the running call has any.
        placeholder: token id that stands for a patch in the prompt.
        images: images in the encoder's batch.
        patches: patches of each.
        names: what the user calls the arguments.

    Raises:
        UnsupportedCallError: no prompt says which images belong together, or the placeholders of a
            prompt are not those of whole images.
    """
    if ids is None:
        raise UnsupportedCallError(
            "no prompt says which images are the frames of a video.",
            where="images: frames",
            remedy=f"Call generate or forward of the model, with {names.ids} and {names.pictures}.",
        )
    return videos_in((ids == placeholder).sum(dim=1).tolist(), images, patches, names.ids)


def videos_in(counts: Sequence[int], images: int, patches: int, where: str) -> Videos:
    """The videos of a batch of prompts, one each.

    Args:
        counts: image placeholders of every prompt; copies for beams follow each other.
        images: images of the batch.
        patches: placeholders of an image.
        where: what the user calls the prompts.

    Raises:
        UnsupportedCallError: they don't match.
    """
    total, one = sum(counts), images * patches
    copies = total // one if one and total % one == 0 else 0
    if not copies or len(counts) % copies:
        raise mismatch(total, one, where)
    lengths = []
    for row in range(0, len(counts), copies):
        frames, rest = divmod(counts[row], patches)
        if rest or any(count != counts[row] for count in counts[row : row + copies]):
            raise mismatch(total, one, where)
        lengths += [frames] if frames else []
    return Videos(tuple(lengths))


def require_frames(shown: Sequence[Places], names: ArgumentNames) -> None:
    """Refuse pictures that can't be frames of one video.

    Args:
        shown: the pictures.
        names: what the user calls the arguments.

    Raises:
        UnsupportedCallError: one is seen in several tiles, or they have several sizes.
    """
    grids = {places.grid for places in shown}
    tiles = max(places.pieces for places in shown)
    if tiles == 1 and len(grids) == 1:
        return
    seen = f"one is seen in {tiles} tiles" if tiles > 1 else f"they have units of {sorted(grids)}"
    raise UnsupportedCallError(
        f"pictures of this call can't be the frames of videos: {seen}.",
        where=f"images: frames, {names.pictures}",
        remedy="Give frames of one size, and let the processor cut none into tiles.",
    )


def as_videos(
    shown: Sequence[Places], ids: Tensor | None, placeholder: int, names: ArgumentNames
) -> list[Places]:
    """The pictures of every prompt as the frames of one video.

    Args:
        shown: all pictures, in prompt order.
        ids: the prompts' token ids `[B, T]`, if the running call has any.
        placeholder: token id that stands for a unit.
        names: what the user calls the arguments.

    Raises:
        UnsupportedCallError: they can't be; see `require_frames` and `videos_of`.
    """
    if not shown:
        return []
    require_frames(shown, names)
    _, height, width = shown[0].grid
    videos = videos_of(ids, placeholder, len(shown), shown[0].units, names)
    return [Places((frames, height, width)) for frames in videos.lengths]
