"""What an adapter of a multimodal LLM tells of KV caches, and does with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.errors.words import indefinite

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

    def cached_heads(self, cache: Any, layer: int) -> Tensor:
        """Keys `[B, H_kv, K, d]` that a layer's cache holds, as `MllmAdapter.query_key` gives them.

        Asked for where `MllmAdapter.no_cached_heads` says nothing against it.

        Raises:
            UnsupportedCallError: a cache of a kind that doesn't hold them so.
        """
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

    def enter_cache(self, cache: Any, columns: Tensor) -> None:
        """Keep only some of what a cache holds of every token of the LLM's input, in place.

        That is none of its layers' keys and values; most caches hold nothing of the kind.

        Args:
            cache: the KV cache that the LLM was called with, or made.
            columns: `[B, K]` tokens of the LLM's input that are left in its first layer, in order.
        """
        del cache, columns

    def growing_cache(self, cache: Any) -> Any:
        """A new cache that grows, for a prompt whose keys a cache of fixed length takes afterwards.

        Raises:
            UnsupportedCallError: its layers can't be filled each to a length of its own, or the
                LLM's attention can't be told which of its slots are filled.
        """
        raise UnsupportedCallError(
            f"{indefinite(type(cache).__name__)} has its full length from the start, and layers "
            "that prune leave different lengths.",
            where="cache",
            remedy="Use a dynamic cache, or detach the plan.",
        )

    def generating(self) -> AbstractContextManager[None]:
        """While `generate` runs under a plan.

        An adapter may see to it that a cache of fixed length that `generate` makes is as long as
        its call needs, where that of an earlier, longer call couldn't be filled.
        """
        return nullcontext()

    def fill_cache(self, cache: Any, grown: Any, whole: int | None) -> None:
        """Move the keys and values of a cache that grew to the front of one of fixed length.

        States of layers without keys are moved, too, into tensors that stay the same ones.

        Args:
            cache: the one of fixed length, empty.
            grown: the one that grew.
            whole: tokens of the prompt, if the cache was made for it by the library and for nobody
                else: then its layers may lose slots of tokens that are gone. None leaves them.

        Raises:
            UnsupportedCallError: it has no room for them.
        """
        raise NotImplementedError(f"{type(self).__name__} fills no cache")

    def slots(self, cache: Any, layer: int) -> int:
        """How many tokens a layer with keys has room for in a cache of fixed length."""
        raise NotImplementedError(f"{type(self).__name__} reads no cache of fixed length")

    def held(self, cache: Any, layer: int, new: int) -> Tensor:
        """`[]` tokens in a layer of a cache of fixed length, on its device.

        Args:
            cache: the cache.
            layer: number of the layer, which has keys.
            new: how many tokens it is to take.

        Raises:
            UnsupportedCallError: it would drop older ones for these.
        """
        raise NotImplementedError(f"{type(self).__name__} reads no cache of fixed length")

    def put_cache(self, outputs: Any, cache: Any, grown: Any) -> Any:
        """Outputs of the core with `cache` in place of the `grown` one."""
        raise NotImplementedError(f"{type(self).__name__} writes no outputs of the core")

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
