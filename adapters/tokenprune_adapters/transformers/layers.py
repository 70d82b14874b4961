"""The decoder layers of an LLM of transformers: where they are, and which can't be served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from tokenprune.errors import UnsupportedModelError
from tokenprune_adapters.shared.arguments import required
from tokenprune_adapters.transformers import layer_names as names
from tokenprune_adapters.transformers.llm_names import POSITIONS


def layers_of(language: nn.Module) -> list[nn.Module]:
    """The layers of an LLM without its head.

    Raises:
        UnsupportedModelError: it has no list of them, as those of GPT-2's time.
    """
    found = getattr(language, "layers", None)
    if not isinstance(found, nn.ModuleList):
        raise UnsupportedModelError(
            f"an LLM of class {type(language).__name__} keeps no list of 'layers'.",
            where="language_model",
            remedy="Supported are LLMs that are built as Llama is.",
        )
    return list(found)


def check_positions(layers: Iterable[nn.Module], where: str) -> None:
    """Refuse layers whose attention computes with position ids, beside the rotary rows.

    Ids of a shortened sequence have gaps, which kernels for packed sequences take for borders. So
    the engine leaves them away, and layers that need them, such as Ministral 3's, which scale
    queries by their position, can't run.

    Args:
        layers: the LLM's layers.
        where: what the LLM is called, for the message.

    Raises:
        UnsupportedModelError: naming the class.
    """
    for layer in layers:
        attention = getattr(layer, names.ATTENTION, None)
        if attention is not None and required(type(attention).forward, POSITIONS):
            raise UnsupportedModelError(
                f"LLM layers of class {type(layer).__name__} compute with position ids beside "
                "their rotary rows.",
                where=where,
                remedy="Use a model whose layers take rotary rows alone.",
            )


def check_types(language: nn.Module, where: str) -> None:
    """Refuse an LLM with layers of a type whose masks the engine can't make.

    Args:
        language: the LLM without head.
        where: what it is called, for the message.

    Raises:
        UnsupportedModelError: naming the types.
    """
    config = language.config
    types = set(getattr(config, names.LAYER_TYPES, None) or ())
    if types - names.MASKED:
        raise UnsupportedModelError(
            f"the LLM {type(language).__name__} has layers of several types "
            f"({', '.join(sorted(types))}).",
            where=where,
            remedy=f"LLMs with layers of {' and '.join(sorted(names.MASKED))} are served.",
        )
    if getattr(config, names.BOTH_WAYS, None):
        raise UnsupportedModelError(
            f"{type(language).__name__} sees both ways, and generates nothing.",
            where=f"{where}.config.{names.BOTH_WAYS}",
            remedy="LLMs that see one way are served.",
        )


def first_of(owner: nn.Module, known: Sequence[str]) -> nn.Module:
    """The first part of a module that is there under one of the names that releases have for it.

    Args:
        owner: the module.
        known: names of attributes, of which it has one.
    """
    found: nn.Module = next(getattr(owner, name) for name in known if hasattr(owner, name))
    return found
