"""Argument checks that read shapes only, so that they hold under `torch.compile`."""

from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def require_rows(name: str, tensor: Tensor | None, batch: int, length: int) -> None:
    """Checks that an optional per-token tensor is `[batch, length]`."""
    if tensor is not None:
        require(
            tuple(tensor.shape) == (batch, length),
            f"{name} must be [{batch}, {length}], not {tuple(tensor.shape)}",
        )
