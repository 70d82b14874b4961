"""What an adapter of a multimodal LLM may tell of text, values and positions, if it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.calls import Rotary


class TextAdapter:
    """Methods that an adapter has if its `supplies` name what is computed from them.

    Class attributes:
        name: of the adapter.
    """

    name: ClassVar[str]

    def reader(self, tokenizer: str | None = None) -> Callable[[Tensor], str]:
        """What turns token ids `[T]` into words, special tokens left out; asked for at attach.

        Args:
            tokenizer: folder or hub name of the model's tokenizer, if the plan names one.

        Raises:
            UnsupportedModelError: nothing says where the model's tokenizer is.
            CheckpointError: it is missing or damaged.
        """
        raise UnsupportedModelError(
            "the plan reads the question's words, and this adapter has no tokenizer.",
            where=self.name,
            remedy="Use another strategy with this model.",
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the embedding table, `[...]` -> `[..., d_llm]`; for `PromptEmbeddings`."""
        raise NotImplementedError(f"{type(self).__name__} embeds no text")

    def values(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Values `[B, H_kv, T, d]` of a layer for its input `[B, T, D]`; for `LayerValues`."""
        raise NotImplementedError(f"{type(self).__name__} reads no values")

    def ones(self, layer: nn.Module, hidden: Tensor, rotary: Rotary) -> Tensor:
        """Ones `[B, 1, T, d]`, rotated as queries and keys of a layer are.

        Args:
            layer: the decoder layer.
            hidden: `[B, T, D]` its input.
            rotary: the rotary rows that the layer was called with.
        """
        raise NotImplementedError(f"{type(self).__name__} rotates nothing but queries and keys")
