"""What signals inside the LLM are computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.signals.attention import Received, received, visible
from tokenprune.interface.signals.views import Question, View
from tokenprune.interface.sites import Stage
from tokenprune.ops import attention_rows


@dataclass(frozen=True)
class PromptText(View):
    """Where the text of the prompts stands in the sequence in front of an LLM layer.

    Attributes:
        hidden: `[B, T, D]` the layer's input, by slot of the sequence at hand.
        valid: `[B, T]` False for padding.
        there: `[B, T]` True for text of the prompt that is still there.
        behind: `[B, T]` True behind the place of the prompt's last visual token.
        last: `[B]` slot of the last prompt token.
        visual: `[B, T]` True for visual tokens that are still there, separators included.
    """

    title: ClassVar[str] = "text of the prompt"
    stages: ClassVar[tuple[Stage, ...]] = ("decoder",)
    leads: ClassVar[tuple[str, ...]] = ("N", "S")

    hidden: Tensor
    valid: Tensor
    there: Tensor
    behind: Tensor
    last: Tensor
    visual: Tensor

    @property
    def sizes(self) -> Mapping[str, int]:
        """B prompts of T tokens; a value per token is given for every slot of the sequence."""
        return {"B": self.hidden.shape[0], "N": self.hidden.shape[1]}

    @cached_property
    def asking(self) -> Tensor:
        """`[B, T]` text behind the last visual token; where there is none, the last prompt token.

        The latter is ours: prompts that end with an image have no question.
        """
        asking = self.there & self.behind
        slots = torch.arange(asking.shape[1], device=asking.device)
        fallback = slots == self.last[:, None]
        return torch.where(asking.any(dim=1, keepdim=True), asking, fallback)

    @cached_property
    def prompt(self) -> Tensor:
        """`[B, T]` all tokens up to the last prompt token, without padding."""
        slots = torch.arange(self.valid.shape[1], device=self.valid.device)
        return self.valid & (slots <= self.last.to(self.valid.device)[:, None])

    @cached_property
    def slots(self) -> tuple[Tensor, Tensor]:
        """Slots of the text in order, and where they are not padding, `[B, S]` both."""
        order = torch.sort((~self.there).to(torch.int8), dim=1, stable=True).indices
        order = order[:, : int(self.there.sum(dim=1).max())]
        return order, self.there.gather(1, order)

    def pick(self, values: Tensor, padding: int = 0) -> Tensor:
        """Values of the text tokens in order, right-padded: `[B, T, ...]` -> `[B, S, ...]`."""
        order, real = (part.to(values.device) for part in self.slots)
        rows = torch.arange(order.shape[0], device=order.device)
        lost = ~real.view(*real.shape, *[1] * (values.ndim - 2))
        return values[rows[:, None], order].masked_fill(lost, padding)


class BesideText(View):
    """Base of views of the sequence in front of an LLM layer, in which the prompts' text stands.

    Attributes:
        text: where it stands, and the layer's input.
    """

    stages: ClassVar[tuple[Stage, ...]] = ("decoder",)
    leads: ClassVar[tuple[str, ...]] = ("N", "S")

    text: PromptText

    @property
    def sizes(self) -> Mapping[str, int]:
        """B prompts of T tokens; a value per token is given for every slot of the sequence."""
        return self.text.sizes


Ahead = Callable[[], tuple[Tensor, Tensor]]
"""Gives the keys `[B, H_kv, P, d]` in a layer's cache, rotated as the layer's, and `[B, P]` False
for padding among them."""

Rotation = Literal["layer", "counted", "none", "ones"]
"""How queries and keys of an LLM layer are rotated; see `LayerAttention`."""


@dataclass(frozen=True)
class LayerAttention(BesideText):
    """The attention of an LLM layer.

    Of a further turn of a chat, T are the turn's own tokens. Those in the cache are keys of their
    softmax rows, too.

    Attributes:
        heads: gives query `[B, H, T, d]` and key `[B, H_kv, T, d]` of a rotation.
        text: where the text of the prompts stands in the sequence.
        mask: `[B or 1, T, T]` True where a query sees a key, so windows and images that see both
            ways are in it; None for causal attention.
        softcap: the c of logits that are capped to c tanh(logit / c); None where they aren't.
        rotation: of `query` and `key`: by the `layer`'s own position ids; `counted` from the first
            token of each prompt, so that padding in front changes no value; or `none`. With `ones`
            they are ones, rotated as the layer's: what position alone makes of them.
        ahead: of a further turn of a chat, see `Ahead`; None for a whole prompt.
    """

    heads: Callable[[Rotation], tuple[Tensor, Tensor]]
    text: PromptText
    mask: Tensor | None = None
    softcap: float | None = None
    rotation: Rotation = "layer"
    ahead: Ahead | None = None

    @cached_property
    def _projected(self) -> tuple[Tensor, Tensor]:
        return self.heads(self.rotation)

    @property
    def query(self) -> Tensor:
        """`[B, H, T, d]`; attention is softmax(query key^T / sqrt(d)), but see `rows`."""
        return self._projected[0]

    @property
    def key(self) -> Tensor:
        """`[B, H_kv, T, d]`; H is a multiple of H_kv."""
        return self._projected[1]

    @cached_property
    def unrotated(self) -> LayerAttention:
        """The same layer's attention without rotary embeddings."""
        return replace(self, rotation="none")

    @cached_property
    def counted(self) -> LayerAttention:
        """The same with positions counted from the first token of each prompt."""
        return replace(self, rotation="counted")

    @cached_property
    def from_question(self) -> Received:
        """What every token receives from the question, computed once for all signals."""
        return self.received(self.text.asking)

    def received(self, asking: Tensor) -> Received:
        """What every token receives from some queries; `asking` `[B, T]` is True for them."""
        return received(asking.to(self.query.device), self.rows)

    def rows(self, slots: Tensor, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Softmax rows of some queries, mask and capped logits heeded.

        Args:
            slots: `[B, R]` slots of the queries.
            among: `[B, T]` True for the keys that the softmax is taken over; default all. A query
                that sees none of them sees all that it sees else.

        Returns:
            float32 `[B, H, R, T]`, each row summing to 1, and `[B, R, T]` True for what each query
            sees. Padding in front of everything sees everything. In a further turn of a chat, keys
            in the cache have the rest of the 1, unless `among` names others.

        Raises:
            UnsupportedCallError: keys in a cache are rotated as the layer's, and others are wanted.
        """
        slots = slots.to(self.query.device)
        seen = visible(slots, self.text.valid, self.mask)
        if among is not None:
            some = seen & among.to(seen.device)[:, None]
            seen = torch.where(some.any(dim=-1, keepdim=True), some, seen)
        pick = slots[:, None, :, None].expand(-1, self.query.shape[1], -1, self.query.shape[3])
        picked = self.query.gather(2, pick)
        if self.ahead is None or among is not None:
            return attention_rows(picked, self.key, seen=seen, softcap=self.softcap), seen
        front, valid = self._ahead()
        wide = torch.cat((valid[:, None].expand(-1, seen.shape[1], -1), seen), dim=-1)
        key = torch.cat((front, self.key), dim=2)
        rows = attention_rows(picked, key, seen=wide, softcap=self.softcap)
        return rows[..., front.shape[2] :], seen

    def _ahead(self) -> tuple[Tensor, Tensor]:
        """Keys in the cache, and which of them aren't padding, where the turn's own are."""
        assert self.ahead is not None
        if self.rotation != "layer":
            raise UnsupportedCallError(
                "keys of earlier turns stand in the KV cache rotated as the layer's, and softmax "
                f"rows of another rotation ('{self.rotation}') are asked for.",
                where="signal",
                remedy="Read rows of the layer's own rotation, or pass the whole conversation "
                "without a cache.",
            )
        front, valid = self.ahead()
        return front.to(self.key), valid.to(self.key.device)


class LayerBefore(LayerAttention):
    """The attention of the LLM layer before the site, over the sequence that is left there.

    Where that layer has no query and key, as in linear attention, it is that of the last one
    before the site that has.
    """

    title: ClassVar[str] = "attention of the LLM layer before"


class LayerAhead(LayerAttention):
    """The attention that the LLM layer at the site would compute."""

    title: ClassVar[str] = "attention of the LLM layer ahead"


@dataclass(frozen=True)
class LayerValues(BesideText):
    """The values of the attention that `LayerBefore` is of, over the sequence that is left there.

    Attributes:
        values: gives `[B, H_kv, T, d]`, by slot of the sequence; they aren't rotated.
        text: where the text of the prompts stands in the sequence.
    """

    title: ClassVar[str] = "values of the LLM layer before"

    values: Callable[[], Tensor]
    text: PromptText

    @cached_property
    def joined(self) -> Tensor:
        """`[B, T, C]` those of all heads side by side."""
        return self.values().transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class LayerInput(BesideText):
    """What entered the LLM layer before the site, of the tokens that are left there.

    Attributes:
        hidden: `[B, T, D]`, by slot of the sequence.
        text: where the text of the prompts stands in the sequence, and the states at the site.
    """

    title: ClassVar[str] = "input of the LLM layer before"

    hidden: Tensor
    text: PromptText


@dataclass(frozen=True)
class OutputNorm(BesideText):
    """What the LLM would put out in front of a layer: the states through its final norm.

    Attributes:
        norm: the norm behind the last layer, `[..., D]` -> `[..., D]`.
        text: where the text of the prompts stands in the sequence, and the states.
    """

    title: ClassVar[str] = "final norm of the LLM"

    norm: Callable[[Tensor], Tensor]
    text: PromptText

    @cached_property
    def states(self) -> Tensor:
        """`[B, T, D]`, by slot of the sequence."""
        return self.norm(self.text.hidden)


LLM_VIEWS: frozenset[type[View]] = frozenset(
    {LayerBefore, LayerAhead, LayerInput, OutputNorm, PromptText, Question}
)
"""What an LLM of any adapter supplies; some supply `PromptEmbeddings` and `LayerValues` too."""
