"""What signals are computed from: parts of a model, at the moment when a signal is read.

Those of an encoder and between encoder and LLM are here, those inside the LLM in `llm_views`. A
signal names one of these classes as its need, and its function gets an instance. Adapters say
which of them a model can supply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokenprune.interface.sites import Stage


class View:
    """Base of all views.

    Class attributes:
        title: what it is, for messages and tables.
        stages: the stages at which there is one.
        chosen: whether a signal may name the encoder block to read (`Signal.at`).
        leads: what the second axis of its signals may be; empty if it doesn't matter. N is the
            tokens of the site (values of tokens that are removed go with them), P class and
            register tokens in front of them, S the prompt's text tokens; other axes stay as they
            are.
    """

    title: ClassVar[str]
    stages: ClassVar[tuple[Stage, ...]]
    chosen: ClassVar[bool] = False
    leads: ClassVar[tuple[str, ...]] = ()

    @property
    def sizes(self) -> Mapping[str, int]:
        """Lengths of the axes that are known here, by letter."""
        return {}


@dataclass(frozen=True)
class BlockAttention(View):
    """The attention of an encoder block; the softmax weights themselves are never stored.

    Attributes:
        query: `[B, H, P + N, d]`; attention is softmax(query key^T / sqrt(d)).
        key: `[B, H, P + N, d]`.
        value: `[B, H, P + N, d]`.
        bias: `[B, P + N]` added to the logits of each key (log of token sizes), or None.
        prefix: P, class and register tokens in front of the patches.
        share: `[B]` where attention is parted into windows and this batch holds windows: the part
            of a picture's patches that a window has, whose queries alone can see its keys; None
            where it has all.
        received: float32 `[B, N]` mean weight that each patch receives from the patches, where the
            attention itself has told it, or both means are asked for.
        given: float32 `[B, N]` mean weight that each patch gives to the patches, where both means
            are asked for.
        real: `[B, P + N]` False for padding, where windows are padded to one length: its queries,
            keys and values are zeros, its bias is -inf; else None. Only the functions in `PADDED`
            are given such views.
        mask: `[B, P + N, P + N]` added to the logits of every query and key, sizes of tokens
            included, where windows part the pictures of this batch: -inf for keys of another
            window; else None. Only the functions in `MASKED` are given such views.
    """

    title: ClassVar[str] = "attention of an encoder block"
    stages: ClassVar[tuple[Stage, ...]] = ("encoder", "pre_llm")
    chosen: ClassVar[bool] = True
    leads: ClassVar[tuple[str, ...]] = ("N", "P")

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    prefix: int
    share: Tensor | None = None
    received: Tensor | None = None
    given: Tensor | None = None
    real: Tensor | None = None
    mask: Tensor | None = None

    @property
    def sizes(self) -> Mapping[str, int]:
        """B images, P prefix tokens and N patches."""
        count = self.key.shape[2] - self.prefix
        return {"B": self.key.shape[0], "P": self.prefix, "N": count}


class ClassAttention(BlockAttention):
    """The same of an encoder whose first token is a class token."""

    title: ClassVar[str] = "attention of an encoder block, class token in front"


@dataclass(frozen=True)
class _Hidden(View):
    leads: ClassVar[tuple[str, ...]] = ("N", "P")

    hidden: Tensor
    prefix: int

    @property
    def patches(self) -> Tensor:
        """The states without prefix tokens, `[B, N, D]`."""
        return self.hidden[:, self.prefix :]

    @property
    def sizes(self) -> Mapping[str, int]:
        """B images, P prefix tokens and N patches."""
        count = self.hidden.shape[1] - self.prefix
        return {"B": self.hidden.shape[0], "P": self.prefix, "N": count}


class BlockOutput(_Hidden):
    """What an encoder block put out.

    Attributes:
        hidden: `[B, P + N, D]`.
        prefix: P, class and register tokens in front of the patches.
    """

    title: ClassVar[str] = "output of an encoder block"
    stages: ClassVar[tuple[Stage, ...]] = ("pre_llm",)
    chosen: ClassVar[bool] = True


class ClassOutput(BlockOutput):
    """The same of an encoder whose first token is a class token."""

    title: ClassVar[str] = "output of an encoder block, class token in front"


class ClassFeature(ClassOutput):
    """The same where strategies stand in front of the projector, and it is as wide as tokens."""

    title: ClassVar[str] = "output of an encoder block, class token in front, as wide as the tokens"


class BlockBefore(_Hidden):
    """What entered the encoder block before the one at the site.

    Attributes:
        hidden: `[B, P + N, D]`, of the tokens that are left at the site.
        prefix: P, class and register tokens in front of the patches.
    """

    title: ClassVar[str] = "input of the encoder block before"
    stages: ClassVar[tuple[Stage, ...]] = ("encoder",)


@dataclass(frozen=True)
class Companions(View):
    """The strategy's own companion tokens, after the encoder's blocks.

    Attributes:
        states: `[B, G, D]`.
    """

    title: ClassVar[str] = "companion tokens"
    stages: ClassVar[tuple[Stage, ...]] = ("pre_llm",)
    leads: ClassVar[tuple[str, ...]] = ("G",)

    states: Tensor

    @property
    def sizes(self) -> Mapping[str, int]:
        """B images and G companions."""
        return {"B": self.states.shape[0], "G": self.states.shape[1]}


@dataclass(frozen=True)
class Question(View):
    """What the LLM makes of the question alone, in a pass without images.

    Attributes:
        state: `[B, d_llm]` last hidden state at the last token of the question, for every image.
    """

    title: ClassVar[str] = "pass of the LLM over the question"
    stages: ClassVar[tuple[Stage, ...]] = ("pre_llm",)

    state: Tensor

    @property
    def sizes(self) -> Mapping[str, int]:
        """B images."""
        return {"B": self.state.shape[0]}


@dataclass(frozen=True)
class PromptEmbeddings(View):
    """The text of an image's prompt as the LLM embeds it, before any layer.

    Attributes:
        states: `[B, S, d_llm]` rows of the embedding table, in order, zeros behind their end.
        place: `[B, S]` int64: 1 behind the prompt's last visual token, 0 before it, -1 for padding.
    """

    title: ClassVar[str] = "embedded text of the prompt"
    stages: ClassVar[tuple[Stage, ...]] = ("pre_llm",)
    leads: ClassVar[tuple[str, ...]] = ("S",)

    states: Tensor
    place: Tensor

    @property
    def sizes(self) -> Mapping[str, int]:
        """B images and S text tokens."""
        return {"B": self.states.shape[0], "S": self.states.shape[1]}


BLOCK_VIEWS: frozenset[type[View]] = frozenset(
    {BlockAttention, BlockOutput, BlockBefore, Companions}
)
"""What an encoder with attention and feed-forward halves supplies."""
CLASS_VIEWS: frozenset[type[View]] = frozenset({ClassAttention, ClassOutput, ClassFeature})
"""What it supplies besides if its first token is a class token."""
