"""What an adapter of a multimodal LLM tells of KV caches, and does with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor

NOTE = "tokenprune_layout"
"""Attribute of a KV cache that holds the engine's note on it."""


class CacheNote(Protocol):
    """What the engine notes on a KV cache: of every row, how its prompt was shortened."""

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        ...

    def of_rows(self, rows: Tensor) -> CacheNote:
        """The note on a cache that holds these rows: `[n]` their numbers, or `[B]` bool."""
        ...


class CacheAdapter(ABC):
    """Methods about the KV caches that the model is called with, or makes."""

    @abstractmethod
    def outputs_cache(self, outputs: Any) -> Any:
        """The KV cache in outputs of the LLM, the model or `generate`; None without one."""

    @abstractmethod
    def cached_length(self, cache: Any) -> int:
        """Tokens in the cache's first layer, which the LLM takes for its length; 0 for None."""

    def cached_keys(self, cache: Any, layer: int) -> int:
        """Keys that a layer's cache holds; needed with `MllmSpec.masks` or `windows`."""
        raise NotImplementedError(f"{type(self).__name__} reads no layer's cache")

    @abstractmethod
    def trim_cache(self, cache: Any, layer: int, slots: Tensor) -> None:
        """Keep only some of the keys and values of one layer, in place.

        Args:
            cache: the KV cache that the LLM was called with, or made.
            layer: number of the layer.
            slots: `[B, K]` those to keep, in order.

        Raises:
            UnsupportedCallError: a cache of a kind that can't be cut.
        """

    def mark_cache(self, cache: Any, note: CacheNote | None) -> None:
        """Leave a note of the engine on a KV cache, which travels with it; None takes it off.

        Where a cache has methods that move its rows, an adapter lets the note follow these.
        """
        setattr(cache, NOTE, note)

    def cache_mark(self, cache: Any) -> Any:
        """The engine's note on a KV cache; None without one."""
        return getattr(cache, NOTE, None)

    def heeding(self, cache: Any) -> AbstractContextManager[None]:
        """While the LLM runs behind a cache whose note the engine heeds.

        An adapter may refuse models that run behind such a cache elsewhere, without its plan.
        """
        return nullcontext()
