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
    ahead = hidden.shape[1] - slot.shape[1]
    left = ahead + kept
    number = numbers(batch * left + 1, slot.device)
    group = _groups(slot, ahead, left, number)
    grouped, order = group.sort(stable=True)
    bags = order, torch.searchsorted(grouped, number)
    kind = torch.promote_types(torch.float32, hidden.dtype)
    each = typed(size.reshape(-1), kind)
    # whole numbers, whose sums are the same in any order
    sums = total = each.new_zeros(batch * left).scatter_add_(0, group, each)
    if weight is not None:
        each = pad(typed(weight, kind), (ahead, 0), value=1.0).view(-1)
        total = _added(each[:, None], bags)[:, 0].clamp_(min=torch.finfo(torch.float32).tiny)
    # The share, not the weight, scales a token: w / w is exactly 1, (w * x) / w isn't x.
    share = each.gather(0, order) / total.gather(0, grouped)
    states = _added(typed(hidden.reshape(-1, hidden.shape[2]), kind), bags, share)
    states = typed(states, hidden.dtype).view(batch, left, hidden.shape[2])
    sums = typed(sums.view(batch, left), torch.float32)
    return [states, sums, sums.log(), *[take(value, anchor) for value in (index, *riders)]]


def _groups(slot: Tensor, ahead: int, left: int, number: Tensor) -> Tensor:
    """The row, among all that are left of the batch, that every row goes to, `[B * (P + N)]`."""
    group = slot + number[ahead:-1:left, None]
    if not ahead:
        return group.view(-1)
    # tokens in front are groups of one
    if slot.shape[0] == 1:
        own = numbers(ahead + slot.shape[1], slot.device)
        return own.scatter(0, own[ahead:], group.view(-1))
    front = number[:-1].view(slot.shape[0], left)[:, :ahead]
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
