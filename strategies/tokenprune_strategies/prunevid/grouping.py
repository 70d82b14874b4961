"""Static and dynamic tokens of every segment, as groups that are merged apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.ops import merge_compact, sum_compact
from tokenprune_strategies.prunevid.segments import segments
from tokenprune_strategies.shared.runs import Run


@dataclass(frozen=True)
class Video:
    """The tokens of one video.

    Attributes:
        hidden: `[N, D]` float32.
        frame: `[N]` frame of every token, counted from 0 over the frames that have tokens.
        location: `[N]` place in its frame.
        times: `[T]` place of every frame in the unpruned video.
    """

    hidden: Tensor
    frame: Tensor
    location: Tensor
    times: Tensor

    @classmethod
    def of(cls, hidden: Tensor, position: Tensor, width: int) -> Video:
        """From features `[N, D]` in float32, positions (t, h, w) `[N, 3]` and the grid's width."""
        times, frame = torch.unique(position[:, 0], return_inverse=True)
        location = position[:, 1] * width + position[:, 2]
        return cls(hidden, frame, location, times)

    def means(self) -> Tensor:
        """Mean feature of every frame, `[T, D]`."""
        return _means(self.hidden, self.frame, len(self.times))


@dataclass(frozen=True)
class Group:
    """Tokens that are merged with each other only.

    Attributes:
        feature: `[L, D]` what they are clustered by: a token, or a location's mean over time.
        anchor: `[L]` token whose place each feature has.
        member: `[m]` tokens.
        of: `[m]` feature that each token went into.
        static: whether these are a segment's static tokens.
        first: place of the segment's first frame in the unpruned video.
    """

    feature: Tensor
    anchor: Tensor
    member: Tensor
    of: Tensor
    static: bool
    first: int


def groups(video: Video, gamma: float, tau: float, neighbours: int) -> list[Group]:
    """The paper's groups: static tokens segment by segment, dynamic ones frame by frame."""
    found: list[Group] = []
    for run in segments(video.means(), gamma, neighbours):
        found += _split(video, run, tau)
    return found


def coarse_groups(video: Video, gamma: float, neighbours: int, most: int) -> list[Group]:
    """At most `most` groups, for budgets that are smaller than the number of the paper's (ours).

    Every location of a segment counts as static; if the segments are too many, the video is one.
    """
    runs = segments(video.means(), gamma, neighbours)
    if len(runs) > most:
        runs = [Run(0, len(video.times))]
    return [group for run in runs for group in _split(video, run, None)]


def _split(video: Video, run: Run, tau: float | None) -> list[Group]:
    """Groups of one segment; without a threshold all of its tokens are static."""
    first = int(video.times[run.start])
    member = ((video.frame >= run.start) & (video.frame < run.stop)).nonzero()[:, 0]
    _, of = torch.unique(video.location[member], return_inverse=True)
    hidden, count = video.hidden[member], int(of.max()) + 1
    static = torch.ones(count, dtype=torch.bool, device=of.device)
    if tau is not None:
        similarity, seen = steadiness(hidden, of, count)
        static = (seen > 1) & (similarity >= tau)
    still = static[of]
    made = [_static(member[still], of[still], hidden[still], first)] if bool(still.any()) else []
    moving = member[~still]
    return made + [
        _dynamic(video, one, first)
        for t in range(*run)
        if len(one := moving[video.frame[moving] == t])
    ]


def steadiness(hidden: Tensor, of: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean cosine over all pairs of a location's tokens, in linear time.

    Args:
        hidden: `[m, D]`.
        of: `[m]` location of every token.
        count: number of locations L.

    Returns:
        The mean `[L]`, 0 for a location with one token, and the number of tokens `[L]`.
    """
    unit = normalize(hidden, dim=-1)
    ones = torch.ones_like(unit[:, 0])
    seen = sum_compact(ones[None], of[None], count)[0]
    total = _means(unit, of, count) * seen[:, None]
    own = sum_compact(unit.square().sum(-1)[None], of[None], count)[0]
    pairs = (seen * (seen - 1)).clamp(min=1)
    return (total.square().sum(-1) - own) / pairs, seen


def _static(member: Tensor, of: Tensor, hidden: Tensor, first: int) -> Group:
    _, of = torch.unique(of, return_inverse=True)
    count = int(of.max()) + 1
    anchor = member.new_full((count,), int(member.max()))
    anchor = anchor.scatter_reduce(0, of, member, "amin")
    return Group(_means(hidden, of, count), anchor, member, of, True, first)


def _dynamic(video: Video, member: Tensor, first: int) -> Group:
    every = torch.arange(len(member), device=member.device)
    return Group(video.hidden[member], member, member, every, False, first)


def _means(values: Tensor, of: Tensor, count: int) -> Tensor:
    return merge_compact(values[None], of[None], torch.ones_like(values[None, :, 0]), count)[0]


def sizes(found: Sequence[Group]) -> list[int]:
    """Number of features of every group."""
    return [len(group.anchor) for group in found]
