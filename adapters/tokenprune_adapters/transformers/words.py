"""Token ids of a prompt as words, by the tokenizer that belongs to a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune_adapters.loaders.folders import load_tokenizer
from tokenprune_adapters.loaders.hub import checkpoint_folder

_LOADED_FROM = "name_or_path"
"""Where transformers notes what a model was loaded from; empty for one built from a config."""


def reader(model: nn.Module, tokenizer: str | None) -> Callable[[Tensor], str]:
    """What turns token ids `[T]` into words, without special tokens.

    Args:
        model: the multimodal LLM.
        tokenizer: folder or hub name of its tokenizer; None for where it was loaded from.

    Raises:
        UnsupportedModelError: neither is known.
        CheckpointError: there is no tokenizer, or a damaged one.
    """
    name = tokenizer or str(getattr(model, _LOADED_FROM, "") or "")
    if not name:
        raise UnsupportedModelError(
            "the plan reads the question's words, and nothing says where the model's tokenizer is: "
            "the model wasn't loaded from a folder or the hub.",
            where=type(model).__name__,
            remedy="Write tokenizer: FOLDER, or a hub name, into the stage's params.",
        )
    found: Any = load_tokenizer(checkpoint_folder(name))

    def read(ids: Tensor) -> str:
        return str(found.decode(ids.tolist(), skip_special_tokens=True))

    return read
