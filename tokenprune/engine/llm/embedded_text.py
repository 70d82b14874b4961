"""The text of the prompts as the LLM embeds it, for stages in front of the LLM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenprune.engine.images import ImageTokens, by_row
from tokenprune.engine.lines import sent
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.engine.llm.refusals import check_told
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.stages import ResolvedStage, wanted
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.signals import PromptEmbeddings, PromptText, View, read
from tokenprune.interface.sites import Site
from tokenprune.interface.specs import MllmSpec

PROMPT_VIEWS: frozenset[type[View]] = frozenset({PromptEmbeddings})
"""What stages in front of the LLM can be told of a prompt, whatever its pictures came through."""


class EmbeddedText:
    """Signals of the prompts' embedded text, if a stage asks for some.

    Args:
        adapter: the model's family.
        spec: the model as data.
        stages: those in front of the LLM.
        site: where they stand.
    """

    def __init__(
        self, adapter: MllmAdapter, spec: MllmSpec, stages: Sequence[ResolvedStage], site: Site
    ) -> None:
        self.adapter, self.spec = adapter, spec
        self.asked = wanted(stages, site, PromptEmbeddings)

    def of(
        self, state: MllmState, kind: str, images: Sequence[ImageTokens], device: torch.device
    ) -> dict[str, Tensor]:
        """The signals of every picture, `[n, S, ...]` each; none if no stage asks.

        What the prompts said at the first forward counts, so that passes without cache, whose
        prompts hold what was generated so far, go on choosing by it.

        Args:
            state: the running call's, with token ids.
            kind: of the pictures.
            images: of all rows, in order.
            device: where the pictures' features are.

        Raises:
            UnsupportedCallError: there are no token ids.
        """
        if not self.asked:
            return {}
        check_told(self.spec, state.given.ids, "the prompt's text")
        prompt, row = state.read(self.spec), dict[int, int]()
        counts = prompt.placeholders(kind)
        for number, mine in enumerate(by_row(counts, images, self.spec.names.ids)):
            for image in mine:
                row.setdefault(image.number, number)
        if state.embedded is None:
            state.embedded = self._embedded(prompt)
        rows = [row[image.number] for image in images]
        states, place = (sent(part, device)[rows] for part in state.embedded)
        return read(self.asked, PromptEmbeddings(states, place))

    def _embedded(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Rows of the embedding table `[B, S, d_llm]` and `[B, S]` where they stand."""
        ids, behind = prompt.ids, prompt.behind
        text = PromptText(ids, prompt.valid, prompt.words, behind, prompt.query, prompt.visual)
        with torch.no_grad():
            # placeholders have ids beyond some tables, so only words are looked up
            states = self.adapter.embed(text.pick(ids))
        place = text.pick(behind.long(), padding=-1)
        lost = sent(place < 0, states.device)[..., None]
        return states.masked_fill(lost, 0), place
