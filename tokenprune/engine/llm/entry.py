"""The LLM's entry: find the tokens that may be cut in a prompt, and shorten the LLM's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tokenprune.engine.images import ImageTokens, by_row, kept
from tokenprune.engine.lines import joined, sent
from tokenprune.engine.llm.cut import Rows
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import Level, entered, held, whole
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.engine.llm.rows import Shown, left_places, text_row, visual_row
from tokenprune.engine.llm.state import Counted, Left, MllmState
from tokenprune.interface.sites import Site
from tokenprune.interface.specs import MllmSpec
from tokenprune.interface.trace import Trace
from tokenprune.ops import keep_slots

MASKED = "mask"
"""What a trace names where the mask of a prompt hides visual tokens."""


@dataclass(frozen=True)
class Wanted:
    """What a plan's stages need to know of an LLM's input; the rest isn't worked out.

    Attributes:
        rows: whether a stage stands inside of the LLM, which cuts the tokens of every row.
        text: whether a stage may prune text tokens.
        numbers: whether survivors are renumbered.
    """

    rows: bool
    text: bool
    numbers: bool


def lay_out(
    state: MllmState,
    spec: MllmSpec,
    trace: Trace,
    owner: str,
    device: torch.device,
    wanted: Wanted,
) -> Layout:
    """Match placeholders with images, and lay out the LLM's input without the tokens that are gone.

    How many tokens are left is known here, and only which ones is not. So nothing waits for the
    device, unless a prompt's mask hides visual tokens or separators leave with their lines.

    Args:
        state: the call's; what is left and what was counted are set.
        spec: the model.
        trace: of the call; tokens that the prompt's mask hides are noted as gone.
        owner: name of the attachment.
        device: where the LLM's input is.
        wanted: what the plan's stages need to know.
    """
    prompt = state.read(spec)
    rows = shown_in(prompt, state.pictures, spec)
    entry, shortened = llm_input(prompt, rows, device, wanted)
    layout = Layout(owner, prompt.ids.shape[1], entry, shortened)
    layout.begun = not wanted.text and prompt.begun
    copies, seen = _copies(rows), rows
    if prompt.hides:
        site = Site("decoder", 0, len(spec.layers))
        masked = zip(rows, copies, prompt.valid, strict=True)
        seen = [unmasked(None if copy else trace, site, row, valid) for row, copy, valid in masked]
    left = state.left = Left(partial(_read, prompt, seen, copies, layout, wanted.text))
    if wanted.rows or prompt.hides:
        arrived = [0 if row is None else row.slot.shape[0] for row in left.rows]
    else:
        arrived = [sum(len(picture.image.index) for picture in row) for row in seen]
    firsts = [number for number, copy in enumerate(copies) if not copy]
    pictures = sum(picture.image.grid[0] for number in firsts for picture in seen[number])
    state.counted = Counted(arrived, sum(arrived[number] for number in firsts), pictures)
    return layout


def _copies(rows: Sequence[Sequence[Shown]]) -> list[bool]:
    """Whether a row has the pictures of one before.

    For beams, `generate` repeats every prompt; the first of its copies counts and is traced.
    """
    known: set[tuple[int, ...]] = set()
    copies = []
    for row in rows:
        own = tuple(picture.image.number for picture in row)
        copies.append(bool(own) and own in known)
        known.add(own)
    return copies


def _read(
    prompt: Prompt,
    shown: Sequence[Sequence[Shown]],
    copies: Sequence[bool],
    layout: Layout,
    text: bool,
) -> tuple[Rows, Rows]:
    """The visual and the prunable text tokens of every row, at the LLM's input.

    Args:
        prompt: what the prompts say.
        shown: the pictures of every row of which something is seen.
        copies: whether a row repeats another one, for beams.
        layout: of the LLM's input.
        text: whether text may be pruned.
    """
    entry = layout.entry
    # of a whole prompt, places are slots
    slot_of = held(entry, layout.length) if layout.shortened else entry.place
    seen = [*prompt.valid] if prompt.hides else [None] * len(shown)
    rows: Rows = [
        visual_row(row, slots, copy, mine)
        for row, slots, copy, mine in zip(shown, slot_of, copies, seen, strict=True)
    ]
    if not text:
        return rows, []
    told = zip(shown, prompt.prunable(), prompt.said(), slot_of, copies, strict=True)
    return rows, [
        text_row(prunable, said, slots, copy) if row else None
        for row, prunable, said, slots, copy in told
    ]


def llm_input(
    prompt: Prompt, rows: Sequence[Sequence[Shown]], device: torch.device, wanted: Wanted
) -> tuple[Level, bool]:
    """The LLM's input, and whether it is shorter than the prompt.

    Args:
        prompt: what the prompts say.
        rows: the pictures of every row.
        device: where the LLM's input is.
        wanted: see `Wanted`.
    """
    counts = prompt.valid.sum(dim=1).tolist() if prompt.padded else [prompt.length] * len(rows)
    valid = sent(prompt.valid, device)
    every = [picture for row in rows for picture in row]
    if all(picture.image.complete for picture in every):
        return whole(valid, counts, renumbers=wanted.numbers), False
    # the encoder or a pre-LLM stage removed some: their placeholders leave the input
    line = joined(
        [
            picture.places + picture.row * prompt.length if picture.row else picture.places
            for picture in every
        ]
    )
    stays = kept([picture.image for picture in every])
    if prompt.hides:
        stays = stays & sent(prompt.valid.flatten()[line], stays.device)
    survive = valid.flatten().index_copy(0, sent(line, device), sent(stays, device))
    survive = survive.view(valid.shape)
    if prompt.hides or any(picture.image.lined for picture in every):
        counts = survive.sum(dim=1).tolist()
    else:
        for picture in every:
            counts[picture.row] -= picture.image.patches - len(picture.image.index)
    return entered(valid, survive, counts, renumbers=wanted.numbers), True


def unmasked(trace: Trace | None, site: Site, row: Sequence[Shown], seen: Tensor) -> list[Shown]:
    """The pictures of a row of which the prompt's mask lets anyone see something.

    Args:
        trace: where the hidden tokens are noted; None for nowhere.
        site: the LLM's input.
        row: all its pictures.
        seen: `[L]` by prompt place, False where the mask hides a token.
    """
    for picture in row:
        stays = sent(seen, picture.image.index.device)[left_places([picture])]
        if trace is not None and not bool(stays.all()):
            index, patch = stays.nonzero().T, picture.image.index
            slot = keep_slots(index, len(stays))
            trace.record(
                site, MASKED, [picture.image.number], slot, patch[stays.to(patch.device)][None]
            )
    return [picture for picture in row if bool(seen[picture.places].any())]


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
    shown: list[list[Shown]] = [[] for _ in range(len(prompt.ids))]
    taken = {spec.placeholders[kind] for kind, images in pictures.items() if images}
    waiting = len(prompt.found)
    # kinds without pictures come last: they may have no placeholders, or those of another kind
    for kind in sorted(spec.placeholders, key=lambda kind: not pictures.get(kind)):
        images, placeholder = pictures.get(kind, ()), spec.placeholders[kind]
        if not images and (placeholder in taken or not waiting):
            continue
        row, place = prompt.places(placeholder)
        waiting -= len(place)
        if not len(place) and not images:
            continue
        counts = torch.bincount(row, minlength=len(shown)).tolist()
        start = 0
        for number, mine in enumerate(by_row(counts, images, spec.names.ids)):
            for image in mine:
                places = place[start : start + image.count]
                shown[number].append(Shown(image, places, number))
                start += image.count
    if sum(bool(images) for images in pictures.values()) > 1:
        for number, mixed in enumerate(shown):  # kind by kind so far
            if mixed:
                first = torch.stack([picture.places[0] for picture in mixed])
                shown[number] = [mixed[at] for at in first.argsort().tolist()]
    return shown
