"""Signals: what a strategy may ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Signal:
    """A named quantity that an adapter can supply on request; two signals are equal by name.

    Plugins may define further ones: a strategy asks for it, an adapter offers it, and the engine
    refuses the plan where no adapter does.

    Attributes:
        name: the key in `Tokens.signals`.
        meaning: shape and definition, for people.
        base: name of the signal that this is one of, for signals of a block of one's choice.
        block: that block of the encoder, from 0; None for the block of the site.
    """

    name: str
    meaning: str = field(default="", compare=False)
    base: str = field(default="", compare=False)
    block: int | None = field(default=None, compare=False)

    ATTENTION_RECEIVED: ClassVar[Signal]
    ATTENTION_GIVEN: ClassVar[Signal]
    LOGITS_RECEIVED: ClassVar[Signal]
    LOGITS_GIVEN: ClassVar[Signal]
    CLS_ATTENTION: ClassVar[Signal]
    CLS_SIMILARITY: ClassVar[Signal]
    LAST_QUERY_ATTENTION: ClassVar[Signal]
    KEYS: ClassVar[Signal]
    PREVIOUS_HIDDEN: ClassVar[Signal]
    COMPANIONS: ClassVar[Signal]
    HIDDEN: ClassVar[Signal]
    QUESTION_STATE: ClassVar[Signal]
    QUESTION_ATTENTION_MAX: ClassVar[Signal]
    QUESTION_ATTENTION_MEAN: ClassVar[Signal]
    PROMPT_ATTENTION_MEAN: ClassVar[Signal]
    AHEAD_ATTENTION: ClassVar[Signal]
    AHEAD_ATTENTION_UNROTATED: ClassVar[Signal]
    TEXT_STATES: ClassVar[Signal]
    TEXT_PLACE: ClassVar[Signal]

    def at(self, block: int) -> Signal:
        """This signal of encoder block `block` instead of the last used one; `pre_llm` only."""
        return Signal(f"{self.name}@{block}", self.meaning, self.name, block)

    @property
    def kind(self) -> Signal:
        """The signal as adapters offer it, without a block of one's choice."""
        return Signal(self.base, self.meaning) if self.base else self

    def __str__(self) -> str:
        return self.name


Signal.ATTENTION_RECEIVED = Signal(
    "attention_received",
    "[B, N] mean over heads and patch queries of the softmax weight each token receives",
)
Signal.ATTENTION_GIVEN = Signal(
    "attention_given",
    "[B, N] mean over heads and patch keys of the softmax weight each token gives to patches",
)
Signal.LOGITS_RECEIVED = Signal(
    "logits_received", "[B, N] column mean of the scaled logits q.k / sqrt(d), before the softmax"
)
Signal.LOGITS_GIVEN = Signal(
    "logits_given", "[B, N] row mean of the scaled logits q.k / sqrt(d), before the softmax"
)
Signal.CLS_ATTENTION = Signal(
    "cls_attention", "[B, N] head mean of the class token's softmax row over the patches"
)
Signal.CLS_SIMILARITY = Signal(
    "cls_similarity",
    "[B, N] cosine of the class token with each patch in the output of an encoder block; at "
    "pre_llm",
)
Signal.LAST_QUERY_ATTENTION = Signal(
    "last_query_attention",
    "[B, N] head mean of the last prompt token's softmax row in the LLM layer before the site",
)
Signal.KEYS = Signal("keys", "[B, N, d] attention keys of the block, averaged over heads")
Signal.PREVIOUS_HIDDEN = Signal(
    "previous_hidden", "[B, N, D] hidden states that entered the block before this one"
)
Signal.COMPANIONS = Signal(
    "companions", "[B, G, D] the strategy's own companion tokens after the encoder's blocks"
)
Signal.HIDDEN = Signal(
    "hidden", "[B, N, D] output of an encoder block, `Signal.HIDDEN.at(block)`; at pre_llm"
)
Signal.QUESTION_STATE = Signal(
    "question_state",
    "[B, d_llm] last hidden state of a text-only pass of the LLM at the last token of the question "
    "(the text behind the image, answers left out); at pre_llm",
)
Signal.QUESTION_ATTENTION_MAX = Signal(
    "question_attention_max",
    "[B, N] maximum over heads and over the text queries behind the last visual token of the "
    "softmax weight each token receives in the LLM layer before the site",
)
Signal.QUESTION_ATTENTION_MEAN = Signal(
    "question_attention_mean",
    "[B, N] mean over heads and over those text queries behind the last visual token that may see "
    "the token of the softmax weight it receives in the LLM layer before the site",
)
Signal.PROMPT_ATTENTION_MEAN = Signal(
    "prompt_attention_mean",
    "[B, N] mean over heads and over all tokens of the prompt as queries, visual and text, of the "
    "softmax weight each token receives in the LLM layer before the site; queries in front of a "
    "token count and give it 0, so tokens early in the prompt get more",
)
Signal.AHEAD_ATTENTION = Signal(
    "ahead_attention",
    "[B, N] head mean of the last prompt token's softmax row in the LLM layer at the site itself, "
    "computed from the layer's input norm and its rotated queries and keys",
)
Signal.AHEAD_ATTENTION_UNROTATED = Signal(
    "ahead_attention_unrotated", "[B, N] as `ahead_attention`, without rotary embeddings"
)
Signal.TEXT_STATES = Signal(
    "text_states",
    "[B, S, D] states of all text tokens of the prompt at a decoder site, in order, right-padded",
)
Signal.TEXT_PLACE = Signal(
    "text_place",
    "[B, S] int64 for `text_states`: 1 behind the last visual token, 0 before it, -1 for padding; "
    "labelled answer tokens don't count as prompt and are left out",
)

WHOLE = frozenset(
    {Signal.COMPANIONS.name, Signal.QUESTION_STATE.name, Signal.TEXT_STATES.name}
    | {Signal.TEXT_PLACE.name}
)
"""Names of signals that hold no value per visual token and so stay as they are when tokens go."""
