"""A multimodal LLM that is held to demands, with its adapter and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokenprune.engine.adapters import choose_encoder
from tokenprune.engine.llm.checks import feature_prefix
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.places import Places
from tokenprune.interface.sites import Stage
from tokenprune.interface.trace import ImageTrace
from tokenprune.testing.plain.features import Features
from tokenprune.testing.plain.standing import Shown

Place = tuple[Stage, int | None]


@dataclass(frozen=True)
class MllmSubject:
    """A model of the family with its adapter.

    Attributes:
        adapter: the adapter.
        model: the model.
        prompts: its keyword arguments, prompt by prompt.
    """

    adapter: MllmAdapter
    model: nn.Module
    prompts: Sequence[Mapping[str, Any]]

    @property
    def places(self) -> list[Place]:
        """In front of the LLM, and in front of the last layer that a stage may stand at."""
        spec = self.adapter.spec()
        free = [number for number in range(len(spec.layers)) if number not in spec.fixed_layers]
        return [("pre_llm", None), ("decoder", free[-1])]

    def logits(self, prompt: Mapping[str, Any]) -> Tensor:
        """Of all tokens of a prompt, `[1, T, V]`."""
        found: Tensor = self.model(**prompt).logits
        return found

    def ids(self, prompt: Mapping[str, Any]) -> Tensor:
        """Token ids `[1, T]` of a prompt."""
        found = self.adapter.read_prompt("model", (), dict(prompt)).ids
        assert found is not None, "the adapter reads no token ids from the prompt"
        return found

    def shown(self, images: Sequence[ImageTrace], noted: Features) -> Sequence[Shown]:
        """The pictures of a call: as the adapter placed them, or one placeholder a feature."""
        spec = self.adapter.spec()
        if noted.shown or spec.tower is None:
            return noted.shown
        class_tokens = range(feature_prefix(spec, choose_encoder(spec.tower).spec()))
        return [("image", Places(image.grid, dict.fromkeys(class_tokens))) for image in images]
