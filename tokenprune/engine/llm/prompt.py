"""Find the visual and the prunable text tokens of a prompt, and shorten the LLM's input."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.engine.images import by_row
from tokenprune.engine.llm.attention import last_place, query_places
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import shorten, whole
from tokenprune.engine.llm.rows import text_row, visual_row
from tokenprune.engine.llm.state import MllmState
from tokenprune.interface.adapter import MllmSpec


def lay_out(
    state: MllmState, spec: MllmSpec, owner: str, embeds: Tensor, mask: Tensor | None, text: bool
) -> Layout:
    """Match placeholders with images, and shorten the LLM's input if tokens are gone.

    Args:
        state: the call's; its rows are set.
        spec: the model.
        owner: name of the attachment.
        embeds: `[B, T, D]` the LLM's input.
        mask: `[B, T]` padding mask, or None.
        text: whether a stage may prune text tokens.
    """
    assert state.given.ids is not None
    assert state.images is not None
    prompt = state.given.ids.to(embeds.device)
    visual = prompt == spec.placeholder_id
    valid = torch.ones_like(visual) if mask is None else mask.bool()
    counts = visual.sum(dim=1).tolist()
    rows = by_row(counts, state.images, spec.names.ids)
    layout = Layout(owner, visual.shape[1], whole(valid), shortened=False)
    if not all(image.complete for image in state.images):
        kept = torch.cat([image.kept() for row in rows for image in row])
        gone = torch.zeros_like(visual)
        gone[visual] = ~kept.to(visual.device)
        layout.base, layout.shortened = shorten(layout.base, valid & ~gone), True
    copies = sum(counts) // sum(image.count for image in state.images)
    state.query = query_places(valid, visual, state.given.labels)
    state.words = prompt_words(valid & ~visual, state.query, state.given.labels)
    state.image_end = last_place(visual)
    state.rows = [
        visual_row(images, visual[row].nonzero()[:, 0], layout.base, row, row % copies > 0)
        for row, images in enumerate(rows)
    ]
    if text:
        prunable = prunable_text(prompt, state.words, spec, state.query)
        state.texts = [
            text_row(prunable[row], valid[row], layout.base, row, row % copies > 0)
            if images
            else None
            for row, images in enumerate(rows)
        ]
    state.entered = state.visual
    state.arrived = [0 if row is None else row.column.shape[0] for row in state.rows]
    return layout


def prompt_words(text: Tensor, query: Tensor, labels: Tensor | None) -> Tensor:
    """Text up to the last prompt token, without labelled answers, `[B, T]` bool.

    Args:
        text: `[B, T]` False for padding and placeholders.
        query: `[B]` place of the last prompt token.
        labels: `[B, T]` with -100 for tokens without label, or None.
    """
    places = torch.arange(text.shape[1], device=text.device)
    words = text & (places <= query.to(text.device)[:, None])
    return words if labels is None else words & (labels.to(text.device) == -100)


def prunable_text(prompt: Tensor, words: Tensor, spec: MllmSpec, query: Tensor) -> Tensor:
    """Text tokens in front of the last prompt token that are neither special nor labelled.

    Args:
        prompt: `[B, T]` token ids.
        words: `[B, T]` text of the prompts, see `prompt_words`.
        spec: the model.
        query: `[B]` place of the last prompt token.

    Returns:
        `[B, T]` bool.
    """
    special = {*(spec.special_ids or ()), spec.placeholder_id}
    ids = torch.tensor(sorted(special), device=prompt.device)
    places = torch.arange(prompt.shape[1], device=prompt.device)
    return words & ~torch.isin(prompt, ids) & (places < query.to(prompt.device)[:, None])
