"""Plain torch: rows sorted by where they go, and added up row by row in one pass."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenprune.ops.constants import numbers
from tokenprune.ops.take import take, typed

_SUM = 0  # as torch.embedding_bag calls this mode


def merge_step(
    hidden: Tensor,
    slot: Tensor,
    anchor: Tensor,
    size: Tensor,
    index: Tensor,
    weight: Tensor | None,
    riders: list[Tensor],
) -> list[Tensor]:
    """See `tokenprune.ops.merge_step`."""
    batch, kept = anchor.shape
    rows, width = hidden.shape[1:]
    left = rows - slot.shape[1] + kept
    number = numbers(batch * left + 1, slot.device)
    group = _groups(slot, rows, left, number)
    grouped, order = group.sort(stable=True)
    bags = order, torch.searchsorted(grouped, number)
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    each = typed(size.reshape(-1), kind)
    # whole numbers, whose sums are the same in any order
    sums = total = each.new_zeros(batch * left).scatter_add_(0, group, each)
    if weight is not None:
        each = pad(typed(weight, kind), (rows - slot.shape[1], 0), value=1.0).view(-1)
        total = _added(each[:, None], bags)[:, 0].clamp_(min=torch.finfo(torch.float32).tiny)
    # The share, not the weight, scales a token: w / w is exactly 1, (w * x) / w isn't x.
    share = each.gather(0, order) / total.gather(0, grouped)
    states = _added(typed(hidden.reshape(-1, width), kind), bags, share)
    states = typed(states, hidden.dtype).view(batch, left, width)
    sums = typed(sums, torch.float32).view(batch, left)
    bias = typed(sums.log(), hidden.dtype)
    return [states, sums, bias, *[take(value, anchor) for value in (index, *riders)]]


def _groups(slot: Tensor, rows: int, left: int, number: Tensor) -> Tensor:
    """The row, among all that are left of the batch, that every row goes to, `[B * (P + N)]`.

    Args:
        slot: see `tokenprune.ops.merge_step`.
        rows: P + N.
        left: rows P + K that are left of each sample.
        number: 0, 1, ... of all that are left.
    """
    batch, tokens = slot.shape
    ahead = rows - tokens
    if batch == 1:
        # tokens in front are groups of one
        own, group = numbers(rows, slot.device), slot.view(-1)
        return own.scatter(0, own[ahead:], group + ahead) if ahead else group
    group = slot + number[ahead:-1:left, None]
    front = number[:-1].view(batch, left)[:, :ahead]
    return torch.cat((front, group), dim=1).view(-1)


def _added(rows: Tensor, bags: tuple[Tensor, Tensor], factor: Tensor | None = None) -> Tensor:
    """Sums of the rows of every group, in their order, `[n, D]` -> `[groups, D]`.

    Args:
        rows: of the whole batch.
        bags: the rows' numbers, group by group, and where each group begins.
        factor: `[n]` of each of these numbers, or None.
    """
    order, first = bags
    if rows.numel() == 0:
        return rows.new_zeros((len(first) - 1, rows.shape[1]))
    return torch.embedding_bag(
        rows, order, first, mode=_SUM, per_sample_weights=factor, include_last_offset=True
    )[0]
