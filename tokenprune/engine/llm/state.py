"""What one call of a multimodal LLM carries from part to part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor

from tokenprune.engine.call import CallState
from tokenprune.engine.images import ImageTokens
from tokenprune.engine.llm.cut import Rows, moved
from tokenprune.engine.llm.flow import Flow
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.interface.calls import Entry, LayerCall, PromptCall
from tokenprune.interface.specs import MllmSpec

Read = Callable[[], tuple[Rows, Rows]]
"""Gives the visual and the prunable text tokens of every row."""


class Left:
    """What is left of the prompts in the layer that is running.

    Where nobody asks, as in front of and behind the last decoder stage, slots aren't worked out.

    Args:
        read: what is left at first; nothing by default.
    """

    def __init__(self, read: Read | None = None) -> None:
        self._known: tuple[Rows, Rows] = [], []
        self._read = read

    @property
    def rows(self) -> Rows:
        """Visual tokens of every row."""
        return self._settled()[0]

    @property
    def texts(self) -> Rows:
        """Prunable text tokens of every row, if the plan prunes text."""
        return self._settled()[1]

    def cut(self, rows: Rows, texts: Rows, slot_of: Callable[[], Tensor] | None) -> None:
        """Note what a stage left.

        Args:
            rows: visual tokens of every row, with the slots in front of the stage.
            texts: the same of text.
            slot_of: gives the slots behind it, by those in front; None if they are the same.
        """
        self._known, self._read = (rows, texts), None
        if slot_of is not None:

            def read() -> tuple[Rows, Rows]:
                slots = slot_of()
                return moved(rows, slots), moved(texts, slots)

            self._read = read

    def _settled(self) -> tuple[Rows, Rows]:
        if self._read is not None:
            self._known, self._read = self._read(), None
        return self._known

    @property
    def visual(self) -> int:
        """Visual tokens of the batch behind a stage, copies for beams left out."""
        rows = self._known[0]
        return sum(row.slot.shape[0] for row in rows if row is not None and not row.copy)

    @property
    def text(self) -> tuple[int, int]:
        """Prunable text tokens behind a stage and their prompts, copies for beams left out."""
        rows = self._known[1]
        mine = [row.slot.shape[0] for row in rows if row is not None and not row.copy]
        return sum(mine), len(mine)

    @property
    def pictures(self) -> int:
        """Images and frames in the batch behind a stage, copies for beams left out."""
        return sum(row.frames for row in self._known[0] if row is not None and not row.copy)


@dataclass
class Counted:
    """Visual tokens that were counted on their way through the LLM.

    Attributes:
        arrived: of every row, at the LLM's input.
        entered: of the batch at the LLM's input, copies for beams left out.
        pictures: images and frames of the batch, copies for beams left out.
        behind: of the batch behind every decoder stage, by layer, copies left out.
    """

    arrived: Sequence[int] = ()
    entered: int = 0
    pictures: int = 0
    behind: dict[int, int] = field(default_factory=dict)

    def average(self, layers: int) -> float:
        """Visual tokens of the batch in a layer, averaged over that many of them."""
        edges = [*sorted(self.behind), layers]
        total = float(self.entered * edges[0])
        for start, end in pairwise(edges):
            total += self.behind[start] * (end - start)
        return total / layers


@dataclass
class MllmState:
    """State of one outermost `generate` or `forward`.

    Attributes:
        given: what the call that is running says; its token ids are None if they have no
            placeholders, its labels those of the outermost forward.
        first: what the core was called with when the LLM ran for the first time.
        pictures: what goes to the LLM of each kind of picture, in order; empty until it is known.
        questions: states of the rows' questions, for rows with images, if a stage asked for them.
        words: the same rows' questions in words, if a stage asked for a text tower.
        embedded: the rows' embedded text and its places, if a stage asked for it.
        encoding: kind of the pictures whose features are being made; None while none are.
        clips: while features are being made, how many pictures each clip is for a packed tower.
        aside: True during the text-only pass for questions.
        prompted: tokens of the prompt that `generate` was given; 0 outside of it.
        standing: whether the model was found to be as it was when the plan was attached.
        prefilled: whether the LLM ran once in this call.
        prompt: what the prompts of `given` say; None before anybody asked.
        layout: how the prompts are shortened, fixed at the first forward of the call.
        left: what is left in the layer that is running.
        counted: what was counted.
        flow: the forward of the LLM that is running.
        running: which method of the model is, the innermost one; None where there is none.
        made: the arguments that `generate` made of its first forward.
        prepared: whether `generate` makes the arguments of forwards.
        padding: the padding mask that it makes them of.
        makes_cache: whether `generate` makes the cache, since it was given none.
        filled: the cache of fixed length that this call of `generate` filled.
        projected: what the projections of the layers that were asked put out, by the layer that
            asks.
        heard: number and call of the layers that were asked, by the layer that asks.
        entered: what entered the layer before one that asks, by the layer that asks.
    """

    given: PromptCall = field(default_factory=PromptCall)
    first: PromptCall = field(default_factory=PromptCall)
    pictures: dict[str, list[ImageTokens]] = field(default_factory=dict)
    questions: Tensor | None = None
    words: list[str] | None = None
    embedded: tuple[Tensor, Tensor] | None = None
    encoding: str | None = None
    clips: Sequence[int] | None = None
    aside: bool = False
    prompted: int = 0
    standing: bool = False
    prefilled: bool = False
    prompt: Prompt | None = None
    layout: Layout | None = None
    left: Left = field(default_factory=Left)
    counted: Counted = field(default_factory=Counted)
    flow: Flow | None = None
    running: Entry | None = None
    made: PromptCall = field(default_factory=PromptCall)
    prepared: bool = False
    padding: Any = None
    makes_cache: bool = False
    filled: Any = None
    projected: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    heard: dict[int, tuple[int, LayerCall]] = field(default_factory=dict)
    entered: dict[int, Tensor] = field(default_factory=dict)

    def read(self, spec: MllmSpec) -> Prompt:
        """What the prompts of the call that is running say, which has token ids; read once.

        Args:
            spec: the model.
        """
        if self.prompt is None or self.prompt.given is not self.given:
            self.prompt = Prompt(self.given, spec)
        return self.prompt

    def ids(self, spec: MllmSpec) -> Tensor | None:
        """Token ids `[B, L]` of that call, on the CPU; None if it has none or no placeholders."""
        return None if self.given.ids is None else self.read(spec).ids

    def passed(self) -> None:
        """A forward of the LLM is over; what it held is let go."""
        self.flow, self.left, self.projected, self.heard = None, Left(), {}, {}
        self.entered = {}


def state_of(call: CallState) -> MllmState:
    """The state of a call, a new one if it has none."""
    state = call.state(MllmState)
    if state is None:
        state = MllmState()
        call.put(state)
    return state
