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


def require_heads(query: Tensor, key: Tensor) -> None:
    """Checks query `[B, H, Tq, d]` against key `[B, H_kv, T, d]`, of which H is a multiple."""
    require(
        key.shape[0] == query.shape[0]
        and key.shape[3] == query.shape[3]
        and query.shape[1] % key.shape[1] == 0,
        f"query {tuple(query.shape)} and key {tuple(key.shape)} don't fit together",
    )
