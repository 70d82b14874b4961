"""What an adapter tells the engine about a family: the few functions that differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.interface.cache_adapter import CacheAdapter
from tokenprune.interface.calls import (
    Arguments,
    Entry,
    Given,
    LayerCall,
    LlmCall,
    LlmOutputs,
    Mask,
    PromptCall,
    Rotary,
    Written,
)
from tokenprune.interface.picture_adapter import PictureAdapter
from tokenprune.interface.signals import BLOCK_VIEWS, CLASS_VIEWS, LLM_VIEWS, View
from tokenprune.interface.sites import Grid
from tokenprune.interface.specs import Demand, EncoderSpec, MllmSpec
from tokenprune.interface.text_adapter import TextAdapter


def class_names(model: nn.Module) -> list[str]:
    """Full names of the model's class and its bases, nearest first."""
    return [f"{c.__module__}.{c.__qualname__}" for c in type(model).__mro__]


class Adapter(ABC):
    """Base of both kinds of adapter.

    Class attributes:
        name: what `attach(..., adapter=NAME)` and listings call it.
        claims: full names of the model classes it serves, compared without importing them.
        supplies: what it can supply for some model of the family; a spec says which of it this
            model has. Signals that need no more are offered by themselves.
    """

    name: ClassVar[str]
    claims: ClassVar[tuple[str, ...]]
    supplies: ClassVar[frozenset[type[View]]] = frozenset()

    def __init__(self, model: nn.Module) -> None:
        """Take the model; refuse what isn't supported, naming the part.

        Raises:
            UnsupportedModelError: a part of the model is of a kind that isn't supported.
        """
        self.model = model

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether the model's class is one this adapter serves."""
        return any(name in cls.claims for name in class_names(model))


class EncoderAdapter(Adapter):
    """A family of vision encoders: where its parts are and the two halves of a block.

    Families without a class token say `supplies = BLOCK_VIEWS`.

    Class attributes:
        whole_blocks: whether blocks run by their own forward on all tokens only. In a pass in which
            tokens leave, all blocks run in halves; in the others signals are computed beside them.
    """

    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS | CLASS_VIEWS
    whole_blocks: ClassVar[bool] = False

    @abstractmethod
    def spec(self) -> EncoderSpec:
        """The encoder as data."""

    def call_grid(self, args: tuple[Any, ...], kwargs: Arguments) -> Grid:
        """The patch grid of one call of `entry`, from its arguments; the default grid if fixed."""
        return self.spec().grid

    def demands(self, args: tuple[Any, ...], kwargs: Arguments) -> Sequence[Demand]:
        """What the values of a call of `entry` have to fulfil.

        The engine looks at them so that no device waits: at once on the CPU, else at the call's
        end. In a compiled graph nobody can be told, so what it gives is NaN instead.
        """
        return ()

    def attention_maps(self, args: tuple[Any, ...], kwargs: Arguments) -> str | None:
        """The name by which a call of `entry` asks for attention maps; None if it doesn't."""
        return None

    @abstractmethod
    def heads(self, block: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projections: `[B, T, D]` -> query, key, value `[B, H, T, d]`.

        The attention is softmax(query key^T / sqrt(d)); other scales are folded into the query.
        """

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Query and key `[B, H, P + N, d]` with the places of their tokens in them.

        For families whose blocks are handed a rotary embedding; the others have nothing to do.

        Args:
            query: as `heads` gives it, prefix first.
            key: the same.
            args: what the block was called with behind the hidden states, of these tokens.
            kwargs: the same, by name.
        """
        return query, key

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """What a block is to be called with behind the hidden states when patches were removed.

        For families whose blocks take something of every patch: rotary rows or a mask.

        Args:
            args: what the encoder calls the block with, made for all N patches.
            kwargs: the same, by name.
            index: `[B, K]` patch whose place each token that is left holds.
        """
        return args, kwargs

    def run(
        self,
        original: Callable[..., Any],
        hidden: Tensor,
        args: tuple[Any, ...],
        kwargs: Arguments,
    ) -> Tensor:
        """What a block's own forward makes of `[B, P + K, D]`, the prefix in front in both.

        For families whose blocks have another order or form of states; `overrides` then has what
        makes of a call of a block one with states `[B, P + K, D]` in front.

        Args:
            original: the block's own forward.
            hidden: the states.
            args: what the block is called with behind the states.
            kwargs: the same, by name.
        """
        made: Tensor = original(hidden, *args, **kwargs)
        return made

    @abstractmethod
    def join(self, block: nn.Module, hidden: Tensor, attended: Tensor) -> Tensor:
        """Residual plus output projection: `[B, T, D]` and heads `[B, H, T, d]` -> `[B, T, D]`."""

    @abstractmethod
    def feed_forward(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Second half of a block, residual included: `[B, T, D]` -> `[B, T, D]`."""

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """Methods to wrap on this model's instances while a plan is attached, by owner and name.

        Each function is called with the original bound method and the call's own arguments. The
        engine installs them at attach, around its own wrappers, and takes them back at detach.
        """
        return {}

    def weighted_pool(self, weight: Tensor) -> None:
        """Told after the last block: sizes `[B, T]`, prefix included, for a size-weighted mean.

        Families that average tokens use it in their pooling; the others ignore it.
        """

    def own_hook(self, hook: Callable[..., Any]) -> bool:
        """Whether a forward hook on a module inside is one that the library itself puts there.

        Asked before a pass is recorded, since replays run no hooks. True only if the hook acts on
        nothing but the output of the call of `entry`, unless `listened` says otherwise.
        """
        return False

    def listened(self) -> bool:
        """Whether hooks of the library collect states for a running call around `entry`."""
        return False


class MllmAdapter(PictureAdapter, TextAdapter, CacheAdapter, Adapter):
    """A family of multimodal LLMs: where its parts are, and how its calls are read and written.

    The model is called as ever; the engine shortens the sequence around `spec().language_model`
    and hands back states of the unpruned length, so `generate` needs nothing from an adapter.

    Class attributes:
        towers: names of the encoder adapters whose models are its towers, for listings; empty
            means that any may be, None that none is followed.
        withholds: what of its towers doesn't reach stages between tower and LLM.
        behind: whether its towers have blocks behind the last one that is read, for listings.
        renumbers: whether survivors can be renumbered, for listings; see `MllmSpec.renumbers`.
        projected: whether stages between tower and LLM see what the projector put out, also where
            their strategy would stand in front of it; for listings.
        limits: what can't be done with its pictures, in words, for listings.
    """

    supplies: ClassVar[frozenset[type[View]]] = LLM_VIEWS
    towers: ClassVar[tuple[str, ...] | None] = ()
    withholds: ClassVar[frozenset[type[View]]] = frozenset()
    behind: ClassVar[bool] = True
    renumbers: ClassVar[bool] = True
    projected: ClassVar[bool] = False
    limits: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def spec(self) -> MllmSpec:
        """The model as data."""

    @abstractmethod
    def read_prompt(self, entry: Entry, args: tuple[Any, ...], kwargs: Arguments) -> PromptCall:
        """What a call of the whole model through `entry` says; nothing is refused here."""

    def write_prompt(
        self, entry: Entry, call: PromptCall, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """The arguments of a call of the whole model with the mask and the cache of `call`.

        Needed where `MllmSpec.masks` is True, and for caches of fixed length.
        """
        raise NotImplementedError(f"{type(self).__name__} writes no calls of the whole model")

    @abstractmethod
    def read_llm(self, args: tuple[Any, ...], kwargs: Arguments) -> LlmCall:
        """What a call of `spec().language_model` says; nothing is refused here."""

    @abstractmethod
    def write_llm(self, call: LlmCall, args: tuple[Any, ...], kwargs: Arguments) -> Written:
        """The arguments of a call of the LLM, with what `call` says in place of what they said."""

    @abstractmethod
    def read_outputs(self, outputs: Any) -> LlmOutputs:
        """The states that the LLM put out.

        Raises:
            UnsupportedCallError: outputs of a form that can't be read.
        """

    @abstractmethod
    def write_outputs(self, new: LlmOutputs, outputs: Any) -> Any:
        """The LLM's outputs, with the states of `new` in place of theirs."""

    @abstractmethod
    def read_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> LayerCall:
        """What a call of one of `spec().layers` says."""

    @abstractmethod
    def write_layer(
        self, layer: nn.Module, call: LayerCall, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """The arguments of a layer, with what `call` says in place of what they said."""

    def layer_states(self, states: Tensor) -> Tensor:
        """States that a layer puts out, in the order of `LayerCall.hidden`."""
        return states

    @abstractmethod
    def run_text(self, ids: Tensor) -> Tensor:
        """The LLM's last states for text alone, without cache: `[B, T]` -> `[B, T, d_llm]`."""

    def no_query_key(self, layer: nn.Module) -> str | None:
        """Why query and key of a layer can't be had, as the end of a sentence.

        Of such a layer, neither `projections` nor what follows it is asked for; plans that read its
        attention are refused at attach.

        Returns:
            For example "has linear attention, without query and key"; None if they can be had.
        """
        return None

    def no_cached_heads(self, layer: nn.Module) -> str | None:
        """Why a KV cache doesn't hold a layer's keys as `query_key` gives them; None if it does.

        The end of a sentence, as of `no_query_key`. Further turns of a chat are refused then if a
        plan reads the layer's attention. An adapter that reads no caches says so.
        """
        return "has a cache that the model's adapter doesn't read"

    @abstractmethod
    def projections(self, layer: nn.Module) -> Mapping[str, nn.Module]:
        """The submodules of a layer whose outputs `query_key` reads, by a name of its choice."""

    @abstractmethod
    def query_key(
        self, layer: nn.Module, projections: Mapping[str, Tensor], rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        """Query `[B, H, T, d]` and key `[B, H_kv, T, d]` of a layer, rotated.

        The attention is softmax(query key^T / sqrt(d)), with logits capped as `softcap` says; other
        scales are folded into the query. What a query may see is said by the layer's mask.

        Args:
            layer: the decoder layer.
            projections: what the submodules named by `projections` put out.
            rotary: the rotary rows that the layer was called with; None for query and key without
                rotation.
        """

    def softcap(self, layer: nn.Module) -> float | None:
        """The c of logits that a layer caps to c tanh(logit / c); None where it doesn't."""
        return None

    def seen(self, layer: nn.Module, call: LayerCall) -> Mask:
        """What queries of a prompt see in a layer, where its attention sees less than its mask.

        Args:
            layer: the decoder layer.
            call: what it is called with.
        """
        return call.mask

    @abstractmethod
    def project(self, layer: nn.Module, hidden: Tensor) -> Mapping[str, Tensor]:
        """What the submodules named by `projections` would put out for a layer's input.

        Args:
            layer: the decoder layer.
            hidden: `[B, T, D]` its input, in front of its first norm.
        """

    @abstractmethod
    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm behind the LLM's last layer: `[..., D]` -> `[..., D]`."""

    @abstractmethod
    def counted(self, rotary: Rotary, first: Tensor) -> Rotary:
        """The rotary rows with positions counted from one slot of each row of the batch.

        Args:
            rotary: the rows that a layer was called with; may be shared by the batch.
            first: `[B]` slots whose position is 0 then.
        """

    @abstractmethod
    def rotary(self, layer: nn.Module, hidden: Tensor, positions: Tensor) -> Rotary:
        """The rotary rows of a layer for position ids `[B, T]`.

        Args:
            layer: the decoder layer.
            hidden: `[B, T, D]` its input, whose type and device the rows get.
            positions: `[B, T]`.
        """

    @abstractmethod
    def padding_masks(self) -> bool:
        """Whether the layers' attention takes masks `[B, T]` only (FlashAttention)."""

    def ignores_positions(self) -> bool:
        """Whether no layer's attention looks at position ids, whose gaps some take for borders.

        False unless an adapter knows better: then the ids are withheld from every layer of an LLM
        whose input is shortened.
        """
        return False

    def maskless(self) -> str | None:
        """What the layers' attention is called, if it is given no masks; None if it is.

        Such an attention sees padding, and can't be shown a batch whose rows are left unequally
        many tokens. None unless an adapter knows better.
        """
        return None

    def additive_masks(self) -> torch.dtype | None:
        """The type of masks that layers add to logits; None where masks are bool."""
        return None

    def padding(self, args: tuple[Any, ...], kwargs: Arguments) -> Any:
        """The mask in a call of `MllmSpec.prepares`, see `PromptCall.mask`."""
        raise NotImplementedError(f"{type(self).__name__} reads no call of generate's parts")
