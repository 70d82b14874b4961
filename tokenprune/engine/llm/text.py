"""The prompts' text in front of a layer of the LLM, and the signals of a batch there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenprune.engine.llm.level import Level, take
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.interface.signals import PromptText, Signal


def prompt_text(level: Level, hidden: Tensor, prompt: Prompt) -> PromptText:
    """The text in a level.

    Args:
        level: the sequence at hand.
        hidden: `[B, T, D]` its states.
        prompt: what the prompts say.
    """
    device = level.place.device
    words, pictures, query, image_end = prompt.on(device)
    there = take(words, level.place) & level.valid
    slots = torch.arange(level.length, device=device)
    said = level.valid & (level.place <= query[:, None])
    last = slots.expand_as(said).masked_fill(~said, 0).amax(dim=1)
    behind = level.place > image_end[:, None]
    visual = take(pictures, level.place) & level.valid
    return PromptText(hidden, level.valid, there, behind, last, visual)


@dataclass(frozen=True)
class SiteSignals:
    """The signals of a whole batch in front of one layer.

    Attributes:
        values: values by slot of the sequence, by signal; of the prompts' text tokens for
            signals with an axis S.
        text: the prompts' text.
    """

    values: Mapping[Signal, Tensor] = field(default_factory=dict)
    text: PromptText | None = None

    def of(self, rows: Tensor, slot: Tensor) -> dict[str, Tensor]:
        """The signals of some rows, as `Tokens` carry them.

        Args:
            rows: `[b]` rows of the batch.
            slot: `[b, N]` slots of their tokens.
        """
        return {s.name: self._of(s, value, rows, slot) for s, value in self.values.items()}

    def _of(self, signal: Signal, value: Tensor, rows: Tensor, slot: Tensor) -> Tensor:
        if signal.per_token:
            return value.to(slot.device)[rows[:, None], slot]
        value = value[rows.to(value.device)]
        for axis, name in enumerate(signal.axes):
            if name == "S":  # padded over these rows only
                value = value.narrow(axis, 0, self._words(rows))
            elif name == "N":
                value = _slots(value, axis, slot.to(value.device))
        return value

    def _words(self, rows: Tensor) -> int:
        assert self.text is not None
        there = self.text.there
        return int(there[rows.to(there.device)].sum(dim=1).max())


def _slots(value: Tensor, axis: int, slot: Tensor) -> Tensor:
    """Of every row its own slots `[b, N]` along an axis: `[b, ..., T, ...]`."""
    last = value.movedim(axis, 1)
    rows = torch.arange(slot.shape[0], device=slot.device)
    return last[rows[:, None], slot].movedim(1, axis)
