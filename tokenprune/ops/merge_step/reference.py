"""Plain torch: rows sorted by where they go, and added up row by row in one pass."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from tokenprune.ops.constants import numbers
from tokenprune.ops.take import take


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
    grouped, order = _groups(slot, ahead, left, number).sort(stable=True)
    bags = order, torch.searchsorted(grouped, number)
    kind = torch.promote_types(torch.float32, hidden.dtype)
    each = size.reshape(-1, 1).to(kind)
    sums = total = _added(each, bags)
    if weight is not None:
        each = pad(weight.to(kind), (ahead, 0), value=1.0).view(-1, 1)
        total = _added(each, bags).clamp_(min=torch.finfo(torch.float32).tiny)
    # The share, not the weight, scales a token: w / w is exactly 1, (w * x) / w isn't x.
    share = each[:, 0].gather(0, order) / total[:, 0].gather(0, grouped)
    states = _added(hidden.reshape(-1, hidden.shape[2]).to(kind), bags, share)
    sums = sums.view(batch, left).float()
    carried = (take(value, anchor) for value in (index, *riders))
    return [states.to(hidden.dtype).view(batch, left, -1), sums, sums.log(), *carried]


def _groups(slot: Tensor, ahead: int, left: int, number: Tensor) -> Tensor:
    """The row, among all that are left of the batch, that every row goes to, `[B * (P + N)]`."""
    batch, tokens = slot.shape
    first = number[ahead:-1:left, None]  # behind the tokens in front, which are groups of one
    if not ahead:
        return (slot + first).view(-1)
    group = slot.new_empty((batch, ahead + tokens))
    group[:, :ahead] = number[:-1].view(batch, left)[:, :ahead]
    torch.add(slot, first, out=group[:, ahead:])
    return group.view(-1)


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
    return embedding_bag(
        order, rows, first, mode="sum", per_sample_weights=factor, include_last_offset=True
    )
