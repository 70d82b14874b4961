"""LLMs whose layers hand on several streams `[B, T, A, D]` of every token, mixed by themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenprune.interface.calls import LlmOutputs
from tokenprune_adapters.transformers.families import FamilyAdapter

MEAN = "hc_head"
"""Of the LLM: what makes one state of streams `[B, T, A, D]`, in front of the last norm."""


class HyperConnectedAdapter(FamilyAdapter):
    """Base of families whose strategies inside the LLM see streams side by side.

    What merges tokens merges all of their streams.
    """

    def read_outputs(self, outputs: Any) -> LlmOutputs:
        """What the LLM put out; states of layers with their streams side by side."""
        found = super().read_outputs(outputs)
        states = found.states and tuple(
            state if state is None else state.flatten(2) for state in found.states
        )
        return LlmOutputs(found.last, states)

    def write_outputs(self, new: LlmOutputs, outputs: Any) -> Any:
        """The LLM's outputs with new states, in streams where theirs were."""
        before = super().read_outputs(outputs).states or ()
        states = new.states and tuple(
            state if state is None or old is None else state.view(*state.shape[:2], *old.shape[2:])
            for state, old in zip(new.states, before, strict=True)
        )
        return super().write_outputs(LlmOutputs(new.last, states), outputs)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm behind the LLM's last layer, of what its streams become."""
        streams = hidden.reshape(1, -1, self._config.hc_mult, self._config.hidden_size)
        one: Tensor = getattr(self.spec().language_model, MEAN)(streams)
        return super().final_norm(one.view(*hidden.shape[:-1], -1))
