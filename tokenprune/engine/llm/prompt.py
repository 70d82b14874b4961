"""What a batch of prompts says: which tokens are visual, text, asked about, or never pruned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.interface.calls import PromptCall
from tokenprune.interface.specs import MllmSpec


@dataclass(frozen=True)
class Prompt:
    """The prompts of a batch, by prompt place; the same in every layer and forward.

    Attributes:
        ids: token ids `[B, L]`.
        valid: `[B, L]` False for padding.
        visual: `[B, L]` True for placeholders.
        labels: `[B, L]` with -100 for tokens without label, or None.
        query: `[B]` prompt place of the last prompt token, in front of labelled answers.
        words: `[B, L]` True for text up to the last prompt token, without labelled answers.
        image_end: `[B]` prompt place of the last visual token; -1 for none.
    """

    ids: Tensor
    valid: Tensor
    visual: Tensor
    labels: Tensor | None
    query: Tensor
    words: Tensor
    image_end: Tensor

    @classmethod
    def read(cls, given: PromptCall, spec: MllmSpec, device: torch.device) -> Prompt:
        """The prompts of a call with token ids.

        Args:
            given: the call.
            spec: the model.
            device: where the LLM's input is.
        """
        assert given.ids is not None
        ids = given.ids.to(device)
        visual = visual_places(ids, spec)
        valid = torch.ones_like(visual) if given.mask is None else given.mask.bool().to(device)
        query = query_places(valid, visual, given.labels)
        words = prompt_words(valid & ~visual & ~_among(ids, spec.sound_ids), query, given.labels)
        return cls(ids, valid, visual, given.labels, query, words, last_place(visual))

    def prunable(self, spec: MllmSpec) -> Tensor:
        """`[B, L]` True for text in front of the last prompt token that isn't special."""
        special = {*(spec.special_ids or ()), *spec.placeholders.values()}
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.words & ~_among(self.ids, special) & (places < self.query[:, None])

    def said(self) -> Tensor:
        """`[B, L]` True for all tokens up to the last prompt token, without padding."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.valid & (places <= self.query[:, None])

    def question(self) -> Tensor:
        """`[B, L]` True for the question of every row: its text behind the last image.

        Where there is none, all text of the row (ours). Labelled tokens are answers and left out,
        and so is what stands behind the first of them behind the images.
        """
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        behind = self.words & (places > self.image_end[:, None])
        return torch.where(behind.any(dim=1, keepdim=True), behind, self.words)


def visual_places(ids: Tensor, spec: MllmSpec) -> Tensor:
    """`[B, L]` True for placeholders of any kind of picture."""
    return _among(ids, spec.placeholders.values())


def prompt_words(text: Tensor, query: Tensor, labels: Tensor | None) -> Tensor:
    """Text up to the last prompt token, without labelled answers, `[B, L]` bool.

    Args:
        text: `[B, L]` False for padding, placeholders and sound.
        query: `[B]` prompt place of the last prompt token.
        labels: `[B, L]` with -100 for tokens without label, or None.
    """
    places = torch.arange(text.shape[1], device=text.device)
    words = text & (places <= query.to(text.device)[:, None])
    return words if labels is None else words & (labels.to(text.device) == -100)


def query_places(valid: Tensor, visual: Tensor, labels: Tensor | None) -> Tensor:
    """Prompt place of the last prompt token of every row, `[B]`.

    Without labels the last token of the row. With labels (training) the token before the first
    labelled one behind the images, so that no answer token takes part in the choice (ours).

    Args:
        valid: `[B, L]` False for padding.
        visual: `[B, L]` True for placeholders.
        labels: `[B, L]` with -100 for tokens without label, or None.
    """
    places = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    last = last_place(valid)
    if labels is None:
        return last
    behind = places > last_place(visual)[:, None]
    answer = valid & behind & (labels.to(valid.device) != -100)
    first = places.masked_fill(~answer, valid.shape[1]).amin(dim=1)
    return torch.where(answer.any(dim=1), (first - 1).clamp(min=0), last)


def _among(ids: Tensor, wanted: Iterable[int]) -> Tensor:
    return torch.isin(ids, torch.tensor(sorted(wanted), dtype=ids.dtype, device=ids.device))


def last_place(marked: Tensor) -> Tensor:
    """Prompt place of the last True of every row of `[B, L]`, `[B]`; -1 for none."""
    places = torch.arange(marked.shape[1], device=marked.device).expand(marked.shape)
    return places.masked_fill(~marked, -1).amax(dim=1)
