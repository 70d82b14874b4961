"""Functions of the signals that a vision encoder has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenprune.interface.signals.views import BlockAttention, BlockOutput
from tokenprune.ops import attention_margins, attention_received, attention_row, attention_rows


def received(view: BlockAttention) -> Tensor:
    """Column mean of softmax(q k^T) over patch queries, `[B, N]`."""
    mean = view.received
    if mean is None:
        mean = _received(view, view.query, view.key)
    return _of_picture(view, mean)


def _received(view: BlockAttention, query: Tensor, key: Tensor) -> Tensor:
    if view.mask is not None:  # rows of other windows give nothing, and no class token is there
        return _received_masked(query.detach().float(), key.detach().float(), view.mask)
    mean = attention_received(query, key, bias=view.bias, skip=view.prefix)
    if view.real is None or view.bias is None:
        return mean
    # queries of padding are zeros, so each of them gives the softmax of the bias alone
    length, real = mean.shape[1], _count(view)
    total = mean * length - view.bias.float().softmax(dim=1) * (length - real)
    return total / real


def _received_masked(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    batch, heads, _, width = query.shape
    if batch > 1:
        mask = mask.repeat_interleave(heads, dim=0)
    queries, keys = query.flatten(0, 1), key.flatten(0, 1)
    logits = torch.baddbmm(mask, queries, keys.mT, alpha=width**-0.5)
    weights = torch.unflatten(logits.softmax(dim=-1), 0, (batch, heads))
    return weights.mean(dim=(1, 2))


def _count(view: BlockAttention) -> Tensor:
    """Patches of padded windows, `[B, 1]`; 1 where none is left."""
    assert view.real is not None
    return view.real.sum(dim=1, keepdim=True).clamp(min=1)


def received_from_all(view: BlockAttention) -> Tensor:
    """Column mean of softmax(q k^T) over all queries, prefix tokens' too, `[B, N]`."""
    if not view.prefix:
        return received(view)
    ahead = view.query[:, :, : view.prefix]
    rows = attention_rows(ahead, view.key, bias=view.bias)[..., view.prefix :].mean(dim=1)
    mean = received(view)
    return (mean * mean.shape[1] + rows.sum(dim=1)) / view.query.shape[2]


def given(view: BlockAttention) -> Tensor:
    """Row mean of softmax(q k^T) over patch keys, `[B, N]`: (1 - weight on the prefix) / N."""
    query, prefix = view.query, view.prefix
    if prefix == 0:
        count = query.shape[2]
        even = query.new_full((query.shape[0], count), 1.0 / count).float()
        even = even if view.real is None else (1.0 / _count(view)).expand(-1, count)
        return _of_picture(view, even)
    mean = view.given
    if mean is None:
        _, mean = attention_margins(query, view.key, bias=view.bias, skip=prefix)
    return _of_picture(view, mean)


def _of_picture(view: BlockAttention, mean: Tensor) -> Tensor:
    """A mean over a window `[B, N]` as the mean over its picture: other windows give zeros."""
    return mean if view.share is None else mean * view.share[:, None]


def logits_received(view: BlockAttention) -> Tensor:
    """Column mean of q.k / sqrt(d) over patches, `[B, N]`: the mean over queries is mean(q).k."""
    query, key, scale = _patches(view)
    return (key * _mean(view, query)).sum(-1).mean(dim=1) * scale


def logits_given(view: BlockAttention) -> Tensor:
    """Row mean of q.k / sqrt(d) over patches, `[B, N]`."""
    query, key, scale = _patches(view)
    return (query * _mean(view, key)).sum(-1).mean(dim=1) * scale


def _mean(view: BlockAttention, part: Tensor) -> Tensor:
    """Mean over patches: `[B, H, N, d]` -> `[B, H, 1, d]`."""
    if view.real is None:
        return part.mean(dim=2, keepdim=True)
    return part.sum(dim=2, keepdim=True) / _count(view)[:, None, None]


def _patches(view: BlockAttention) -> tuple[Tensor, Tensor, float]:
    query, key = (part[:, :, view.prefix :].float() for part in (view.query, view.key))
    return query, key, float(query.shape[-1] ** -0.5)


def keys_joined(view: BlockAttention) -> Tensor:
    """The patches' keys of all heads side by side, `[B, N, C]`."""
    return joined(view.key[:, :, view.prefix :])[:, 0]


def queries_joined(view: BlockAttention) -> Tensor:
    """The patches' queries of all heads side by side, `[B, N, C]`."""
    return joined(view.query[:, :, view.prefix :])[:, 0]


def values_joined(view: BlockAttention) -> Tensor:
    """The patches' values of all heads side by side, `[B, N, C]`."""
    return joined(view.value[:, :, view.prefix :])[:, 0]


def keys(view: BlockAttention) -> Tensor:
    """Head mean of the patches' keys, `[B, N, d]`."""
    return view.key[:, :, view.prefix :].mean(dim=1)


def of_class_token(view: BlockAttention) -> Tensor:
    """Head mean of the class token's softmax row over the patches, `[B, N]`."""
    return attention_row(view.query, view.key, bias=view.bias, row=0)[:, view.prefix :]


def of_class_token_joined(view: BlockAttention) -> Tensor:
    """The class token's softmax row with all heads as one, over the patches, `[B, N]`."""
    query, key = joined(view.query), joined(view.key)
    return attention_row(query, key, bias=view.bias, row=0)[:, view.prefix :]


def received_joined(view: BlockAttention) -> Tensor:
    """Column mean over patch queries of the softmax with all heads as one, `[B, N]`."""
    query, key = joined(view.query), joined(view.key)
    return _of_picture(view, _received(view, query, key))


def joined(heads: Tensor) -> Tensor:
    """All heads as one: `[B, H, T, d]` -> `[B, 1, T, H * d]`."""
    return heads.transpose(1, 2).flatten(2)[:, None]


def like_class_token(view: BlockOutput) -> Tensor:
    """Cosine of the class token with each patch, `[B, N]`."""
    return cosine_similarity(view.hidden[:, :1].float(), view.patches.float(), dim=-1)


PADDED = (
    received,
    received_from_all,
    given,
    logits_received,
    logits_given,
    keys,
    keys_joined,
    queries_joined,
    values_joined,
    received_joined,
)
"""Functions that leave padding out of account, see `BlockAttention.real`."""

UNPAIRED = (given, keys, keys_joined, queries_joined, values_joined)
"""Functions that compute no weights of pairs where no class token is in front."""
MASKED = (*UNPAIRED, received, received_from_all, received_joined)
"""Functions that leave other windows out of account, see `BlockAttention.mask`."""
