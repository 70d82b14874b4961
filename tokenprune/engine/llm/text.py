"""The prompts' text in front of a layer of the LLM, and the signals of a batch there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenprune.engine.llm.level import Level, take
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.interface.signals import Signal


@dataclass(frozen=True)
class PromptText:
    """Where the text of the prompts stands in the sequence at hand.

    Attributes:
        there: `[B, T]` by slot, True for text of the prompt that is still there.
        behind: `[B, T]` by slot, True behind the place of the prompt's last visual token.
        last: `[B]` slot of the last prompt token.
    """

    there: Tensor
    behind: Tensor
    last: Tensor

    @classmethod
    def at(cls, level: Level, prompt: Prompt) -> PromptText:
        """The text in a level.

        Args:
            level: the sequence at hand.
            prompt: what the prompts say.
        """
        device = level.place.device
        there = take(prompt.words.to(device), level.place) & level.valid
        slots = torch.arange(level.length, device=device)
        said = level.valid & (level.place <= prompt.query.to(device)[:, None])
        last = slots.expand_as(said).masked_fill(~said, 0).amax(dim=1)
        return cls(there, level.place > prompt.image_end.to(device)[:, None], last)

    def asking(self) -> Tensor:
        """`[B, T]` text behind the last visual token; where there is none, the last prompt token.

        The latter is ours: prompts that end with an image have no question.
        """
        asking = self.there & self.behind
        slots = torch.arange(asking.shape[1], device=asking.device)
        fallback = slots == self.last[:, None]
        return torch.where(asking.any(dim=1, keepdim=True), asking, fallback)

    def prompt(self, valid: Tensor) -> Tensor:
        """`[B, T]` all tokens up to the last prompt token, without padding.

        Args:
            valid: `[B, T]` False for padding.
        """
        slots = torch.arange(valid.shape[1], device=valid.device)
        return valid & (slots <= self.last.to(valid.device)[:, None])

    def signals(self, hidden: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """States and places of the text of some rows, right-padded over these rows only.

        Args:
            hidden: `[B, T, D]` the layer's input.
            rows: `[b]` rows of the batch.
        """
        rows = rows.to(self.there.device)
        there, behind = self.there[rows], self.behind[rows]
        order = torch.sort((~there).to(torch.int8), dim=1, stable=True).indices
        order = order[:, : int(there.sum(dim=1).max())]
        real = there.gather(1, order)
        place = behind.gather(1, order).long().masked_fill(~real, -1)
        states = take(hidden[rows.to(hidden.device)], order)
        states = states.masked_fill(~real.to(states.device)[..., None], 0)
        return {Signal.TEXT_STATES.name: states, Signal.TEXT_PLACE.name: place.to(states.device)}


@dataclass(frozen=True)
class SiteSignals:
    """The signals of a whole batch in front of one layer.

    Attributes:
        columns: values `[B, T]` by slot, by name of the signal.
        text: the prompts' text, if it was asked for.
    """

    columns: Mapping[str, Tensor] = field(default_factory=dict)
    text: PromptText | None = None

    def of(self, rows: Tensor, column: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """The signals of some rows, as `Tokens` carry them.

        Args:
            rows: `[b]` rows of the batch.
            column: `[b, N]` columns of their tokens.
            hidden: `[B, T, D]` the layer's input.
        """
        found = {
            name: values.to(column.device)[rows[:, None], column]
            for name, values in self.columns.items()
        }
        return found if self.text is None else {**found, **self.text.signals(hidden, rows)}
