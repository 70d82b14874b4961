"""What the LLM makes of the question alone, for pre-LLM stages that choose by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.engine.images import ImageTokens, by_row
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.engine.llm.refusals import check_language
from tokenprune.engine.llm.state import MllmState
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.specs import MllmSpec


class Questions:
    """Text-only passes of the LLM, beside the prompt's own.

    Args:
        adapter: the model's family.
        spec: the model as data.
    """

    def __init__(self, adapter: MllmAdapter, spec: MllmSpec) -> None:
        self.adapter, self.spec = adapter, spec

    def states(self, state: MllmState, images: Sequence[ImageTokens]) -> Tensor:
        """State of the question's last token for every image, `[n, d_llm]`.

        It is computed once in a call, so that passes without cache, whose prompts hold what was
        generated so far, go on choosing by the question.

        Args:
            state: the running call's, with token ids.
            images: of all rows, in order.

        Raises:
            UnsupportedCallError: there are no token ids, or no text beside an image.
        """
        ids, names = state.given.ids, self.spec.names
        if ids is None:
            raise UnsupportedCallError(
                "the plan chooses visual tokens by the question, and there are no token ids.",
                where=names.ids,
                remedy=f"Call generate or forward of the model with {names.ids} and "
                f"{names.pictures}.",
            )
        check_language(self.spec, ids.shape[1], state.given.mask)
        prompt = Prompt.read(state.given, self.spec, ids.device)
        rows = by_row(prompt.visual.sum(dim=1).tolist(), images, names.ids)
        pictured = [row for row, mine in enumerate(rows) if mine]
        if state.questions is None:
            asked = prompt.question()
            state.questions = self._run(state, [ids[row][asked[row]] for row in pictured])
        place: dict[int, int] = {}
        for number, row in enumerate(pictured):
            for image in rows[row]:
                place.setdefault(image.number, number)
        return state.questions[[place[image.number] for image in images]]

    def _run(self, state: MllmState, questions: Sequence[Tensor]) -> Tensor:
        lengths = [len(question) for question in questions]
        if 0 in lengths:
            raise UnsupportedCallError(
                "the plan chooses visual tokens by the question, and a prompt has no text.",
                where=self.spec.names.ids,
                remedy="Give every prompt with an image some text.",
            )
        ids = pad_sequence(list(questions), batch_first=True)
        state.aside = True
        try:
            with torch.no_grad():
                # attention is causal, so that no question sees the padding behind it
                last = self.adapter.run_text(ids)
        finally:
            state.aside = False
        return last[torch.arange(len(lengths)), torch.tensor(lengths) - 1]
