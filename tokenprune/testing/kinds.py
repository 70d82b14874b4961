"""Tiny models, which adapters bring so that strategies can be tried in a library's own code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from torch import Tensor, nn

from tokenprune.interface.trainable import ModelShape
from tokenprune.plugins.hookspecs import hookspec
from tokenprune.plugins.host import host
from tokenprune.plugins.kinds import Kind, lacking, wrong_name


class TinyModel(Protocol):
    """A multimodal LLM with random weights, small enough for a test.

    Attributes:
        name: how reports call it.
        library: the package that it needs.
    """

    name: str
    library: str

    def build(self, shape: ModelShape) -> nn.Module:
        """The model in eval mode; equal shapes give equal weights."""
        ...

    def inputs(self, shape: ModelShape, texts: Sequence[int]) -> dict[str, Tensor]:
        """Keyword arguments of its call, padded on the left.

        Args:
            shape: that of the model.
            texts: for every prompt the number of text tokens, at least two; one picture stands
                behind the first. A prompt of a length is always the same.
        """
        ...


@hookspec
def register_tiny_models(register: Callable[[TinyModel], None]) -> None:
    """Call `register(model)` for every tiny model that `tokenprune.testing` may use."""


def _wrong(given: Any) -> str:
    return lacking(given, "name", "library", "build", "inputs") or wrong_name(given)


TINY_MODELS: Kind[TinyModel] = Kind("tiny model", register_tiny_models, _wrong)


def tiny_models() -> list[TinyModel]:
    """Those whose library is installed."""
    found = host().things(TINY_MODELS).values()
    return [model for model in found if find_spec(model.library) is not None]
