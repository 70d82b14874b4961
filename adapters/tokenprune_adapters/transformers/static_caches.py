"""Static KV caches of transformers: layers count the tokens that they hold, or have a state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.errors.words import indefinite
from tokenprune_adapters.transformers import llm_names as names

STEP = 64
"""By how many slots layers are shortened (ours)."""

_REMEDY = "Use a dynamic cache, the default, or detach the plan."


def require(cache: Any, windows: Mapping[int, int | None], *, plain: bool) -> None:
    """Refuse a cache whose layers can't be filled to a length of their own each.

    Args:
        cache: the cache.
        windows: sliding window of every layer with keys or states of its own, None for none.
        plain: whether the LLM's attention is one of torch's.

    Raises:
        UnsupportedCallError: naming the layer, or the attention.
    """
    if not plain:
        raise UnsupportedCallError(
            f"{indefinite(type(cache).__name__)} under a plan needs the attention sdpa or eager: "
            "others aren't told which of its slots are filled.",
            where="attn_implementation",
            remedy=_REMEDY,
        )
    for number, window in windows.items():
        layer = cache.layers[number]
        kind = type(layer).__name__
        if kind in (names.STATIC_CACHE, names.LINEAR_CACHE):
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
def remembering(model: Any, window: int) -> Iterator[None]:
    """Let `generate` forget the length of an earlier static cache over which a window would slide.

    It makes each one as long as the longest so far, which keeps the number of graphs low.

    Args:
        model: whose `generate` runs.
        window: the shortest one of its layers; 0 for none.
    """
    longest = getattr(model, names.LONGEST_CACHE, 0)
    if not window or longest < window:
        yield
        return
    delattr(model, names.LONGEST_CACHE)
    try:
        yield
    finally:
        setattr(model, names.LONGEST_CACHE, longest)


def growing(cache: Any, config: Any) -> Any:
    """An empty dynamic cache in place of a static one.

    Args:
        cache: the static one.
        config: of the LLM; tells where layers have states in place of keys.
    """
    from transformers import DynamicCache

    return DynamicCache(config=config if any(map(_linear, cache.layers)) else None)


def _linear(layer: Any) -> bool:
    return type(layer).__name__ == names.LINEAR_CACHE


def fill(cache: Any, grown: Any, whole: int | None) -> None:
    """Write the keys and values of every layer of a dynamic cache to the front of a static one.

    States of linear attention and of convolutions, whose shape is fixed, are copied.

    Attention takes all slots of a static cache. So its layers lose those of tokens that are gone,
    in steps, which bound the number of graphs that a compiler makes of layers of several lengths.

    Args:
        cache: the static one, empty.
        grown: the dynamic one.
        whole: tokens of the prompt that the static one was made for, which nobody else uses; None
            for one that is to stay as it is.

    Raises:
        UnsupportedCallError: it has no room for those of a layer; nothing is written.
    """
    with_keys = [number for number, layer in enumerate(grown.layers) if not _linear(layer)]
    lengths = {number: grown.layers[number].keys.shape[-2] for number in with_keys}
    longest, most = max(lengths.values()), slots(cache, with_keys[0])
    if longest > most:
        raise UnsupportedCallError(
            f"{longest} tokens are left of the prompt, and this {type(cache).__name__} has room "
            f"for {most}.",
            where="cache",
            remedy=f"Make it with max_cache_len={longest}, and what is to be generated.",
        )
    plain = all(type(cache.layers[number]).__name__ == names.STATIC_CACHE for number in with_keys)
    for number, layer in enumerate(grown.layers):
        if _linear(layer):
            _copy(cache, layer, number)
            continue
        if whole is not None and plain:
            cache.layers[number].max_cache_len -= (whole - lengths[number]) // STEP * STEP
        cache.update(layer.keys, layer.values, number)


def _copy(cache: Any, layer: Any, number: int) -> None:
    """Copy the states of a layer into those of a static cache, which stay where they are."""
    for index, state in layer.conv_states.items():
        cache.update_conv_state(state, number, index)
    for index, state in layer.recurrent_states.items():
        if state is not None:  # layers of convolutions have none
            cache.update_recurrent_state(state, number, index)


def slots(cache: Any, layer: int) -> int:
    """Tokens that a layer has room for."""
    return int(cache.layers[layer].max_cache_len)


def held(cache: Any, layer: int, new: int) -> Tensor:
    """`[]` tokens in a layer.

    Raises:
        UnsupportedCallError: a window would slide over the layer with `new` ones, though no token
            is out of its sight; layers without windows raise where they are full.
    """
    part = cache.layers[layer]
    count: Tensor = part.cumulative_length
    known = getattr(part, names.SLIDING_COUNT, 0)
    if known + new > part.max_cache_len:
        raise UnsupportedCallError(
            f"{known} tokens are in layer {layer} of this {type(cache).__name__}, which has room "
            f"for {part.max_cache_len}, and {new} more are to enter.",
            where="cache",
            remedy="Make it with a larger max_cache_len.",
        )
    return count


def put(outputs: Any, cache: Any, grown: Any) -> Any:
    """Outputs with another cache in place of the one that grew."""
    if isinstance(outputs, tuple):
        return tuple(cache if one is grown else one for one in outputs)
    # the older name is deprecated: it is looked for where the newer one isn't known
    name = next(name for name in names.CACHE_NAMES if name in outputs)
    outputs[name] = cache
    return outputs
