"""Attention that sees only those keys that an indexer chooses for each query.

The layer's own indexer is asked, without its cache, so that nothing is noted there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.interface.calls import LayerCall, Mask
from tokenprune_adapters.transformers import latent_layers
from tokenprune_adapters.transformers import layer_names as names


def _blocks(attention: Any, normed: Tensor, call: LayerCall) -> Tensor:
    """Blocks of keys that are seen, one behind the other (Qwen4-Exp)."""
    mask: Any = call.mask
    return _both(mask, getattr(attention, names.INDEXER)(normed, call.rotary, mask, None))


def _both(mask: Tensor, chosen: Tensor) -> Tensor:
    """A layer's mask and what was chosen `[B, 1, T, T]`, both bool or additive."""
    chosen = chosen if chosen.dtype == torch.bool else chosen == 0
    if mask.dtype == torch.bool:
        return mask & chosen
    return mask.masked_fill(~chosen, torch.finfo(mask.dtype).min)


def _pools(attention: Any, normed: Tensor, call: LayerCall) -> Tensor:
    """Pools of keys that stand one behind the other (GLM 5.3)."""
    query = latent_layers.narrow_query(attention, normed)
    places = getattr(attention, names.INDEXER)(normed, query, call.mask, None)
    mask: Tensor = attention.build_attention_mask_from_topk(places, normed, normed.shape[1])
    return mask


def _keys(attention: Any, normed: Tensor, call: LayerCall) -> Tensor:
    """Single keys (dots3.note)."""
    mask: Any = call.mask
    query = latent_layers.narrow_query(attention, normed)
    places = getattr(attention, names.INDEXER)(normed, query, call.rotary, mask[:, 0], None)
    chosen = torch.zeros(*places.shape[:-1], normed.shape[1], dtype=torch.bool, device=mask.device)
    return _both(mask, chosen.scatter(-1, places.long(), True)[:, None])


CHOOSING: Mapping[str, Callable[[Any, Tensor, LayerCall], Mask]] = {
    "blocks": _blocks,
    "pools": _pools,
    "keys": _keys,
}
"""Masks `[B, 1, T, T]` of what queries see, from the attention, rows `[B, T, D]` behind the layer's
norm, and what the layer is called with; by `LayerKind.indexed`."""
