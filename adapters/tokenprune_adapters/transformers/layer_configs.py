"""What the configs of LLMs in transformers say about their layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SLIDING, CHUNKED = "sliding_attention", "chunked_attention"
BLOCKS = "minimax_m3_sparse"
"""Type of layers that choose blocks of keys, which are of slots and so of the tokens left."""
LINEAR = {
    "linear_attention": "has linear attention",
    "conv": "is a short convolution",
    "moe": "is experts alone",
    "mlp": "is an MLP alone",
}
"""Types of layers without keys, in words."""
_AROUND = (
    *("boi", "eoi", "boa", "eoa", "visual_indicator"),
    *(
        f"{kind}_{end}"
        for kind in ("vision", "image", "video", "audio")
        for end in ("start", "end")
    ),
)
"""Tokens around pictures, clips and sound."""


def types(config: Any) -> list[str]:
    """Type of every layer; empty where all are alike."""
    return list(getattr(config, "layer_types", None) or ())


def windows(config: Any) -> tuple[int | None, ...]:
    """Sliding window of every layer, None for none; empty if no layer has one.

    Chunks count as windows, since calls longer than one are refused; see `window`.
    """
    sizes = {
        SLIDING: getattr(config, "sliding_window", None),
        CHUNKED: getattr(config, "attention_chunk_size", None),
    }
    found = tuple(sizes.get(kind) for kind in types(config))
    return found if any(size is not None for size in found) else ()


def window(config: Any, known: tuple[int | None, ...], *, flat: bool) -> int | None:
    """Length up to which windows hide nothing; None where they are counted in the prompt's places.

    Args:
        config: of the LLM.
        known: windows of layers whose masks can be cut.
        flat: whether the layers count the window themselves (FlashAttention).
    """
    counted = _counted(config)
    if counted is not None:
        return counted
    if known and not flat:
        return None
    size = getattr(config, "sliding_window", None)
    if types(config) and SLIDING not in types(config):
        return None
    return None if size is None else int(size)


def _counted(config: Any) -> int | None:
    """Length up to which chunks and temperatures of queries, which count places, do nothing."""
    chunk = getattr(config, "attention_chunk_size", None) if CHUNKED in types(config) else None
    # the query in place p is scaled by 1 + s log(1 + floor((p + 1) / floor_scale))
    tuned = getattr(config, "attn_temperature_tuning", False)
    limits = [chunk, int(config.floor_scale) - 1 if tuned else None]
    return min((int(one) for one in limits if one is not None), default=None)


def linear(config: Any) -> set[int]:
    """Layers with linear attention or convolutions, which have no keys."""
    return {number for number, kind in enumerate(types(config)) if kind in LINEAR}


def chooses(config: Any) -> int | None:
    """How many keys layers see at most that choose blocks of them; None where none does."""
    if BLOCKS not in types(config):
        return None
    return int(config.index_block_size * config.index_topk_blocks)


def source(config: Any, layer: int) -> int:
    """The layer whose keys a layer reads: its own number, unless it shares those of another."""
    sources = getattr(config, "kv_source_layers", None)
    if sources:
        return int(sources[layer])
    first = _first_shared(config)
    if first is None or layer < first:
        return layer
    kinds = types(config)
    return max(number for number in range(first) if kinds[number] == kinds[layer])


def fixed(config: Any) -> dict[int, str]:
    """Why the LLM can't be pruned in front of some of its layers, by layer."""
    found = {
        number: f"layer {number} of this LLM {LINEAR[types(config)[number]]}, and a sequence is "
        "shortened in front of full attention only."
        for number in linear(config)
    }
    for reader in range(len(getattr(config, "kv_source_layers", None) or ())):
        read = source(config, reader)
        for number in range(read + 1, reader + 1):
            found[number] = (
                f"layer {reader} of this LLM reads the keys of layer {read}, so both have to hold "
                "the same tokens."
            )
    for number, mode in enumerate(getattr(config, "indexer_types", None) or ()):
        if mode == "shared" and number not in found:
            found[number] = (
                f"layer {number} of this LLM sees the keys that an earlier layer chose, so both "
                "have to hold the same tokens."
            )
    first = _first_shared(config)
    if first is not None:
        read = min(source(config, layer) for layer in range(first, config.num_hidden_layers))
        last = config.num_hidden_layers - 1
        readers = f"layers {first} to {last} of this LLM read"
        if first == last:
            readers = f"layer {last} of this LLM reads"
        for number in range(read + 1, last + 1):
            found[number] = (
                f"{readers} the keys of earlier ones, from layer {read} on, so all of those have "
                "to hold the same tokens."
            )
    return found


def renumbers(config: Any, *, apart: bool) -> str | None:
    """Why survivors can't be renumbered, or None.

    Args:
        config: of the LLM.
        apart: whether position ids count time, height and width apart.
    """
    if apart:
        return "position ids count time, height and width apart, so that no number is free."
    if windows(config):
        return (
            "layers have sliding windows, which count places of the prompt, and perhaps rotary "
            "embeddings of several kinds."
        )
    return None


def depths(config: Any) -> int:
    """How many depths of the tower are added inside the LLM."""
    vision = getattr(config, "vision_config", None)
    return len(getattr(vision, "deepstack_visual_indexes", None) or ())


def special_ids(model: Any) -> frozenset[int]:
    """What the configs name as first, last and padding tokens, and around pictures and sound."""
    configs = (
        model.config,
        model.config.get_text_config(),
        getattr(model, "generation_config", None),
    )
    return _ids(configs, "bos", "eos", "pad", *_AROUND)


def sound_ids(config: Any) -> frozenset[int]:
    """What the config names as the placeholder of sound; nothing where the model hears none."""
    return _ids([config], "audio")


def _ids(configs: Iterable[Any], *names: str) -> frozenset[int]:
    named = [
        getattr(config, f"{name}_token_{end}", None)
        for config in configs
        for name in names
        for end in ("id", "index", "ids")
    ]
    ids = [value for one in named for value in (one if isinstance(one, list | tuple) else [one])]
    return frozenset(int(value) for value in ids if value is not None)


def _first_shared(config: Any) -> int | None:
    shared = getattr(config, "num_kv_shared_layers", None)
    return int(config.num_hidden_layers - shared) if shared else None
