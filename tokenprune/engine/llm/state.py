"""What one call of a multimodal LLM carries from part to part."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tokenprune.engine.images import ImageTokens
from tokenprune.engine.llm.cut import Rows
from tokenprune.engine.llm.layout import Flow, Layout
from tokenprune.interface.calls import PromptCall, Rotary


@dataclass
class MllmState:
    """State of one outermost `generate` or `forward`.

    Attributes:
        given: what the call that is running says; its token ids are None if they have no
            placeholders, its labels those of the outermost forward.
        questions: states of the rows' questions, for rows with images, if a stage asked for them.
        aside: whether the LLM runs on something else than the prompt.
        images: what the projector handed on, in order; None before it ran.
        layout: the prompt's shortening, fixed at the first forward of the call.
        rows: visual tokens of every row in the layer that is running.
        texts: prunable text tokens of every row in that layer, if the plan prunes text.
        arrived: visual tokens of every row at the LLM's input.
        entered: visual tokens of the batch at the LLM's input, copies left out.
        flow: the LLM forward that is running.
        projected: what the projections of the layers that were asked put out.
        rotary: rotary rows of the layer that ran last.
        counts: visual tokens of the batch behind every decoder stage, copies left out.
        query: place of the last prompt token of every row, `[B]`.
        words: `[B, L]` text of the prompts, without labelled answers, by place.
        image_end: place of the last visual token of every row, `[B]`; -1 for none.
        prefilled: whether the LLM ran once in this call.
    """

    given: PromptCall = field(default_factory=PromptCall)
    questions: Tensor | None = None
    aside: bool = False
    images: list[ImageTokens] | None = None
    layout: Layout | None = None
    rows: Rows = field(default_factory=list)
    texts: Rows = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    entered: int = 0
    flow: Flow | None = None
    projected: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    rotary: Rotary = None
    counts: dict[int, int] = field(default_factory=dict)
    query: Tensor | None = None
    words: Tensor | None = None
    image_end: Tensor | None = None
    prefilled: bool = False

    @property
    def visual(self) -> int:
        """Visual tokens in the layer that is running, copies for beams left out."""
        return sum(row.column.shape[0] for row in self.rows if row is not None and not row.copy)

    @property
    def text(self) -> tuple[int, int]:
        """Prunable text tokens in that layer and their prompts, copies for beams left out."""
        mine = [row.column.shape[0] for row in self.texts if row is not None and not row.copy]
        return sum(mine), len(mine)

    @property
    def pictures(self) -> int:
        """Images and frames in the batch, copies for beams left out."""
        return sum(row.frames for row in self.rows if row is not None and not row.copy)
