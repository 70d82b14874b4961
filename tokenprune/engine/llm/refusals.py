"""Calls that a pruned model can't serve correctly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmSpec

LAYOUT = "tokenprune_layout"
"""Attribute of a KV cache that says how the prompt behind it was shortened."""

_GENERATION = {
    "assistant_model": "Assisted generation takes tokens back from the cache",
    "prompt_lookup_num_tokens": "Prompt lookup takes tokens back from the cache",
    "assistant_early_exit": "Early-exit drafting runs only some of the layers",
    "prefill_chunk_size": "A prefill in chunks never sees all visual tokens at once",
}


def given_cache(spec: MllmSpec, arguments: Mapping[str, Any]) -> tuple[str, Any]:
    """The KV cache of a call and the name that the caller gave it.

    Args:
        spec: the model.
        arguments: arguments by name; those that no parameter is named for may stand in `kwargs`.

    Returns:
        Name and cache; the library's own name and None if no cache was given.
    """
    for named in (arguments, arguments.get("kwargs", {})):
        for name in spec.cache_names:
            if named.get(name) is not None:
                return name, named[name]
    return spec.cache_names[0], None


def returned_cache(spec: MllmSpec, outputs: Any) -> Any:
    """The KV cache in the outputs of core or LLM; None without one."""
    for name in spec.cache_names:
        cache = getattr(outputs, name, None)
        if cache is not None:
            return cache
    return None


def cached_length(cache: Any) -> int:
    """Tokens in the first layer of a KV cache."""
    return 0 if cache is None else int(cache.get_seq_length())


def check_generate(spec: MllmSpec, kwargs: Mapping[str, Any], configs: tuple[Any, ...]) -> None:
    """Refuse generation modes that a shortened cache can't serve.

    Args:
        spec: the model.
        kwargs: arguments of `generate`.
        configs: generation configs that are in force.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    for name, reason in _GENERATION.items():
        values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
        if any(value is not None for value in values):
            raise UnsupportedCallError(
                f"{reason}, which doesn't work while visual tokens are pruned.",
                where=f"generate({name}=...)",
                remedy="Generate without it, or detach the plan.",
            )
    name, cache = given_cache(spec, kwargs)
    if cache is not None and getattr(cache, LAYOUT, None) is not None:
        raise UnsupportedCallError(
            "generate cuts the prompt by the cache's length, and this cache of a pruned call is "
            "shorter than its prompt.",
            where=f"generate({name}=...)",
            remedy=f"Pass the whole conversation without {name}.",
        )


def check_forward(
    spec: MllmSpec, arguments: Mapping[str, Any], has_placeholders: bool, known: bool
) -> None:
    """Refuse a forward whose visual tokens can't be told from the arguments.

    Args:
        spec: the model.
        arguments: arguments of the core's forward by name.
        has_placeholders: whether `input_ids` has image placeholders.
        known: whether the images were encoded in this call.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    extra = arguments.get("kwargs", {})
    if arguments.get("inputs_embeds") is not None:
        raise UnsupportedCallError(
            "embeddings don't say which tokens are visual.",
            where="inputs_embeds",
            remedy="Pass input_ids with image placeholders, and pixel_values.",
        )
    encoded = (arguments.get("mm_encoder_outputs") or {}).get("image") is not None
    if encoded and not known:
        raise UnsupportedCallError(
            "features that were encoded before this call don't say which tokens are left.",
            where="mm_encoder_outputs",
            remedy="Pass pixel_values.",
        )
    if extra.get("output_attentions"):
        raise UnsupportedCallError(
            "attention maps of a shortened sequence have other shapes in every layer.",
            where="output_attentions",
            remedy="Call without it, or detach the plan.",
        )
    check_features(spec, arguments)
    pictured = encoded or arguments.get("pixel_values") is not None
    name, cache = given_cache(spec, arguments)
    if has_placeholders and pictured and cached_length(cache):
        raise UnsupportedCallError(
            "images behind an existing KV cache can't be pruned.",
            where=name,
            remedy=f"Pass the whole conversation without {name}.",
        )


def check_features(spec: MllmSpec, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that choose other features than those of the config.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    for name, value in spec.fixed.items():
        given = arguments.get(name)
        if given is not None and given != value:
            raise UnsupportedCallError(
                f"{name}={given!r} chooses other features than the plan was attached for.",
                where=name,
                remedy=f"Use {value!r}, or change the model's config before attaching.",
            )


def check_language(spec: MllmSpec, length: int, mask: Any) -> None:
    """Refuse masks and lengths that a shortened sequence can't serve.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    if mask is not None and getattr(mask, "ndim", 0) != 2:
        raise UnsupportedCallError(
            "a mask that was prepared for every layer, as for a static cache, can't be shortened.",
            where="attention_mask",
            remedy="Use a dynamic cache and a mask [batch, length].",
        )
    if spec.window is not None and length > spec.window:
        raise UnsupportedCallError(
            f"{length} tokens exceed the sliding window of {spec.window}, which counts places.",
            where=type(spec.language_model).__name__,
            remedy="Use a shorter prompt, or detach the plan.",
        )
