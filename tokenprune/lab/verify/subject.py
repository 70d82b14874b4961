"""The model under test with its samples: how it is called, one sample at a time or as a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.adapters import choose_adapter, choose_encoder
from tokenprune.engine.llm.checks import feature_prefix
from tokenprune.interface.adapter import EncoderAdapter, MllmAdapter
from tokenprune.interface.loading import LoadedModel
from tokenprune.interface.specs import MllmSpec
from tokenprune.lab.data.opening import opened
from tokenprune.lab.data.question import Question
from tokenprune.lab.verify import names
from tokenprune.testing.plain.standing import Shown, Stand, stands_of


@dataclass(frozen=True)
class VerifiedModel:
    """A loaded model and the samples that it is verified on.

    Attributes:
        loaded: the model with its loader's functions.
        samples: pictures with questions; encoders look at the pictures only.
        adapter: the model's family.
        tower: the family of its vision encoder; None where that isn't followed.
        used: blocks of the encoder that are read; 0 where it isn't followed.
        new_tokens: tokens that are generated.
    """

    loaded: LoadedModel
    samples: Sequence[Question]
    adapter: EncoderAdapter | MllmAdapter
    tower: EncoderAdapter | None
    used: int
    new_tokens: int

    @classmethod
    def of(cls, loaded: LoadedModel, samples: Sequence[Question], new_tokens: int) -> VerifiedModel:
        """Find the model's adapters.

        Raises:
            UnsupportedModelError: no adapter serves the model.
        """
        adapter = choose_adapter(loaded.model)
        if isinstance(adapter, EncoderAdapter):
            used = adapter.spec().used
            return cls(loaded, samples, adapter, adapter, used, new_tokens)
        spec = adapter.spec()
        if spec.tower is None:
            return cls(loaded, samples, adapter, None, 0, new_tokens)
        tower = choose_encoder(spec.tower)
        used = tower.spec().used if spec.used is None else spec.used
        return cls(loaded, samples, adapter, tower, used, new_tokens)

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.loaded.model

    @property
    def mllm(self) -> MllmSpec | None:
        """The multimodal LLM as data; None for an encoder."""
        return self.adapter.spec() if isinstance(self.adapter, MllmAdapter) else None

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.model.parameters()).dtype

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches of an image that an LLM sees too."""
        spec, tower = self.mllm, self.tower
        return 0 if spec is None or tower is None else feature_prefix(spec, tower.spec())

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The encoder's used blocks."""
        return () if self.tower is None else self.tower.spec().blocks[: self.used]

    @property
    def first_part(self) -> nn.Module:
        """The first block of the encoder, or the LLM's first layer where none is followed."""
        return self.blocks[0] if self.mllm is None or self.blocks else self.mllm.layers[0]

    @property
    def last_part(self) -> nn.Module:
        """The last layer of the LLM, or the last used block of an encoder."""
        return self.blocks[-1] if self.mllm is None else self.mllm.layers[-1]

    def inputs(self, samples: Sequence[Question]) -> Any:
        """What the model is called with for a batch, in its dtype."""
        pictures = [opened(one.image) for one in samples]
        return self._cast(self.loaded.inputs(pictures, [one.text for one in samples]))

    def call(self, inputs: Any) -> Tensor:
        """Logits `[B, T, V]` of an LLM, `[B, C]` of a classifier, embeddings of a dual encoder."""
        return names.logits_of(self.loaded.call(self.model, inputs))

    def generate(self, inputs: Any) -> tuple[Tensor, list[Tensor]]:
        """Prompt and new tokens, and the logits of every step."""
        return names.greedy(self.model, inputs, self.new_tokens)

    def outputs(self, inputs: Any) -> list[Tensor]:
        """What a call puts out, and what greedy generation does."""
        found = [self.call(inputs)]
        if self.mllm is not None:
            tokens, steps = self.generate(inputs)
            found += [tokens, *steps]
        return found

    def stands(self, inputs: Any, shown: Sequence[Shown]) -> list[Stand]:
        """Where the pictures of one prompt stand in it."""
        assert self.mllm is not None
        return stands_of(inputs[names.PROMPT][0], self.mllm.placeholders, shown)

    def _cast(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return {name: self._cast(value) for name, value in inputs.items()}
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            return inputs.to(self.dtype)
        return inputs


@contextmanager
def widened(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Run the model in another floating-point type; afterwards every tensor is what it was."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [(one, one.data) for one in tensors if one.is_floating_point()]
    try:
        for one, data in before:
            one.data = data.to(dtype)
        yield
    finally:
        for one, data in before:
            one.data = data
