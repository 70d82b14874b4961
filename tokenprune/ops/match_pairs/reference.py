"""Plain torch: one product of a few samples at a time, then rows and columns of it."""

import torch
from torch import Tensor

from tokenprune.ops.constants import numbers
from tokenprune.ops.cosines import gains, samples, unit_rows
from tokenprune.ops.match_pairs import Diversity
from tokenprune.ops.take import take


def match_pairs(
    x: Tensor,
    remove: int,
    first: int,
    order: Tensor | None,
    candidates: int,
    blocked: Tensor | None,
    diversity: Diversity | None,
    squash: bool,
) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.match_pairs`."""
    batch, length, _ = x.shape
    if batch == 0 or remove == 0:
        none = x.new_empty((batch, remove), dtype=torch.int64)
        return none, none.clone()
    ahead, behind = slice(first, candidates, 2), slice(1 - first, candidates, 2)
    found = []
    for part in samples(batch, length, x.device):
        rows = x if part.stop - part.start == batch else x[part]
        unit = unit_rows(rows if order is None else _rows(rows, order[part]))
        block = None if blocked is None else (blocked[part, ahead], blocked[part, behind])
        value, partner, free = _proposals(unit, ahead, behind, block, diversity, squash)
        chosen = _best(value, free, remove)
        found.append((chosen, partner.gather(1, chosen)))
    chosen, mate = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
    if order is None:
        one = numbers(2, x.device)[1]
        if first:
            return one.add(chosen, alpha=2), mate + mate
        return chosen + chosen, one.add(mate, alpha=2)
    return order[:, ahead].gather(1, chosen), order[:, behind].gather(1, mate)


def _proposals(
    unit: Tensor,
    ahead: slice,
    behind: slice,
    blocked: tuple[Tensor, Tensor] | None,
    diversity: Diversity | None,
    squash: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Score and partner of every proposing token, and whether neither is blocked, `[b, Na]`.

    Args:
        unit: `[b, N, D]` rows of length 1 or 0.
        ahead: the proposing tokens among them.
        behind: the receiving ones.
        blocked: which of both are blocked.
        diversity: see `Diversity`.
        squash: whether the cosine is squashed.
    """
    gain = None
    if diversity is None:
        score = torch.bmm(unit[:, ahead], unit[:, behind].mT)
    else:
        gain, cosine = gains(unit, ahead.stop, *diversity)
        score = cosine[:, ahead, behind]
    if squash:
        score = (score + 1.0) * 0.5
    if gain is not None:
        score = score * gain[:, None, behind]
    value, partner = score.max(dim=-1)
    free = None
    if blocked is not None:
        apart = score.masked_fill(blocked[0][:, :, None] | blocked[1][:, None], -torch.inf)
        other, mate = apart.max(dim=-1)
        free = other > -torch.inf
        value, partner = torch.where(free, other, value), torch.where(free, mate, partner)
    # a row's own gain changes nothing about its best partner
    return value if gain is None else value * gain[:, ahead], partner, free


def _best(value: Tensor, free: Tensor | None, count: int) -> Tensor:
    """The proposals of highest score, best first, those of free tokens before all others."""
    order = torch.sort(value, dim=1, descending=True, stable=True).indices
    if free is not None:  # a stable sort, so the order by score holds on either side
        held_back = (~free).gather(1, order).to(torch.int8)
        order = order.gather(1, torch.sort(held_back, dim=1, stable=True).indices)
    return order[:, :count]


def _rows(x: Tensor, order: Tensor) -> Tensor:
    """Whole rows `[b, N, D]` in another order."""
    if x.shape[0] > 1:
        return take(x, order)
    return x[0].index_select(0, order[0])[None]  # the fastest there is, of one sample
