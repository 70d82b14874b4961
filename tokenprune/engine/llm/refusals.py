"""Calls that a pruned model can't serve correctly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import LlmCall, PromptCall, Refused
from tokenprune.interface.specs import MllmSpec

BROKEN = "broken"
"""Stands on a cache for its owner where a turn ended in an error."""


def check_generate(spec: MllmSpec, call: PromptCall, *, fixed: bool) -> None:
    """Refuse generation modes that a shortened cache can't serve.

    Args:
        spec: the model.
        call: of `generate`.
        fixed: whether a shortened prompt is in the call's cache, which is of fixed length.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    _refuse(spec.refused_generation, call, "generate({}=...)")
    if fixed:
        raise UnsupportedCallError(
            "generate cuts the prompt by the cache's length, and this cache of fixed length holds "
            "what a plan left of its prompt.",
            where=f"generate({call.cache_name}=...)",
            remedy=f"Use a dynamic cache, or pass the whole conversation without "
            f"{call.cache_name}.",
        )
    check_features(spec, call)


def check_forward(
    spec: MllmSpec,
    call: PromptCall,
    *,
    has_placeholders: bool,
    known: bool,
    cached: int,
    turns: str = "",
) -> None:
    """Refuse a forward whose visual tokens can't be told from the arguments.

    Args:
        spec: the model.
        call: of the core.
        has_placeholders: whether the prompt has image placeholders.
        known: whether the images were encoded in this call.
        cached: tokens in the call's cache.
        turns: why pictures behind a cache can't be pruned; empty if they can.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    _refuse(spec.refused, call, "{}")
    if call.encoded and not known:
        raise UnsupportedCallError(
            "features that were encoded before this call don't say which tokens are left.",
            where=spec.names.encoded,
            remedy=f"Pass {spec.names.pictures}.",
        )
    check_features(spec, call)
    if has_placeholders and call.packed:
        raise UnsupportedCallError(
            "several samples are packed into one row, and a shortened row loses their borders: "
            "they would see one another, and choices by the question would read another sample's.",
            remedy="Give every sample a row of its own with padding, or detach the plan.",
        )
    if has_placeholders and (call.encoded or call.pictured) and cached and turns:
        raise UnsupportedCallError(
            f"images behind an existing KV cache can't be pruned where {turns}.",
            where=call.cache_name,
            remedy=f"Pass the whole conversation without {call.cache_name}.",
        )


def no_turns(spec: MllmSpec, *, untold: str, fixed: bool) -> str:
    """Why pictures behind a cache can't be pruned, as a clause; empty if they can.

    Args:
        spec: the model.
        untold: what stages inside of the LLM can't be told behind a cache, see `attending.untold`.
        fixed: whether the cache is of fixed length.
    """
    if untold:
        return untold
    if fixed:
        return "the cache is of fixed length"
    if spec.masks:
        return "what pictures see of themselves is said by masks of one whole prompt"
    return ""


def check_owner(owner: str, token: str, cache_name: str) -> None:
    """Refuse a cache that another attachment shortened, or that an error left half filled.

    Args:
        owner: name of the attachment that the note on the cache has, or `BROKEN`.
        token: name of the one that runs.
        cache_name: what the caller called the cache.

    Raises:
        UnsupportedCallError: they are two, or there is none.
    """
    if owner == BROKEN:
        raise UnsupportedCallError(
            "a call behind this KV cache ended in an error, and its layers hold unlike tokens.",
            where=cache_name,
            remedy="Start again without it, or with a copy that was made before that call.",
        )
    if owner != token:
        raise UnsupportedCallError(
            "this KV cache was shortened by another plan.",
            where=cache_name,
            remedy="Start again without it.",
        )


def check_told(spec: MllmSpec, ids: Tensor | None, what: str) -> None:
    """Refuse a call without token ids, where stages in front of the LLM choose by the prompt.

    Args:
        spec: the model.
        ids: of the call.
        what: of the prompt they choose by.

    Raises:
        UnsupportedCallError: there are none.
    """
    if ids is None:
        raise UnsupportedCallError(
            f"the plan chooses visual tokens by {what}, and there are no token ids.",
            where=spec.names.ids,
            remedy=f"Call generate or forward of the model with {spec.names.ids} and "
            f"{spec.names.pictures}.",
        )


def check_drafted(spec: MllmSpec, *, trims: bool) -> None:
    """Refuse a prompt with drafted tokens behind it where caches are trimmed behind the prompt.

    Args:
        spec: the model.
        trims: whether a strategy has caches trimmed.

    Raises:
        UnsupportedCallError: the drafted ones would see what is trimmed.
    """
    if trims:
        raise UnsupportedCallError(
            "a strategy of the plan trims caches behind the prompt, and tokens that were drafted "
            "behind it enter in the same forward.",
            where=f"{type(spec.language_model).__name__}, assisted generation",
            remedy="Generate without drafts, or with a strategy that leaves caches as they are.",
        )


def check_readable(spec: MllmSpec, ids: Tensor | None) -> None:
    """Refuse a prompt without values, as on the meta device.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    if ids is not None and ids.is_meta:
        raise UnsupportedCallError(
            "tokens have no values on the meta device, so visual ones can't be found.",
            where=spec.names.ids,
            remedy="Call the model on a device with values, or detach the plan.",
        )


def check_features(spec: MllmSpec, call: PromptCall) -> None:
    """Refuse arguments that choose other features than those of the config.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    for name, value in spec.fixed.items():
        given = call.arguments.get(name)
        if given is not None and given != value:
            raise UnsupportedCallError(
                f"{name}={given!r} chooses other features than the plan was attached for.",
                where=name,
                remedy=f"Use {value!r}, or change the model's config before attaching.",
            )


def check_language(spec: MllmSpec, length: int, mask: Any) -> None:
    """Refuse padding masks and lengths that a shortened sequence can't serve.

    Args:
        spec: the model.
        length: tokens of the whole sequence.
        mask: the padding mask that the model was called with.

    Raises:
        UnsupportedCallError: naming the argument.
    """
    if mask is not None and getattr(mask, "ndim", 0) != 2:
        raise UnsupportedCallError(
            "a mask that was prepared for every layer, as for a static cache, can't be shortened.",
            where=spec.names.mask,
            remedy="Use a dynamic cache and a mask [batch, length].",
        )
    if spec.window is not None and length > spec.window:
        raise UnsupportedCallError(
            f"{length} tokens exceed the sliding window or chunk of {spec.window}, which counts "
            "places.",
            where=type(spec.language_model).__name__,
            remedy="Use a shorter prompt, or detach the plan.",
        )


def check_padding(spec: MllmSpec, length: int, mask: Any) -> None:
    """Refuse a padding mask that isn't one of the prompt.

    Args:
        spec: the model.
        length: tokens of the prompt.
        mask: `[batch, length]`, or None.

    Raises:
        UnsupportedCallError: naming both lengths.
    """
    if mask is not None and mask.shape[1] != length:
        raise UnsupportedCallError(
            f"a mask of {mask.shape[1]} tokens for a prompt of {length}.",
            where=spec.names.mask,
            remedy="Give the mask [batch, length] of the prompt, whatever the cache has room for.",
        )


def check_reach(spec: MllmSpec, call: PromptCall, length: int) -> None:
    """Refuse a cache of fixed length behind which a window that counts places could be exceeded.

    Args:
        spec: the model.
        call: of the core, with the cache.
        length: tokens of the longest sequence that ends in the cache, with those that are gone.

    Raises:
        UnsupportedCallError: naming both lengths.
    """
    if spec.window is not None and length > spec.window:
        raise UnsupportedCallError(
            f"with what the plan removed, this cache has room for a sequence of {length} tokens, "
            f"which exceeds the sliding window or chunk of {spec.window}, which counts places.",
            where=call.cache_name,
            remedy="Make it shorter, or use a dynamic one, the default.",
        )


def check_maskless(spec: MllmSpec, attention: str | None) -> None:
    """Refuse an attention that is given no masks where tokens have to be hidden from it.

    Args:
        spec: the model.
        attention: see `MllmAdapter.maskless`.

    Raises:
        UnsupportedCallError: naming the attention.
    """
    if attention is not None:
        raise UnsupportedCallError(
            f"no masks are made for the attention function '{attention}', and in this call some "
            "tokens must be hidden: padding, rows that are left unequally many tokens, or windows.",
            where=type(spec.language_model).__name__,
            remedy=f"Register a mask function for '{attention}' too, or give every prompt a call "
            "of its own.",
        )


def check_embedded(spec: MllmSpec, call: LlmCall) -> None:
    """Refuse an LLM that embeds its tokens by itself.

    Raises:
        UnsupportedCallError: naming the LLM.
    """
    if call.embeds is None:
        raise UnsupportedCallError(
            "the LLM was called without embeddings, so its visual tokens can't be found.",
            where=type(spec.language_model).__name__,
            remedy="Call generate or forward of the whole model.",
        )


def check_counted(spec: MllmSpec, call: LlmCall) -> None:
    """Refuse position ids behind a cache that aren't those of the new tokens.

    Some cores count them from the whole padding mask, and fail inside of attention then.

    Raises:
        UnsupportedCallError: naming both lengths.
    """
    assert call.embeds is not None
    given, new = call.positions, call.embeds.shape[1]
    if given is not None and given.shape[-1] != new:
        raise UnsupportedCallError(
            f"the LLM got {given.shape[-1]} position ids for {new} new tokens behind the "
            f"{call.cache_name}.",
            where=type(spec.language_model).__name__,
            remedy=f"Give the position ids of the new tokens, or leave out the {spec.names.mask}, "
            "from which they were counted.",
        )


def check_seen(spec: MllmSpec, call: PromptCall) -> None:
    """Refuse a prompt whose pictures never came to the projector that the adapter names.

    Raises:
        UnsupportedCallError: naming the projector; its tokens would all go on, in silence.
    """
    if call.pictured or call.encoded:
        raise UnsupportedCallError(
            f"the prompt has pictures, and {_seam(spec)} wasn't called for them, so their tokens "
            "can't be pruned.",
            where=type(spec.core).__name__,
            remedy="Use an adapter that knows this model.",
        )


def _seam(spec: MllmSpec) -> str:
    methods = dict.fromkeys(one.method for one in spec.modalities.values())
    return " or ".join(methods) or type(spec.projector).__name__


def _refuse(refused: Mapping[str, Refused], call: PromptCall, where: str) -> None:
    for name, why in refused.items():
        value = call.arguments.get(name)
        if value is not None and value is not False:
            raise UnsupportedCallError(why.reason, where=where.format(name), remedy=why.remedy)
