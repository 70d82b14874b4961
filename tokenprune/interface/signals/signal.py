"""A signal: a named quantity of a model that a strategy may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, cast

from torch import Tensor

from tokenprune.errors import SignalError, UnknownNameError
from tokenprune.errors.names import suggestion
from tokenprune.interface.signals import encoder, llm, llm_views, views
from tokenprune.interface.signals.shapes import axes_of, refuse_row, refuse_shape
from tokenprune.interface.signals.text_tower import TowerSpace
from tokenprune.interface.signals.views import View
from tokenprune.interface.sites import Stage

Compute = Callable[[Any], Tensor]
"""A function of the view that a signal needs."""


class _Row(NamedTuple):
    """A signal that ships, until the class of signals is complete; see the end of its rows."""

    meaning: str
    needs: type[View]
    compute: Compute
    turns: bool


def _row(needs: type[View], meaning: str, compute: Compute, *, turns: bool = False) -> Signal:
    """A signal that ships, named after the attribute of `Signal` that it is assigned to."""
    return cast("Signal", _Row(meaning, needs, compute, turns))


# rows, by what they need
_block = partial(_row, views.BlockAttention)
_class_token = partial(_row, views.ClassAttention)
_class_output = partial(_row, views.ClassOutput)
_tower = partial(_row, TowerSpace)
_embedded = partial(_row, views.PromptEmbeddings)
_layer = partial(_row, llm_views.LayerBefore, turns=True)
_ahead = partial(_row, llm_views.LayerAhead, turns=True)
_values = partial(_row, llm_views.LayerValues)
_normed = partial(_row, llm_views.OutputNorm)
_text = partial(_row, llm_views.PromptText)


@dataclass(frozen=True)
class Signal:
    """A named quantity that the engine computes on request; two signals are equal by name.

    A plugin defines one by a row like those below, with its name, and returns it from its
    strategy's `signals`. Every model whose adapter supplies what the signal needs has it; elsewhere
    the plan is refused at attach.

    Attributes:
        name: the key in `Tokens.signals`.
        meaning: shape and definition, for people; the shape comes first, as in `[B, N, d] keys`.
        needs: the view that it is computed from; None for values that only a caller can give
            (`tokenprune.integrations`).
        compute: its function of that view. Values per token cover all tokens of the view.
        turns: of an LLM layer's attention, whether a further turn of a chat has it: whether its
            function reads keys of other tokens by `LayerAttention.rows` alone, as the layer rotates
            them or among some of the turn. Other views tell what the turn's tokens have anyway.
        base: for a signal of a chosen block, the name without the block.
        block: that block of the encoder, from 0; None for the block of the site.
        axes: that the meaning begins with; per token and otherwise open if it says none.

    Raises:
        SignalError: the row contradicts itself.
    """

    name: str
    meaning: str = field(default="", compare=False)
    needs: type[View] | None = field(default=None, compare=False)
    compute: Compute | None = field(default=None, compare=False, repr=False)
    turns: bool = field(default=False, compare=False)
    base: str = field(default="", compare=False)
    block: int | None = field(default=None, compare=False)
    axes: tuple[str, ...] = field(init=False, compare=False, repr=False)

    ATTENTION_RECEIVED = _block(
        "[B, N] mean over heads and patch queries of the softmax weight each token receives",
        encoder.received,
    )
    ATTENTION_RECEIVED_FROM_ALL = _block(
        "[B, N] as `attention_received`, with class and register tokens among the queries",
        encoder.received_from_all,
    )
    ATTENTION_GIVEN = _block(
        "[B, N] mean over heads and patch keys of the softmax weight each token gives to patches",
        encoder.given,
    )
    LOGITS_RECEIVED = _block(
        "[B, N] column mean of the scaled logits q.k / sqrt(d), before the softmax",
        encoder.logits_received,
    )
    LOGITS_GIVEN = _block(
        "[B, N] row mean of the scaled logits q.k / sqrt(d), before the softmax",
        encoder.logits_given,
    )
    CLS_ATTENTION = _class_token(
        "[B, N] head mean of the class token's softmax row over the patches", encoder.of_class_token
    )
    CLS_ATTENTION_JOINED = _class_token(
        "[B, N] the class token's softmax row over the patches, with all heads as one wide head",
        encoder.of_class_token_joined,
    )
    ATTENTION_RECEIVED_JOINED = _block(
        "[B, N] `attention_received` with all heads as one wide head", encoder.received_joined
    )
    CLS_SIMILARITY = _class_output(
        "[B, N] cosine of the class token with each patch in the output of an encoder block",
        encoder.like_class_token,
    )
    KEYS = _block("[B, N, d] attention keys of the block, averaged over heads", encoder.keys)
    KEYS_JOINED = _block(
        "[B, N, C] attention keys of the block, those of all heads side by side",
        encoder.keys_joined,
    )
    QUERIES_JOINED = _block(
        "[B, N, C] attention queries of the block, those of all heads side by side",
        encoder.queries_joined,
    )
    VALUES_JOINED = _block(
        "[B, N, C] attention values of the block, those of all heads side by side",
        encoder.values_joined,
    )
    HIDDEN = _row(
        views.BlockOutput, "[B, N, D] output of an encoder block", lambda view: view.patches
    )
    PREFIX_STATES = _class_output(
        "[B, P, D] class and register tokens in the output of an encoder block, the class token "
        "first",
        lambda view: view.hidden[:, : view.prefix],
    )
    PREFIX_FEATURES = _row(
        views.ClassFeature,
        "[B, P, D] `prefix_states` where they are as wide as the tokens: in front of the projector",
        lambda view: view.hidden[:, : view.prefix],
    )
    PREVIOUS_HIDDEN = _row(
        views.BlockBefore,
        "[B, N, D] hidden states that entered the block before this one",
        lambda view: view.patches,
    )
    COMPANIONS = _row(
        views.Companions,
        "[B, G, D] the strategy's own companion tokens after the encoder's blocks",
        lambda view: view.states,
    )
    QUESTION_STATE = _row(
        views.Question,
        "[B, d_llm] last hidden state of a text-only pass of the LLM at the last token of the "
        "question (the text behind the image, answers left out), behind the prompt's BOS",
        lambda view: view.state,
    )
    TOWER_TOKENS = _tower(
        "[B, N, E] features of the tokens behind the last used block in the space of the text "
        "tower that the strategy names, through the norm and projection of its vision half",
        lambda view: view.tokens,
    )
    TOWER_QUESTION = _tower(
        "[B, E] the question (as of `question_state`) in that space, cut to the tower's length",
        lambda view: view.question,
    )
    TOWER_PIECES = _tower(
        "[B, M, E] the question in pieces of the tower's length, each read alone and of length 1, "
        "right-padded with zeros",
        lambda view: view.pieces,
    )
    TEXT_EMBEDDINGS = _embedded(
        "[B, S, d_llm] rows of the LLM's embedding table for the text of the image's prompt, in "
        "order, right-padded",
        lambda view: view.states,
    )
    TEXT_EMBEDDINGS_PLACE = _embedded(
        "[B, S] int64 for `text_embeddings`, as `text_place`", lambda view: view.place
    )
    LAST_QUERY_ATTENTION = _layer(
        "[B, N] head mean of the last prompt token's softmax row in the LLM layer before the site",
        llm.last_query,
    )
    LAST_QUERY_ATTENTION_AMONG_VISUAL = _layer(
        "[B, N] as `last_query_attention`, without rotary embeddings and with each head's softmax "
        "over the visual tokens alone",
        llm.last_query_among_visual,
    )
    QUESTION_ATTENTION_MAX = _layer(
        "[B, N] maximum over heads and over the text queries behind the last visual token of the "
        "softmax weight each token receives in the LLM layer before the site",
        llm.question_max,
    )
    QUESTION_ATTENTION_MEAN = _layer(
        "[B, N] mean over heads and over those text queries behind the last visual token that may "
        "see the token of the softmax weight it receives in the LLM layer before the site",
        llm.question_mean,
    )
    PROMPT_ATTENTION_MEAN = _layer(
        "[B, N] mean over heads and over all tokens of the prompt as queries, visual and text, of "
        "the weight each token receives in the LLM layer before the site; queries in front give 0",
        llm.prompt_mean,
    )
    AHEAD_ATTENTION = _ahead(
        "[B, N] head mean of the last prompt token's softmax row in the LLM layer at the site "
        "itself, computed from the layer's input norm and its rotated queries and keys",
        llm.last_query,
    )
    AHEAD_ATTENTION_UNROTATED = _ahead(
        "[B, N] as `ahead_attention`, without rotary embeddings",
        llm.last_query_unrotated,
        turns=False,
    )
    TEXT_ATTENTION = _layer(
        "[B, S, N] head mean of the softmax weight that every text token of the prompt gives to "
        "each token in the LLM layer before the site, in order, right-padded; 0 to later tokens",
        llm.text_rows,
    )
    TEXT_ATTENTION_BY_HEAD = _layer(
        "[B, S, H, N] as `text_attention`, of every attention head by itself", llm.text_rows_by_head
    )
    TEXT_ROTATION = _layer(
        "[B, S, N] logits that queries of ones at every text token have with keys of ones, rotated "
        "as in the LLM layer before the site: what position alone gives",
        llm.text_rotation,
    )
    KEY_LENGTH = _layer(
        "[B, N] sum of the absolute values of a token's rotated keys of all heads in the LLM layer "
        "before the site (L1 norm)",
        llm.key_length,
    )
    TEXT_KEY_LENGTH = _layer(
        "[B, S] `key_length` of the prompt's text tokens, in order, right-padded",
        llm.text_key_length,
    )
    LAYER_KEYS = _layer(
        "[B, N, C] keys of the LLM layer before the site, all heads side by side, rotated by "
        "positions counted from the prompt's first token",
        llm.layer_keys,
    )
    LAYER_KEYS_UNROTATED = _layer(
        "[B, N, C] as `layer_keys`, without rotary embeddings", llm.layer_keys_unrotated
    )
    TEXT_LAYER_KEYS = _layer(
        "[B, S, C] `layer_keys` of the prompt's text tokens, in order, right-padded",
        llm.text_layer_keys,
    )
    LAYER_VALUES = _values(
        "[B, N, C] values of the LLM layer before the site, all heads side by side",
        lambda view: view.joined,
    )
    TEXT_LAYER_VALUES = _values(
        "[B, S, C] `layer_values` of the prompt's text tokens, in order, right-padded",
        lambda view: view.text.pick(view.joined),
    )
    EARLIER_STATES = _row(
        llm_views.LayerInput,
        "[B, N, D] states that entered the LLM layer before the site",
        lambda view: view.hidden,
    )
    OUTPUT_STATES = _normed(
        "[B, N, D] states in front of the layer, put through the norm behind the LLM's last layer",
        lambda view: view.states,
    )
    TEXT_OUTPUT_STATES = _normed(
        "[B, S, D] `output_states` of the prompt's text tokens, in order, right-padded",
        lambda view: view.text.pick(view.states),
    )
    TEXT_STATES = _text(
        "[B, S, D] states of all text tokens of the prompt at a decoder site, in order, "
        "right-padded",
        llm.text_states,
    )
    TEXT_PLACE = _text(
        "[B, S] int64 for `text_states`: 1 behind the last visual token, 0 before it, -1 for "
        "padding; labelled answer tokens don't count as prompt and are left out",
        llm.text_place,
    )
    BEHIND_IMAGES = _text(
        "[B, N] bool, whether a token stands behind the last visual token of the prompt",
        lambda view: view.behind,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", axes_of(self.meaning, computed=self.needs is not None))
        refuse_row(self.name, self.meaning, self.axes, self.needs, self.compute)

    @classmethod
    def shipped(cls) -> dict[str, Signal]:
        """The signals that ship, by name, in the order of their rows."""
        return {value.name: value for value in vars(cls).values() if isinstance(value, cls)}

    @classmethod
    def named(cls, name: str) -> Signal:
        """The signal of a name that ships, as `keys`, or as `keys@5` for that of a chosen block.

        Raises:
            UnknownNameError: there is no such signal.
        """
        base, chosen, block = name.partition("@")
        found = cls.shipped().get(base)
        if found is None or (chosen and not block.isdecimal()):
            raise UnknownNameError(
                f"there is no signal '{name}'.", remedy=suggestion(base, cls.shipped())
            )
        return found.at(int(block)) if chosen else found

    def at(self, block: int) -> Signal:
        """This signal of encoder block `block` instead of the last used one; `pre_llm` only.

        Of the block right behind the used ones there is the attention that it would compute of the
        features, where an encoder has such a block.

        Raises:
            SignalError: it isn't computed from one encoder block.
        """
        if self.needs is not None and not self.needs.chosen:
            raise SignalError(
                f"{self.name} is of the {self.needs.title}, so there is no block to choose.",
                where=f"Signal '{self.name}'",
                remedy="Ask for it without at().",
            )
        return replace(self, name=f"{self.name}@{block}", base=self.name, block=block)

    @property
    def kind(self) -> Signal:
        """The signal without a block of one's choice."""
        return replace(self, name=self.base, base="", block=None) if self.base else self

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Where it exists; nowhere if nothing computes it."""
        if self.needs is None:
            return ()
        return self.needs.stages if self.block is None else ("pre_llm",)

    @property
    def per_token(self) -> bool:
        """Whether there is a value for every token of the site, `[B, N, ...]`."""
        return self.axes[1:2] == ("N",)

    def reads(self, *views: type[View]) -> bool:
        """Whether it needs one of the views, or a special one of them."""
        return self.needs is not None and issubclass(self.needs, views)

    def of(self, view: View) -> Tensor:
        """The value for a view, its shape checked.

        Raises:
            SignalError: the function's answer hasn't the shape that the meaning gives.
        """
        assert self.compute is not None
        value = self.compute(view)
        refuse_shape(self.name, self.axes, value, view)
        return value

    def __str__(self) -> str:
        return self.name


# the rows become signals; they are plain attributes then, as torch.compile wants them
for _name, _value in [*vars(Signal).items()]:
    if isinstance(_value, _Row):
        setattr(Signal, _name, Signal(_name.lower(), *_value))
