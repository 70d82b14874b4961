"""Checkpoints of learned strategies: safetensors with metadata that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenprune.errors import CheckpointError

FORMAT = "tokenprune-strategy"
VERSION = "1"


class Checkpoint(NamedTuple):
    """The contents of a checkpoint whose format, strategy and version are right."""

    path: Path
    facts: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    def whole(self, fact: str) -> int:
        """A positive whole number of the metadata.

        Raises:
            CheckpointError: it is missing or isn't one.
        """
        text = self.facts.get(fact, "")
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise CheckpointError(
                f"its metadata gives '{fact}' as '{text}', which is no positive number.",
                where=str(self.path),
                remedy="Save it again with save_checkpoint().",
            )
        return int(text)


def save(path: Path, module: nn.Module, strategy: str, facts: Mapping[str, int]) -> None:
    """Write a module's parameters, its strategy's name and the numbers that give its shape."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()
    }
    metadata = {"format": FORMAT, "version": VERSION, "strategy": strategy}
    save_file(tensors, path, metadata | {name: str(value) for name, value in facts.items()})


def read(path: Path, strategy: str) -> Checkpoint:
    """Read a checkpoint of a strategy.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, strategy or version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"it can't be read as safetensors: {error}.",
            where=str(path),
            remedy=f"Give a file written by {strategy}'s save_checkpoint().",
        ) from error
    for fact, wanted in (("format", FORMAT), ("strategy", strategy), ("version", VERSION)):
        if facts.get(fact) != wanted:
            raise CheckpointError(
                f"its metadata gives '{fact}' as '{facts.get(fact, '')}', not '{wanted}'.",
                where=str(path),
                remedy=f"Give a file written by {strategy}'s save_checkpoint().",
            )
    return Checkpoint(path, facts, tensors)


def fill(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's tensors, as float32, in place of a module's parameters.

    The module may be on the meta device, so that wrong numbers in a file cost no memory.

    Raises:
        CheckpointError: tensors are missing, unknown, misshapen or not finite.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in checkpoint.tensors.items()}
    wrong = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"its tensor '{name}' is {found.get(name, 'missing')}, "
            f"where {wanted.get(name, 'nothing')} belongs.",
            where=str(checkpoint.path),
        )
    for name, value in checkpoint.tensors.items():
        if not (value.is_floating_point() and torch.isfinite(value).all()):
            raise CheckpointError(
                f"its tensor '{name}' holds something other than finite floats.",
                where=str(checkpoint.path),
            )
    floats = {name: value.float() for name, value in checkpoint.tensors.items()}
    module.load_state_dict(floats, assign=True)
