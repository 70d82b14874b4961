"""Static KV caches of transformers: layers count the tokens that they hold, or have a state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.errors.words import indefinite
from tokenprune.interface.adapter import MllmAdapter
from tokenprune_adapters.transformers import layer_configs
from tokenprune_adapters.transformers import llm_names as names

STEP = 64
"""By how many slots layers are shortened (ours)."""

_REMEDY = "Use a dynamic cache, the default, or detach the plan."


class StaticCaches(MllmAdapter):
    """The part of `TransformersMllm` that is about caches of fixed length."""

    def growing_cache(self, cache: Any) -> Any:
        """An empty dynamic cache in place of a static one.

        Raises:
            UnsupportedCallError: a window would slide over a layer of the cache, or the attention
                is none of torch's.
        """
        from transformers import DynamicCache

        self._require(cache)
        # the config tells where layers have states in place of keys
        config = None if all(map(_with_keys, cache.layers)) else self._config_of_llm
        return DynamicCache(config=config)

    def _require(self, cache: Any) -> None:
        """Refuse a cache whose layers can't be filled to a length of their own each.

        Raises:
            UnsupportedCallError: naming the layer, or the attention.
        """
        if not self.plain_attention():
            raise UnsupportedCallError(
                f"{indefinite(type(cache).__name__)} under a plan needs the attention sdpa or "
                "eager: others aren't told which of its slots are filled.",
                where="attn_implementation",
                remedy=_REMEDY,
            )
        windows = self._windows()
        for number in sorted({self._source(layer) for layer in range(len(windows))}):
            layer, window = cache.layers[number], windows[number]
            kind = type(layer).__name__
            if kind == names.STATIC_CACHE or not _with_keys(layer):
                continue
            if kind != names.SLIDING_CACHE or window is None:
                raise UnsupportedCallError(
                    f"layer {number} of this {type(cache).__name__}, {indefinite(kind)}, can't be "
                    "filled with what a plan leaves.",
                    where="cache",
                    remedy=_REMEDY,
                )
            if layer.max_cache_len >= window:
                raise UnsupportedCallError(
                    f"the window of layer {number}, {window} tokens, slides over a {kind}, and it "
                    "counts places of the whole prompt.",
                    where="cache",
                    remedy=f"Keep prompt and answer below {window} tokens. {_REMEDY}",
                )

    @contextmanager
    def generating(self) -> Iterator[None]:
        """While `generate` runs: no window slides over a cache as long as that of a past call.

        It makes each static cache as long as the longest so far, which keeps the number of graphs
        low.
        """
        model, window = self.model, min(filter(None, self._windows()), default=0)
        longest: int = getattr(model, names.LONGEST_CACHE, 0)
        if not window or longest < window:
            yield
            return
        delattr(model, names.LONGEST_CACHE)
        try:
            yield
        finally:
            setattr(model, names.LONGEST_CACHE, longest)

    def fill_cache(self, cache: Any, grown: Any, whole: int | None) -> None:
        """Write the keys and values of every layer of a dynamic cache to the front of a static one.

        States of linear attention and of convolutions, whose shape is fixed, are copied.

        Attention takes all slots of a static cache. So its layers lose those of tokens that are
        gone, in steps, which bound the number of graphs that a compiler makes of layers of several
        lengths.

        Raises:
            UnsupportedCallError: it has no room for those of a layer; nothing is written.
        """
        with_keys = [number for number, layer in enumerate(grown.layers) if _with_keys(layer)]
        lengths = {number: grown.layers[number].keys.shape[-2] for number in with_keys}
        longest, most = max(lengths.values()), int(cache.layers[with_keys[0]].max_cache_len)
        if longest > most:
            raise UnsupportedCallError(
                f"{longest} tokens are left of the prompt, and this {type(cache).__name__} has "
                f"room for {most}.",
                where="cache",
                remedy=f"Make it with max_cache_len={longest}, and what is to be generated.",
            )
        kinds = {type(cache.layers[number]).__name__ for number in with_keys}
        for number, layer in enumerate(grown.layers):
            if number not in lengths:
                _copy(cache, layer, number)
                continue
            if whole is not None and kinds == {names.STATIC_CACHE}:
                cache.layers[number].max_cache_len -= (whole - lengths[number]) // STEP * STEP
            cache.update(layer.keys, layer.values, number)

    def slots(self, cache: Any, layer: int) -> int:
        """Tokens that the static cache that a layer reads has room for."""
        return int(cache.layers[self._source(layer)].max_cache_len)

    def held(self, cache: Any, layer: int, new: int) -> Tensor:
        """`[]` tokens in the static cache that a layer reads.

        Raises:
            UnsupportedCallError: a window would slide over the layer with `new` ones, though no
                token is out of its sight; layers without windows raise where they are full.
        """
        number = self._source(layer)
        part = cache.layers[number]
        count: Tensor = part.cumulative_length
        known = getattr(part, names.SLIDING_COUNT, 0)
        if known + new > part.max_cache_len:
            raise UnsupportedCallError(
                f"{known} tokens are in layer {number} of this {type(cache).__name__}, which has "
                f"room for {part.max_cache_len}, and {new} more are to enter.",
                where="cache",
                remedy="Make it with a larger max_cache_len.",
            )
        return count

    def put_cache(self, outputs: Any, cache: Any, grown: Any) -> Any:
        """The core's outputs, changed in place unless a tuple, with the cache if they have one."""
        if isinstance(outputs, tuple):
            return tuple(cache if one is grown else one for one in outputs)
        # the older name is deprecated: it is looked for where the newer one isn't known
        name = next((name for name in names.CACHE_NAMES if name in outputs), None)
        if name is not None:
            outputs[name] = cache
        return outputs

    def plain_attention(self) -> bool:
        """Whether the LLM runs an attention of torch."""
        return getattr(self._config_of_llm, names.IMPLEMENTATION) in names.PLAIN_ATTENTION

    @property
    def _config_of_llm(self) -> Any:
        return getattr(self.spec().language_model, names.MODEL_CONFIG)

    def _windows(self) -> Sequence[int | None]:
        """The sliding window of every layer, None for none."""
        spec = self.spec()
        return spec.windows or [spec.window] * len(spec.layers)

    def _source(self, layer: int) -> int:
        """The layer whose keys a layer reads."""
        return layer_configs.source(self._config_of_llm, layer)


def _with_keys(layer: Any) -> bool:
    return type(layer).__name__ not in (names.LINEAR_CACHE, names.EMPTY_CACHE)


def _copy(cache: Any, layer: Any, number: int) -> None:
    """Copy the states of a layer into those of a static cache, which stay where they are."""
    if type(layer).__name__ == names.EMPTY_CACHE:
        return
    for index, state in layer.conv_states.items():
        cache.update_conv_state(state, number, index)
    for index, state in layer.recurrent_states.items():
        if state is not None:  # layers of convolutions have none
            cache.update_recurrent_state(state, number, index)
