"""Attention functions that transformers' modules look up by name, and to which users add their own.

Nothing here imports transformers. `tests/cases/test_attention_functions.py` checks each name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from tokenprune.errors import UnsupportedCallError
from tokenprune_adapters.shared.refusals import of_library, unhung
from tokenprune_adapters.transformers import llm_names as names

FUNCTIONS = "ALL_ATTENTION_FUNCTIONS"
"""What the files of models call the table of attention functions."""
MASKS = "transformers.masking_utils", "ALL_MASK_ATTENTION_FUNCTIONS"
"""The table of functions that make the masks of an attention, by the same names."""
Functions = Mapping[str, Callable[..., Any]]
"""A table of attention functions: others may be put into it, but it stays the same object."""
_HUB = "/"
"""In names of kernels from the hub, which compute what those that ship do."""


def implementation(module: Any) -> str | None:
    """Name of the attention function that a module calls, by its config; None without one."""
    config = getattr(module, names.MODEL_CONFIG, None)
    found: str | None = getattr(config, names.IMPLEMENTATION, None)
    return found


def functions(attention: nn.Module) -> Functions:
    """The table in which an attention looks its function up; an empty one if it has none.

    Adapters ask once: a compiler wraps all modules that are imported, each time it is asked.
    """
    table: Functions = getattr(sys.modules[type(attention).__module__], FUNCTIONS, {})
    return table


def refuse_registered(attention: nn.Module, block: nn.Module, table: Functions) -> None:
    """Refuse an attention function of the user's own, which a block's halves don't call.

    Args:
        attention: the attention of a block, or what wraps it there.
        block: the block.
        table: see `functions`.

    Raises:
        UnsupportedCallError: naming the function.
    """
    name = implementation(attention)
    if name is None or _HUB in name:
        return
    if name in table and not of_library(table[name]):
        raise UnsupportedCallError(
            f"the attention function '{name}' is a user's own, and a plan that acts in this block "
            "or reads its attention computes softmax attention instead.",
            where=type(block).__name__,
            remedy="Call set_attn_implementation('sdpa') on the vision tower, or detach the plan "
            "for this call.",
        )


def loops(
    attention: nn.Module, table: Functions, segmented: Sequence[str] = ("sdpa", "eager")
) -> bool:
    """Whether an attention of a packed tower calls its function segment by segment.

    Args:
        attention: the attention of a block.
        table: see `functions`.
        segmented: names of functions that take one segment at a time; others take borders.
    """
    name = implementation(attention)
    if name is None or name not in segmented or not unhung(attention):
        return False
    return name not in table or of_library(table[name])


def maskless(language: nn.Module) -> str | None:
    """Name of an LLM's attention function if no masks are made for it; None if they are."""
    name, (module, table) = implementation(language), MASKS
    known = getattr(sys.modules[module], table)
    return None if name is None or name in known else name
