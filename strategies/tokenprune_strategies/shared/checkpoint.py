"""Checkpoints of learned strategies: safetensors with metadata that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor, nn

from tokenprune.errors import CheckpointError
from tokenprune.errors.files import check_file
from tokenprune.errors.names import suggestion

FORMAT = "tokenprune-strategy"
VERSION = "1"
BUNDLED = "bundled:"


class Checkpoint(NamedTuple):
    """The contents of a checkpoint whose format, strategy and version are right."""

    path: Path
    facts: Mapping[str, str]
    tensors: Mapping[str, Tensor]


def shipped(strategy: str) -> dict[str, Path]:
    """Checkpoints of a strategy that ship with this package, by the NAME in `bundled:NAME`."""
    folder = Path(str(resources.files("tokenprune_strategies"))) / "weights" / strategy
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def locate(path: Path, strategy: str) -> Path:
    """The file that a plan's `checkpoint` means: itself, or for `bundled:NAME` one that ships.

    Raises:
        CheckpointError: none of that name ships.
    """
    if not str(path).startswith(BUNDLED):
        return path
    name, known = str(path).removeprefix(BUNDLED), shipped(strategy)
    if name not in known:
        raise CheckpointError(
            f"no checkpoint '{name}' of {strategy} ships with tokenprune.",
            where=str(path),
            remedy=suggestion(name, known),
        )
    return known[name]


def save(
    path: Path,
    module: nn.Module,
    strategy: str,
    facts: Mapping[str, str],
    *,
    half: bool = False,
) -> None:
    """Write a module's parameters, its strategy's name and facts about them.

    Args:
        path: the file to write.
        module: what was learned.
        strategy: whose it is.
        facts: metadata as text, the values that give the module's shape among them.
        half: write float16; it is read back as float32.

    Raises:
        CheckpointError: a weight isn't finite, or isn't in float16.
    """
    kind = torch.float16 if half else torch.float32
    tensors = {
        name: value.detach().cpu().to(kind).contiguous()
        for name, value in module.state_dict().items()
    }
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"the tensor '{name}' isn't finite as {kind}.", where=str(path))
    metadata = {"format": FORMAT, "version": VERSION, "strategy": strategy}
    path.write_bytes(_ordered(serialized(tensors, dict(facts) | metadata)))


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its facts in order: written as they come, no two files were equal.

    The file is the header's length (8 bytes), the header (JSON) and the tensors, whose places count
    from the header's end.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[end:]


def read(path: Path, strategy: str) -> Checkpoint:
    """Read a checkpoint of a strategy.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, strategy or version.
    """
    facts, tensors = _opened(path, strategy, tensors=True)
    return Checkpoint(path, facts, tensors)


def read_facts(path: Path, strategy: str) -> Mapping[str, str]:
    """The facts of a checkpoint of a strategy, without its tensors.

    Raises:
        CheckpointError: see `read`.
    """
    return _opened(path, strategy, tensors=False)[0]


def _opened(
    path: Path, strategy: str, *, tensors: bool
) -> tuple[Mapping[str, str], Mapping[str, Tensor]]:
    try:
        check_file(path)  # opening a pipe would wait for ever
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            names = file.keys() if tensors else ()
            found = {name: file.get_tensor(name) for name in names}
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
    return facts, found


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
