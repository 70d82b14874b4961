"""From groups to the tokens that go on: how many clusters, and which token joins which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenprune.interface.reduction import Reduction
from tokenprune.ops import cluster_dpc
from tokenprune_strategies.prunevid.grouping import Group
from tokenprune_strategies.prunevid.segments import ROUNDING


def natural(count: int, beta: float, untouched: int) -> int:
    """Clusters of a group of `count` tokens: `int(beta * n)`, small groups stay as they are."""
    return count if count <= untouched else max(1, int(beta * count + ROUNDING))


def fitted(counts: Sequence[int], most: int) -> list[int]:
    """Numbers of clusters cut down to `most` in all (ours).

    Every group keeps one, the rest is shared in proportion to what each asked for beyond it, by
    largest remainders; ties go to the earlier group.

    Args:
        counts: clusters that the groups ask for, 1 at least.
        most: no less than there are groups.
    """
    asked = sum(counts) - len(counts)
    if sum(counts) <= most:
        return list(counts)
    free = most - len(counts)
    shares = [divmod((count - 1) * free, asked) for count in counts]
    rest = free - sum(whole for whole, _ in shares)
    first = sorted(range(len(counts)), key=lambda group: (-shares[group][1], group))[:rest]
    return [1 + whole + (group in first) for group, (whole, _) in enumerate(shares)]


def merged(
    found: Sequence[Group], counts: Sequence[int], neighbours: int, size: Tensor
) -> tuple[Reduction, Tensor]:
    """Cluster every group and merge each cluster into its centre's place.

    Args:
        found: groups that together hold every token once.
        counts: clusters of each.
        neighbours: k of the density.
        size: `[N]` patches that the tokens stand for, the weights of the means.

    Returns:
        The reduction of a batch of one, and for every token `[N, 2]` whether it is static and
        the place of its segment's first frame.
    """
    anchors: list[Tensor] = []
    slot = torch.empty_like(size, dtype=torch.int64)
    note = torch.zeros(len(size), 2, dtype=torch.int64, device=size.device)
    start = 0
    for group, count in zip(found, counts, strict=True):
        points = group.feature[None]
        centre, label = cluster_dpc(points, min(count, len(points[0])), neighbours=neighbours)
        anchors.append(group.anchor[centre[0]])
        slot[group.member] = start + label[0][group.of]
        note[group.member] = note.new_tensor([int(group.static), group.first])
        start += centre.shape[1]
    anchor, order = torch.cat(anchors).sort()
    rank = torch.empty_like(order).scatter(0, order, torch.arange(start, device=order.device))
    return Reduction(anchor=anchor[None], slot=rank[slot][None], weight=size[None]), note
