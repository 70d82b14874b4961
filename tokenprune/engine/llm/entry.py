"""The LLM's entry: find the tokens that may be cut in a prompt, and shorten the LLM's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tokenprune.engine.images import ImageTokens, by_row, kept
from tokenprune.engine.lines import each, joined
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import held, shorten, whole
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.engine.llm.rows import Shown, left_places, text_row, visual_row
from tokenprune.engine.llm.state import Counted, Left, MllmState
from tokenprune.interface.sites import Site
from tokenprune.interface.specs import MllmSpec
from tokenprune.interface.trace import Trace
from tokenprune.ops import keep_slots

MASKED = "mask"
"""What a trace names where the mask of a prompt hides visual tokens."""


def lay_out(
    state: MllmState, spec: MllmSpec, trace: Trace, owner: str, device: torch.device, text: bool
) -> Layout:
    """Match placeholders with images, and lay out the LLM's input without the tokens that are gone.

    Args:
        state: the call's; its prompt, what is left and what was counted are set.
        spec: the model.
        trace: of the call; tokens that the prompt's mask hides are noted as gone.
        owner: name of the attachment.
        device: where the LLM's input is.
        text: whether a stage may prune text tokens.
    """
    state.prompt = prompt = Prompt.read(state.given, spec, device)
    rows = shown_in(prompt, state.pictures, spec)
    layout = Layout(owner, prompt.visual.shape[1], whole(prompt.valid), shortened=False)
    # a mask may hide placeholders, not padding alone: nothing is there to be cut then
    hides = layout.entry.padded and bool((prompt.visual & ~prompt.valid).any())
    if not all(one.image.complete for row in rows for one in row):
        # the encoder or a pre-LLM stage removed some: their placeholders leave the input
        every = [one for row in rows for one in row]
        counts = [sum(len(one.places) for one in row) for row in rows]
        places = each(range(len(rows)), counts, device), joined([one.places for one in every])
        removed = ~kept([one.image for one in every]).to(device)
        gone = torch.zeros_like(prompt.visual).index_put(places, removed)
        layout.entry = shorten(layout.entry, prompt.valid & ~gone).entered()
        layout.shortened = True
    state.left = left = Left()
    prunable, said = (prompt.prunable(spec), prompt.said()) if text else (None, None)
    known: set[tuple[int, ...]] = set()
    slot_of, site = held(layout.entry, layout.length), Site("decoder", 0, len(spec.layers))
    for number, row in enumerate(rows):
        # for beams, `generate` repeats every prompt; the first of its copies counts and is traced
        pictures = tuple(one.image.number for one in row)
        copy = bool(pictures) and pictures in known
        known.add(pictures)
        seen = prompt.valid[number] if hides else None
        visible = row if seen is None else unmasked(None if copy else trace, site, row, seen)
        left.rows.append(visual_row(visible, slot_of[number], copy, seen))
        if prunable is not None and said is not None:
            words = text_row(prunable[number], said[number], slot_of[number], copy)
            left.texts.append(words if visible else None)
    arrived = [0 if row is None else row.slot.shape[0] for row in left.rows]
    state.counted = Counted(arrived, left.visual)
    return layout


def unmasked(trace: Trace | None, site: Site, row: Sequence[Shown], seen: Tensor) -> list[Shown]:
    """The pictures of a row of which the prompt's mask lets anyone see something.

    Args:
        trace: where the hidden tokens are noted; None for nowhere.
        site: the LLM's input.
        row: all its pictures.
        seen: `[L]` by prompt place, False where the mask hides a token.
    """
    for one in row:
        stays = seen[left_places([one])]
        if trace is not None and not bool(stays.all()):
            index, patch = stays.nonzero().T, one.image.index
            slot = keep_slots(index, len(stays))
            trace.record(
                site, MASKED, [one.image.number], slot, patch[stays.to(patch.device)][None]
            )
    return [one for one in row if bool(seen[one.places].any())]


def shown_in(
    prompt: Prompt, pictures: Mapping[str, Sequence[ImageTokens]], spec: MllmSpec
) -> list[list[Shown]]:
    """The pictures of every row, in the order in which they stand there.

    Placeholders of one kind stand in the order of its pictures, so their numbers say whose pictures
    are whose.

    Args:
        prompt: what the prompts say.
        pictures: what is left of the pictures of all rows, by kind.
        spec: the model.

    Raises:
        UnsupportedCallError: the placeholders of a row are not those of whole pictures.
    """
    shown: list[list[Shown]] = [[] for _ in prompt.ids]
    taken = {spec.placeholders[kind] for kind, images in pictures.items() if images}
    for kind, placeholder in spec.placeholders.items():
        images = pictures.get(kind, ())
        if not images and placeholder in taken:  # those of another kind, with the same placeholder
            continue
        places = prompt.ids == placeholder
        counts = places.sum(dim=1).tolist()
        if not sum(counts) and not images:
            continue
        rows = torch.split(places.nonzero()[:, 1], counts)
        for number, mine in enumerate(by_row(counts, images, spec.names.ids)):
            at, start = rows[number], 0
            for image in mine:
                shown[number].append(Shown(image, at[start : start + image.count]))
                start += image.count
    if sum(bool(images) for images in pictures.values()) > 1:
        for number, row in enumerate(shown):  # kind by kind so far
            if row:
                first = torch.stack([one.places[0] for one in row])
                shown[number] = [row[at] for at in first.argsort().tolist()]
    return shown
