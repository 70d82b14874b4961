"""The signals of a batch in front of one layer of the LLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from tokenprune.engine.prompt_text import PromptText


@dataclass(frozen=True)
class SiteSignals:
    """The signals of a whole batch in front of one layer.

    Attributes:
        columns: `[B, T]` values by signal name.
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
