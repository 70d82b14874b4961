"""Gemma 3n: several streams of every token in the LLM, in front of it a convolutional tower."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, LayerCall, LlmOutputs, Written
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers.families import Family, FamilyAdapter
from tokenprune_adapters.transformers.family_rows import HEARS
from tokenprune_adapters.transformers.picture_kinds import images
from tokenprune_adapters.transformers.streams import apart, beside, united
from tokenprune_adapters.transformers.unfollowed_families import CONVOLUTIONAL

MODEL = "transformers.models.gemma3n.modeling_gemma3n"


class Gemma3nAdapter(FamilyAdapter):
    """Gemma3nForConditionalGeneration.

    Its layers hand on streams `[A, B, T, D]`, which strategies inside the LLM see side by side:
    what merges tokens merges all of their streams.
    """

    name: ClassVar[str] = "gemma3n"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.Gemma3nForConditionalGeneration",)
    family: ClassVar[Family] = Family(
        images(places.square, unfollowed=CONVOLUTIONAL),
        joins=True,
        per_token={"per_layer_inputs": 1, "per_layer_input": 1},
        notes=(HEARS,),
    )
    renumbers: ClassVar[bool] = False
    limits: ClassVar[tuple[str, ...]] = family.limits

    def read_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> LayerCall:
        """What a call of a layer says, with streams `[B, T, A, D]`."""
        call = super().read_layer(layer, args, kwargs)
        return replace(call, hidden=self.layer_states(call.hidden))

    def layer_states(self, states: Tensor) -> Tensor:
        """States that a layer puts out, with streams `[B, T, A, D]`."""
        return states.movedim(0, 2)

    def write_layer(
        self, layer: nn.Module, call: LayerCall, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """A layer's arguments as `call` says."""
        call = replace(call, hidden=call.hidden.movedim(2, 0))
        return super().write_layer(layer, call, args, kwargs)

    def read_outputs(self, outputs: Any) -> LlmOutputs:
        """What the LLM put out; states of layers with their streams side by side."""
        found = super().read_outputs(outputs)
        states = found.states and tuple(
            state if state is None or state.dim() == 3 else beside(state) for state in found.states
        )
        return LlmOutputs(found.last, states)

    def write_outputs(self, new: LlmOutputs, outputs: Any) -> Any:
        """The LLM's outputs with new states, in streams where theirs were."""
        before = super().read_outputs(outputs).states or ()
        states = new.states and tuple(
            state if state is None or old is None or old.dim() == 3 else self._apart(state)
            for state, old in zip(new.states, before, strict=True)
        )
        return super().write_outputs(LlmOutputs(new.last, states), outputs)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm behind the LLM's last layer, of what its streams become."""
        return super().final_norm(united(self.spec().language_model, hidden))

    def _apart(self, hidden: Tensor) -> Tensor:
        return apart(hidden, self._config.altup_num_inputs)
