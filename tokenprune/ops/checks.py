"""Argument checks that read shapes only, so that they hold under `torch.compile`."""

from torch import Tensor


def require(condition: bool, message: str, *values: object) -> None:
    """Raises `ValueError` unless `condition` holds.

    Args:
        condition: what must hold.
        message: with `{}` for every value; written out only where the condition fails, because
            under `torch.compile` a text holds the sizes in it fast.
        *values: what stands in the message.
    """
    if not condition:
        raise ValueError(message.format(*values))


def require_rows(name: str, tensor: Tensor | None, batch: int, length: int) -> None:
    """Checks that an optional per-token tensor is `[batch, length]`."""
    if tensor is not None:
        shape = tensor.shape
        require(shape == (batch, length), "{} must be [{}, {}], not {}", name, batch, length, shape)


def require_heads(query: Tensor, key: Tensor) -> None:
    """Checks query `[B, H, Tq, d]` against key `[B, H_kv, T, d]`, of which H is a multiple."""
    require(
        key.shape[0] == query.shape[0]
        and key.shape[3] == query.shape[3]
        and query.shape[1] % key.shape[1] == 0,
        "query {} and key {} don't fit together",
        tuple(query.shape),
        tuple(key.shape),
    )
