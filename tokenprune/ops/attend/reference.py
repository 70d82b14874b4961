"""Plain torch: on a CPU blocks of the weights, elsewhere the backend's attention."""

import torch
from torch import Tensor

from tokenprune.ops.attend import apart, in_blocks
from tokenprune.ops.logsumexp import attention_with_lse
from tokenprune.ops.received_from_lse import received_from_lse_op

# Numbers that one block of weights may hold: so that it stays in the cache from the product to its
# sum; and of whole heads and whole samples, as many as are worth an operation of their own (ours).
_BLOCK = 1 << 19
_HEADS = 1 << 18
_SAMPLES = 1 << 16


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int, given: bool
) -> list[Tensor]:
    """See `tokenprune.ops.attend`; the means come behind the attended values."""
    if in_blocks(query):
        return _in_blocks(query, key, value, bias, skip, given)
    bias = None if bias is None else bias.to(query.dtype)  # as the kernel sees it
    found = attention_with_lse(query, key, value, bias)
    if found is None:
        attended, *means = apart(query, key, value, bias, skip, given)
    else:
        attended, lse = found
        means = received_from_lse_op(query, key, lse, bias, skip, given)
    return [attended.transpose(1, 2).contiguous().transpose(1, 2), *means]


def _in_blocks(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int, given: bool
) -> list[Tensor]:
    batch, heads, length, _ = query.shape
    attended = value.new_empty(value.shape)
    received = value.new_empty(batch, length - skip)
    withheld = value.new_zeros(received.shape) if given else None
    step = max(1, _SAMPLES // (heads * length**2))
    for start in range(0, batch, step):
        part = slice(start, start + step)
        parts = query[part], key[part], value[part]
        if len(parts[0]) > 1:  # heads of several samples in one line: one copy of all
            made = torch.stack(parts)
            parts = made[0], made[1], made[2]
        added = None if bias is None else bias[part].to(query.dtype)
        ahead = None if withheld is None else withheld[part]
        _some(*parts, added, attended[part], received[part], ahead)
    found = [attended, received.div_(heads * (length - skip)).float()]
    if withheld is not None:  # a row sums to 1
        found.append((1 - withheld / heads).div_(length - skip).float())
    return found


def _some(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    attended: Tensor,
    received: Tensor,
    ahead: Tensor | None,
) -> None:
    """Fill `attended` and the sums `received` `[b, T - skip]` of a few samples.

    What their tokens give to those that are left out is added to `ahead`, `[b, T - skip]`.

    Blocks depend on the length alone, so a sample's numbers don't depend on its batch: several
    samples share a block only where one has all the heads.
    """
    batch, heads, length, width = query.shape
    skip = length - received.shape[1]
    row_step = -(-length // -(-(length**2) // _BLOCK))
    head_step = heads if batch > 1 else max(1, _HEADS // length**2 // 2 * 2)  # even, for threads
    for h in range(0, heads, head_step):
        part = slice(h, h + head_step)
        keys, values = key[:, part].flatten(0, 1).mT, value[:, part].flatten(0, 1)
        for r in range(0, length, row_step):
            rows = slice(r, r + row_step)
            queries = query[:, part, rows].flatten(0, 1)
            weights = _weights(queries, keys, bias, width**-0.5)
            torch.bmm(weights, values, out=attended[:, part, rows].flatten(0, 1))
            every = weights.view(batch, -1, *weights.shape[1:])[:, :, max(0, skip - r) :]
            counted = every[..., skip:]
            if h == r == 0:
                torch.sum(counted, (1, 2), out=received)
            else:
                received.add_(counted.sum((1, 2)))
            if ahead is not None:
                own = slice(max(0, r - skip), max(0, r - skip) + every.shape[2])
                ahead[:, own].add_(every[..., :skip].sum((1, 3)))


def _weights(queries: Tensor, keys: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Rows of the softmax, `[b * h, R, T]`, of queries `[b * h, R, d]` and keys `[b * h, d, T]`."""
    if bias is None:
        unread = queries.new_empty(1)  # its factor is 0
        logits = torch.baddbmm(unread, queries, keys, beta=0, alpha=scale)
    else:
        if len(bias) > 1:
            bias = bias.repeat_interleave(len(queries) // len(bias), dim=0)
        logits = torch.baddbmm(bias[:, None], queries, keys, alpha=scale)
    return torch.softmax(logits, dim=-1)
