"""A further turn of a chat that shows pictures, behind the KV cache of earlier turns.

What an earlier turn left stands in the cache, as it was decided then; what is decided now is about
the new turn alone. All layers hold the same tokens: nothing is pruned inside of the LLM.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.engine.llm.calls import Axes, renumbered, taken
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import Gone, Level, take, whole
from tokenprune.engine.llm.refusals import check_counted, check_language
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import LlmCall
from tokenprune.interface.specs import MllmSpec


def joined(old: Layout | None, new: Layout, past: int, mask: Tensor | None, base: int) -> Layout:
    """The layout of a whole chat.

    Args:
        old: that of earlier turns; None if nothing was removed from them.
        new: that of the new turn by itself.
        past: tokens in the first layer's cache.
        mask: padding mask of the whole chat, `[B, L]`; None for no padding.
        base: see `Layout`.
    """
    before = _before(old, new, past, mask)
    level, entry = before.entry, new.entry
    valid = torch.cat((level.valid, entry.valid), dim=1)
    own = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    gone = None
    if level.gone is not None and entry.gone is not None:
        ahead = level.gone.removed
        shift = torch.cat((level.gone.shift, ahead[:, None] + entry.gone.shift), dim=1)
        gone = Gone(shift, ahead + entry.gone.removed)
    place = torch.cat((level.place, entry.place + before.length), dim=1)
    found = Level(place, own, own, valid, (), not bool(valid.all()), gone)
    shortened = before.shortened or new.shortened
    return Layout(new.owner, before.length + new.length, found, shortened, base=base)


def _before(old: Layout | None, new: Layout, past: int, mask: Tensor | None) -> Layout:
    """The layout of what is in the cache: earlier turns, and text behind them."""
    entry = new.entry
    if old is None:
        valid = entry.valid.new_ones(entry.valid.shape[0], past)
        valid = valid if mask is None else mask[:, :past].to(valid)
        counts = valid.sum(dim=1).tolist()
        renumbers = entry.gone is not None
        return Layout(new.owner, past, whole(valid, counts, renumbers=renumbers), shortened=False)
    tail = past - old.entry.length
    longer = old.longer(tail)
    if mask is None or not tail:
        return longer
    told = mask[:, old.length : old.length + tail].to(old.entry.valid)
    valid = torch.cat((old.entry.valid, told), dim=1)
    return replace(longer, entry=replace(longer.entry, valid=valid))


def check_turn(spec: MllmSpec, call: LlmCall, chat: Layout, *, padded: bool) -> None:
    """Refuse a turn that a shortened cache can't serve.

    Args:
        spec: the model.
        call: as the LLM was called.
        chat: the layout of the whole chat.
        padded: whether the turn's rows have padding, or are left unequally many tokens.

    Raises:
        UnsupportedCallError: naming the argument, or the LLM.
    """
    check_language(spec, chat.length, call.mask)
    check_counted(spec, call)
    shape, whole = getattr(call.mask, "shape", None), (chat.rows, chat.length)
    if shape is not None and tuple(shape) != whole:
        raise UnsupportedCallError(
            f"a mask of shape {tuple(shape)} for a chat of {chat.length} tokens in {chat.rows} "
            "rows.",
            where=spec.names.mask,
            remedy="Give the mask of all tokens of the chat, those in the cache included.",
        )
    if padded and spec.flat_layers:
        raise UnsupportedCallError(
            "layers without keys take no mask behind a cache, and rows of this turn have padding, "
            "or are left unequally many tokens.",
            where=type(spec.language_model).__name__,
            remedy="Give every chat a call of its own.",
        )


def turn_call(chat: Layout, new: Layout, call: LlmCall, *, compact: bool, axes: Axes) -> LlmCall:
    """The LLM's call for the new turn.

    Args:
        chat: the layout of the whole chat.
        new: that of the new turn by itself.
        call: as the LLM was called.
        compact: whether survivors are renumbered.
        axes: see `Axes`.
    """
    assert call.embeds is not None
    index, positions = new.entry.place, call.positions
    if positions is None:  # the LLM would count on from the length of its short cache
        positions = torch.arange(chat.length - new.length, chat.length, device=index.device)[None]
    if compact:
        assert chat.entry.gone is not None
        positions = renumbered(positions, chat.entry.gone.shift[:, -index.shape[1] :], index)
    else:
        positions = take(positions, index, axis=-1)
    return replace(
        call,
        embeds=take(call.embeds, index),
        mask=chat.entry.valid.long(),
        positions=positions,
        per_token=taken(call.per_token, index, axes),
    )
