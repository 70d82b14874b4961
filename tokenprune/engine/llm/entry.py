"""The LLM's entry: find the tokens that may be cut in a prompt, and shorten the LLM's input."""

from __future__ import annotations

import torch

from tokenprune.engine.images import by_row
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import shorten, whole
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.engine.llm.rows import text_row, visual_row
from tokenprune.engine.llm.state import Counted, Left, MllmState
from tokenprune.interface.adapter import MllmSpec


def lay_out(
    state: MllmState, spec: MllmSpec, owner: str, device: torch.device, text: bool
) -> Layout:
    """Match placeholders with images, and lay out the LLM's input without the tokens that are gone.

    Args:
        state: the call's; its prompt, what is left and what was counted are set.
        spec: the model.
        owner: name of the attachment.
        device: where the LLM's input is.
        text: whether a stage may prune text tokens.
    """
    assert state.images is not None
    state.prompt = prompt = Prompt.read(state.given, spec, device)
    # placeholders stand in the order of the images, so their numbers say whose images are whose
    counts = prompt.visual.sum(dim=1).tolist()
    rows = by_row(counts, state.images, spec.names.ids)
    layout = Layout(owner, prompt.visual.shape[1], whole(prompt.valid), shortened=False)
    if not all(image.complete for image in state.images):
        # the encoder or a pre-LLM stage removed some: their placeholders leave the input
        kept = torch.cat([image.kept() for row in rows for image in row])
        gone = torch.zeros_like(prompt.visual)
        gone[prompt.visual] = ~kept.to(device)
        layout.entry = shorten(layout.entry, prompt.valid & ~gone).entered()
        layout.shortened = True
    # for beams, `generate` repeats every prompt; the first of its copies counts and is traced
    copies = sum(counts) // sum(image.count for image in state.images)
    state.left = left = Left()
    prunable = prompt.prunable(spec) if text else None
    for row, images in enumerate(rows):
        places, copy = prompt.visual[row].nonzero()[:, 0], row % copies > 0
        left.rows.append(visual_row(images, places, layout.entry, row, copy))
        if prunable is not None:
            words = text_row(prunable[row], prompt.valid[row], layout.entry, row, copy)
            left.texts.append(words if images else None)
    arrived = [0 if row is None else row.column.shape[0] for row in left.rows]
    state.counted = Counted(arrived, left.visual)
    return layout
