"""What all loaders do with checkpoint files and pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tokenprune.errors import CheckpointError
from tokenprune.errors.files import check_file, reason

if TYPE_CHECKING:
    from PIL.Image import Image


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of the files, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as handle:
            while chunk := handle.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def hash_named(files: Iterable[Path]) -> str:
    """SHA-256 over the names of the files and their contents: each says something by its name."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {hash_files([path])}\n".encode())
    return digest.hexdigest()


def load_strictly(model: nn.Module, file: Path) -> None:
    """Load a safetensors file whose keys and shapes must be the model's own.

    Raises:
        CheckpointError: the file is damaged, no safetensors, or of another model.
    """
    try:
        check_file(file)
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the file is no readable safetensors checkpoint ({reason(error)}).",
            where=str(file),
            remedy="Pass a complete .safetensors file; pickled checkpoints are not read.",
        ) from error
    problems = _mismatches(model, state)
    if problems:
        raise CheckpointError(
            f"the weights are not those of this model: {'; '.join(problems)}.",
            where=str(file),
            remedy="Pass the checkpoint of the model that --model names.",
        )
    model.load_state_dict(state)


def _mismatches(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    own = model.state_dict()
    shapes = [
        f"{key} is {list(state[key].shape)} and not {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
    }
    return [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (*kinds.items(), ("misshapen", shapes))
        if keys
    ]


def to_picture(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image:
    """Undo the normalisation of one picture: `[3, H, W]` -> RGB."""
    from PIL import Image

    shift = torch.tensor(mean, dtype=torch.float32, device="cpu").view(-1, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device="cpu").view(-1, 1, 1)
    values = (pixels.detach().float().cpu() * scale + shift).clamp(0, 1) * 255
    return Image.fromarray(values.round().byte().permute(1, 2, 0).numpy())
