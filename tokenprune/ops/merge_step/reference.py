"""Plain torch: rows sorted by where they go, and added up row by row in one pass."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

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
    rows = hidden.shape[1]
    ahead = rows - slot.shape[1]
    left = ahead + kept
    number = torch.arange(batch * left + 1, device=slot.device)
    group = _groups(slot, ahead, left, number)
    kind = torch.promote_types(torch.float32, hidden.dtype)
    sizes = size.reshape(-1).to(kind)
    sums = sizes.new_zeros(batch * left).scatter_add_(0, group, sizes)
    # The share, not the weight, scales a token: w / w is exactly 1, (w * x) / w isn't x.
    if weight is None:
        share = sizes / sums.gather(0, group)
    else:
        share = _shares(pad(weight.to(kind), (ahead, 0), value=1.0).view(-1), group, batch * left)
    states = _means(hidden, group, share, number).view(batch, left, -1)
    sums = sums.view(batch, left).float()
    carried = (take(value, anchor) for value in (index, *riders))
    return [states, sums, sums.log(), *carried]


def _groups(slot: Tensor, ahead: int, left: int, number: Tensor) -> Tensor:
    """The row, among all that are left of the batch, that every row goes to, `[B * (P + N)]`."""
    batch, tokens = slot.shape
    group = slot
    if ahead:  # tokens in front are groups of one
        group = slot.new_empty((batch, ahead + tokens))
        group[:, :ahead] = number[:ahead]
        torch.add(slot, ahead, out=group[:, ahead:])
    if batch > 1:
        group = group + number[:-1:left, None]
    return group.reshape(-1)


def _shares(weight: Tensor, group: Tensor, groups: int) -> Tensor:
    """Every row's part of its group's weight; 0 where the weights are."""
    # index_put_ adds fractions in the same order on every run, which scatter_add_ doesn't on CUDA
    total = weight.new_zeros(groups).index_put_((group,), weight, accumulate=True)
    return weight / total.clamp_(min=torch.finfo(torch.float32).tiny).gather(0, group)


def _means(hidden: Tensor, group: Tensor, share: Tensor, number: Tensor) -> Tensor:
    """`[B, P + N, D]` -> `[groups, D]`: sums of a group's rows, each scaled by its share."""
    states = hidden.reshape(-1, hidden.shape[2])
    if states.numel() == 0:
        return hidden.new_zeros((len(number) - 1, hidden.shape[2]))
    grouped, order = group.sort(stable=True)
    first = torch.searchsorted(grouped, number)
    out = embedding_bag(
        order,
        states.to(share.dtype),
        first,
        mode="sum",
        per_sample_weights=share.gather(0, order),
        include_last_offset=True,
    )
    return out.to(hidden.dtype)
