"""What adapters of transformers' multimodal LLMs do with KV caches."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.errors.words import indefinite
from tokenprune.interface.cache_adapter import CacheNote
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.cache_notes import (
    LENGTH,
    follow,
    forget,
    heeded,
    noted,
)
from tokenprune_adapters.transformers.static_caches import StaticCaches


class TransformersCaches(StaticCaches):
    """The part of `TransformersMllm` that is about KV caches."""

    def outputs_cache(self, outputs: Any) -> Any:
        """The KV cache in outputs of LLM, model or `generate`; None without one."""
        # the older name is deprecated: it is read where the newer one isn't known, and nowhere else
        known = (name for name in names.CACHE_NAMES if hasattr(outputs, name))
        return getattr(outputs, next(known, ""), None)

    def cached_length(self, cache: Any) -> int:
        """Tokens in the first layer of a KV cache.

        Raises:
            UnsupportedCallError: the cache holds several prompts, as that of `generate_batch`.
        """
        if cache is None:
            return 0
        if not hasattr(cache, LENGTH):
            raise UnsupportedCallError(
                f"in {indefinite(type(cache).__name__)}: {names.PAGES.reason}",
                where="cache",
                remedy=names.PAGES.remedy,
            )
        return int(getattr(type(cache), LENGTH)(cache))

    def cached_keys(self, cache: Any, layer: int) -> int:
        """Keys that a layer's cache holds; where layers share keys, those that it reads."""
        part = cache.layers[self._source(layer)]
        keys = getattr(part, "keys", None)
        if hasattr(part, "_quantize"):  # `keys` are those that aren't quantized yet
            return int(part.get_seq_length())
        return 0 if keys is None else int(keys.shape[-2])

    def cached_heads(self, cache: Any, layer: int) -> Tensor:
        """Keys `[B, H_kv, K, d]` that a layer's cache holds; where layers share them, its source's.

        Raises:
            UnsupportedCallError: the layer's cache is of another kind than a dynamic one without a
                window, or its keys are kept elsewhere.
        """
        part = cache.layers[self._source(layer)]
        kind = type(part).__name__
        if kind != names.DYNAMIC_CACHES[0] or getattr(cache, "offloading", False):
            how = "offloaded" if kind == names.DYNAMIC_CACHES[0] else f"of class {kind}"
            raise UnsupportedCallError(
                f"a plan reads the attention of layer {layer} over the keys in its cache, and this "
                f"one is {how}.",
                where="cache",
                remedy="Use a DynamicCache, the default, or pass the whole conversation without a "
                "cache.",
            )
        keys: Tensor = part.keys
        return keys

    def mark_cache(self, cache: Any, note: CacheNote | None) -> None:
        """Leave a note on a KV cache, which follows what the cache's methods do to its rows."""
        super().mark_cache(noted(cache), note)
        if note is not None:
            follow(cache)
        else:
            forget(cache)

    def heeding(self, cache: Any) -> AbstractContextManager[None]:
        """While the model runs behind a cache with a note of the engine's."""
        return heeded(cache)

    def cache_mark(self, cache: Any) -> Any:
        """The note on a KV cache, which a shallow copy shares; None without one."""
        return super().cache_mark(noted(cache))

    def trim_cache(self, cache: Any, layer: int, slots: Tensor) -> None:
        """Gather `slots` `[B, K]` of the keys and values of one layer of a `DynamicCache`.

        Raises:
            UnsupportedCallError: the layer's cache is of another kind, or a part of it slid away.
        """
        part = cache.layers[layer]
        kind = type(part).__name__
        if kind not in names.DYNAMIC_CACHES or part.keys.shape[-2] != part.get_seq_length():
            raise UnsupportedCallError(
                f"the cache of layer {layer}, of class {kind}, can't be cut to the tokens that a "
                "stage left: it isn't a dynamic one, or a window slid over it.",
                where="cache",
                remedy="Use a DynamicCache, the default, or let the strategy leave caches as they "
                "are.",
            )
        for name in ("keys", "values"):
            states = getattr(part, name)
            index = slots.to(states.device)[:, None, :, None]
            shape = (-1, states.shape[1], -1, states.shape[3])
            setattr(part, name, states.gather(2, index.expand(*shape)))
        if hasattr(part, "cumulative_length"):
            part.cumulative_length = slots.shape[1]
