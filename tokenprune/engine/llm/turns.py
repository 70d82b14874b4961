"""A further turn of a chat that shows pictures, behind the KV cache of earlier turns.

What an earlier turn left stands in the cache, as it was decided then; what is decided now is about
the new turn alone: it runs as a prompt does, behind what each layer's cache holds.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.engine.llm.calls import Axes, renumbered, taken
from tokenprune.engine.llm.cut import Cut
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import Gone, Level, take, whole
from tokenprune.engine.llm.refusals import check_counted, check_language
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import LlmCall
from tokenprune.interface.specs import MllmSpec


def joined(front: Layout, new: Layout, *, trim: int, base: int) -> Layout:
    """The layout of a whole chat, in whose layers the turn stands behind earlier ones.

    Args:
        front: that of what is in the cache.
        new: that of the new turn by itself.
        trim: see `Layout`.
        base: see `Layout`.
    """

    def both(ahead: Level, turn: Level) -> Level:
        valid = torch.cat((ahead.valid, turn.valid), dim=1)
        place = torch.cat((ahead.place, turn.place + front.length), dim=1)
        column = torch.cat((ahead.column, turn.column + front.entry.length), dim=1)
        own = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        gone = None
        if ahead.gone is not None and turn.gone is not None:
            before = ahead.gone.removed
            shift = torch.cat((ahead.gone.shift, before[:, None] + turn.gone.shift), dim=1)
            gone = Gone(shift, before + turn.gone.removed)
        return Level(place, column, own, valid, (), ahead.padded or turn.padded, gone)

    cuts = {
        number: Cut(both(front.counted(number), new.counted(number)), ())
        for number in sorted({*front.cuts, *new.cuts})
    }
    length, entry = front.length + new.length, both(front.entry, new.entry)
    shortened = front.shortened or new.shortened
    return Layout(new.owner, length, entry, shortened, cuts, trim=trim, base=base)


def in_front(old: Layout | None, new: Layout, past: int, mask: Tensor | None) -> Layout:
    """The layout of what is in the cache: earlier turns, and text behind them.

    Args:
        old: that of earlier turns; None if nothing was removed from them.
        new: that of the new turn by itself.
        past: tokens in the first layer's cache.
        mask: padding mask of the whole chat, `[B, L]`; None for no padding.
    """
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
    padded = not bool(told.all())

    def heeding(level: Level) -> Level:
        valid = torch.cat((level.valid[:, :-tail], told.to(level.valid.device)), dim=1)
        return replace(level, valid=valid, padded=level.padded or padded)

    cuts = {number: Cut(heeding(cut.level), ()) for number, cut in longer.cuts.items()}
    return replace(longer, entry=heeding(longer.entry), cuts=cuts)


def check_turn(spec: MllmSpec, call: LlmCall, front: Layout, new: Layout, *, inside: bool) -> None:
    """Refuse a turn that a shortened cache can't serve.

    Args:
        spec: the model.
        call: as the LLM was called.
        front: the layout of what is in the cache.
        new: that of the new turn by itself.
        inside: whether the plan has stages inside of the LLM.

    Raises:
        UnsupportedCallError: naming the argument, or the LLM.
    """
    length = front.length + new.length
    check_language(spec, length, call.mask)
    check_counted(spec, call)
    shape, whole = getattr(call.mask, "shape", None), (new.rows, length)
    if shape is not None and tuple(shape) != whole:
        raise UnsupportedCallError(
            f"a mask of shape {tuple(shape)} for a chat of {length} tokens in {new.rows} rows.",
            where=spec.names.mask,
            remedy="Give the mask of all tokens of the chat, those in the cache included.",
        )
    if spec.flat_layers and (new.entry.padded or (inside and new.rows > 1)):
        raise UnsupportedCallError(
            "layers without keys take no mask behind a cache, and rows of this turn have padding, "
            "or are left unequally many tokens.",
            where=type(spec.language_model).__name__,
            remedy="Give every chat a call of its own.",
        )


def turn_call(front: Layout, new: Layout, call: LlmCall, *, compact: bool, axes: Axes) -> LlmCall:
    """The LLM's call for the new turn.

    Args:
        front: the layout of what is in the cache.
        new: that of the new turn by itself.
        call: as the LLM was called.
        compact: whether survivors are renumbered.
        axes: see `Axes`.
    """
    assert call.embeds is not None
    entry, positions = new.entry, call.positions
    index = entry.place
    if positions is None:  # the LLM would count on from the length of its short cache
        first = front.length
        positions = torch.arange(first, first + new.length, device=index.device)[None]
    if compact:
        positions = renumbered(positions, front.entry.removed + entry.ahead, index)
    else:
        positions = take(positions, index, axis=-1)
    return replace(
        call,
        embeds=take(call.embeds, index),
        mask=torch.cat((front.entry.valid, entry.valid), dim=1).long(),
        positions=positions,
        per_token=taken(call.per_token, index, axes),
    )
