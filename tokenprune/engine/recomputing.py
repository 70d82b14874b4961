"""Gradient checkpointing: what the backward pass runs a second time."""

from __future__ import annotations

import torch
from torch import nn
from torch.compiler import is_compiling

from tokenprune.errors import UnsupportedCallError


def refuse_around(model: nn.Module, whose: str) -> None:
    """Refuse gradient checkpointing around layers or blocks; inside of their forward it is fine.

    A checkpoint inside of a layer's own forward runs that layer again, on the tokens that it was
    called with. One around the layer also runs again what a plan does in front of it, when the call
    is over and what was decided in it is gone.

    Args:
        model: an MLLM or an encoder.
        whose: which of the two, for the message.

    Raises:
        UnsupportedCallError: naming the class of the layer.
    """
    if not model.training:
        return
    around = next((module for module in model.modules() if _is_around(module)), None)
    if around is not None:
        raise UnsupportedCallError(
            f"gradient checkpointing stands around the forward of {type(around).__name__}, and the "
            f"backward pass can't repeat what a plan does in front of it in a pruned {whose}.",
            where=type(model).__name__,
            remedy="Call gradient_checkpointing_disable() before training with a plan, or use a "
            "release whose checkpoints are inside of the layers' forward, such as transformers "
            "5.23 and newer.",
        )


def refuse_repeated(part: str, where: nn.Module) -> None:
    """Refuse a part of a model that runs again in a backward pass, outside of its pruned call.

    Args:
        part: what runs, for the message.
        where: what it is a part of.

    Raises:
        UnsupportedCallError: a backward pass is running.
    """
    if not is_compiling() and torch._C._current_graph_task_id() != -1:
        raise UnsupportedCallError(
            f"activation checkpointing runs {part} again in the backward pass, where what its call "
            "left of the tokens isn't known any more.",
            where=type(where).__name__,
            remedy="Checkpoint the whole model, or train without activation checkpointing.",
        )


def _is_around(module: nn.Module) -> bool:
    asked = module.training and getattr(module, "gradient_checkpointing", False)
    return bool(asked) and type(module).__call__ is not nn.Module.__call__
