"""What a batch of prompts says: which tokens are visual, text, asked about, or never pruned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tokenprune.engine.lines import sent
from tokenprune.interface.calls import PromptCall
from tokenprune.interface.specs import MllmSpec


@dataclass(frozen=True, eq=False)
class Prompt:
    """The prompts of a batch, by prompt place; the same in every layer and forward.

    Token ids are read once, in front of a call's work on its device, so everything here is on the
    CPU: what follows from it costs no kernel and lets nothing wait. What nobody asks for isn't
    worked out.

    Attributes:
        given: the call, with token ids.
        spec: the model.
    """

    given: PromptCall
    spec: MllmSpec

    @cached_property
    def ids(self) -> Tensor:
        """Token ids `[B, L]`."""
        assert self.given.ids is not None
        return self.given.ids.cpu()

    @cached_property
    def valid(self) -> Tensor:
        """`[B, L]` False for padding."""
        if self.given.mask is None:
            return torch.ones(self.ids.shape, dtype=torch.bool, device="cpu")
        # behind a cache, the mask is that of the whole chat
        valid: Tensor = self.given.mask[:, -self.length :].cpu().bool()
        return valid

    @cached_property
    def padded(self) -> bool:
        """Whether any place isn't valid."""
        return self.given.mask is not None and not bool(self.valid.all())

    @cached_property
    def hides(self) -> bool:
        """Whether the mask hides placeholders, and not padding alone: they are none to be cut."""
        return self.padded and bool((self.visual & ~self.valid).any())

    @cached_property
    def begun(self) -> bool:
        """Whether every row is known to begin with text."""
        return not self.padded and not bool(self.visual[:, 0].any())

    @property
    def length(self) -> int:
        """Tokens L of every row, padding included."""
        return self.ids.shape[1]

    @property
    def _places(self) -> Tensor:
        """`[L]` prompt places."""
        return torch.arange(self.length, device="cpu")

    @cached_property
    def visual(self) -> Tensor:
        """`[B, L]` True for placeholders of any kind of picture."""
        return _among(self.ids, self.spec.placeholders.values())

    @cached_property
    def found(self) -> Tensor:
        """`[n, 2]` rows and prompt places of the placeholders of all kinds."""
        return self.visual.nonzero()

    def places(self, placeholder: int) -> tuple[Tensor, Tensor]:
        """Rows `[n]` and prompt places `[n]` of one kind's placeholders."""
        alone = len(set(self.spec.placeholders.values())) == 1
        row, place = (self.found if alone else (self.ids == placeholder).nonzero()).unbind(1)
        return row, place

    @cached_property
    def labels(self) -> Tensor | None:
        """`[B, L]` with -100 for tokens without label, or None."""
        return None if self.given.labels is None else self.given.labels.cpu()

    @cached_property
    def query(self) -> Tensor:
        """`[B]` prompt place of the last prompt token, in front of labelled answers."""
        return query_places(self.valid, self.visual, self.labels)

    @cached_property
    def words(self) -> Tensor:
        """`[B, L]` True for text up to the last prompt token, without labelled answers."""
        text = self.valid & ~self.visual & ~_among(self.ids, self.spec.sound_ids)
        return prompt_words(text, self.query, self.labels)

    @cached_property
    def image_end(self) -> Tensor:
        """`[B]` prompt place of the last visual token; -1 for none."""
        return last_place(self.visual)

    @property
    def behind(self) -> Tensor:
        """`[B, L]` True behind the last visual token of a row."""
        return self._places > self.image_end[:, None]

    @cached_property
    def _sent(self) -> dict[torch.device, tuple[Tensor, Tensor, Tensor, Tensor]]:
        return {}

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`words`, `visual`, `query` and `image_end` on another device, sent there once."""
        if device not in self._sent:
            words, visual = sent(self.words, device), sent(self.visual, device)
            ends = sent(self.query, device), sent(self.image_end, device)
            self._sent[device] = words, visual, *ends
        return self._sent[device]

    def placeholders(self, kind: str) -> list[int]:
        """Placeholders of a kind of picture in every row."""
        counts: list[int] = (self.ids == self.spec.placeholders[kind]).sum(dim=1).tolist()
        return counts

    def prunable(self) -> Tensor:
        """`[B, L]` True for text in front of the last prompt token that isn't special."""
        special = {*(self.spec.special_ids or ()), *self.spec.placeholders.values()}
        return self.words & ~_among(self.ids, special) & (self._places < self.query[:, None])

    def said(self) -> Tensor:
        """`[B, L]` True for all tokens up to the last prompt token, without padding."""
        return self.valid & (self._places <= self.query[:, None])

    def question(self) -> Tensor:
        """`[B, L]` True for the question of every row: its text behind the last image.

        Where there is none, all text of the row (ours). Labelled tokens are answers and left out,
        and so is what stands behind the first of them behind the images.
        """
        asked = self.words & self.behind
        return torch.where(asked.any(dim=1, keepdim=True), asked, self.words)


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
    found = sorted(set(wanted))
    if len(found) == 1:
        return ids == found[0]
    return torch.isin(ids, torch.tensor(found, dtype=ids.dtype, device=ids.device))


def last_place(marked: Tensor) -> Tensor:
    """Prompt place of the last True of every row of `[B, L]`, `[B]`; -1 for none."""
    places = torch.arange(marked.shape[1], device=marked.device).expand(marked.shape)
    return places.masked_fill(~marked, -1).amax(dim=1)
