"""What the LLM makes of the question alone, for pre-LLM stages that choose by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.engine.images import ImageTokens, by_row
from tokenprune.engine.llm.refusals import check_language, check_told
from tokenprune.engine.llm.state import MllmState
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.specs import MllmSpec


@dataclass(frozen=True)
class Asked:
    """The questions of a call.

    Attributes:
        ids: token ids `[T]` of the question of every row with images.
        first: what stands in front of each of them in a pass of its own, `[1]` or `[0]`: the mark
            of a text's beginning (BOS), where the row's prompt begins with it.
        number: of every image, which of these questions is about it.
    """

    ids: Sequence[Tensor]
    first: Sequence[Tensor]
    number: Sequence[int]


class Questions:
    """Text-only passes of the LLM, beside the prompt's own, and the questions' words.

    What is read is read once in a call, so that passes without cache, whose prompts hold what was
    generated so far, go on choosing by the question.

    Args:
        adapter: the model's family.
        spec: the model as data.
    """

    def __init__(self, adapter: MllmAdapter, spec: MllmSpec) -> None:
        self.adapter, self.spec = adapter, spec

    def states(self, state: MllmState, images: Sequence[ImageTokens]) -> Tensor:
        """State of the question's last token for every image, `[n, d_llm]`.

        Args:
            state: the running call's, with token ids.
            images: of all rows, in order.

        Raises:
            UnsupportedCallError: there are no token ids, or no text beside an image.
        """
        asked = self._asked(state, images)
        if state.questions is None:
            state.questions = self._run(state, asked)
        return state.questions[[*asked.number]]

    def words(
        self, state: MllmState, images: Sequence[ImageTokens], read: Callable[[Tensor], str]
    ) -> list[str]:
        """The question in words for every image.

        Args:
            state: the running call's, with token ids.
            images: of all rows, in order.
            read: turns token ids into words.

        Raises:
            UnsupportedCallError: there are no token ids, or no text beside an image.
        """
        asked = self._asked(state, images)
        if state.words is None:
            state.words = [read(ids) for ids in asked.ids]
        return [state.words[number] for number in asked.number]

    def _asked(self, state: MllmState, images: Sequence[ImageTokens]) -> Asked:
        names = self.spec.names
        check_told(self.spec, state.given.ids, "the question")
        prompt = state.read(self.spec)
        ids = prompt.ids
        check_language(self.spec, ids.shape[1], state.given.mask)
        rows = by_row(prompt.visual.sum(dim=1).tolist(), images, names.ids)
        pictured = [row for row, mine in enumerate(rows) if mine]
        question = prompt.question()
        place: dict[int, int] = {}
        for number, row in enumerate(pictured):
            for image in rows[row]:
                place.setdefault(image.number, number)
        found = [ids[row][question[row]] for row in pictured]
        if any(not len(one) for one in found):
            raise UnsupportedCallError(
                "the plan chooses visual tokens by the question, and a prompt has no text.",
                where=names.ids,
                remedy="Give every prompt with an image some text.",
            )
        begins = [ids[row][prompt.valid[row]][:1] for row in pictured]
        first = [one[one == self.spec.first_id] for one in begins]
        return Asked(found, first, [place[image.number] for image in images])

    def _run(self, state: MllmState, asked: Asked) -> Tensor:
        texts = [
            # a question that is all of the prompt's text has the mark already
            ids if torch.equal(ids[:1], first) else torch.cat((first, ids))
            for first, ids in zip(asked.first, asked.ids, strict=True)
        ]
        lengths = [len(text) for text in texts]
        ids = pad_sequence(texts, batch_first=True)
        state.aside = True
        try:
            with torch.no_grad():
                # attention is causal, so that no question sees the padding behind it
                last = self.adapter.run_text(ids)
        finally:
            state.aside = False
        return last[
            torch.arange(len(lengths), device="cpu"), torch.tensor(lengths, device="cpu") - 1
        ]
