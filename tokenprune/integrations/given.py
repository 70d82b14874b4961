"""What engines hand over, checked before a strategy sees it: the caller is told, not an author."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

from torch import Tensor

from tokenprune.errors import DataError, SignalError
from tokenprune.errors.names import nearest, suggestion
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid


def checked_grid(grid: Sequence[Any]) -> Grid:
    """The grid as three whole numbers.

    Raises:
        DataError: it isn't (t, h, w), each a whole number of at least 1.
    """
    try:
        sides = tuple(index(side) for side in grid if not isinstance(side, bool))
    except TypeError:
        sides = ()
    if len(sides) != 3 or len(grid) != 3 or min(sides) < 1:
        raise DataError(
            f"{grid!r} is no patch grid.",
            where="grid",
            remedy="A grid is (t, h, w), three whole numbers of at least 1; t is 1 for an image.",
        )
    return sides


def check_signals(
    signals: Mapping[str, Any], known: Mapping[str, Signal], features: Tensor
) -> None:
    """Refuse given signals of the wrong shape.

    Args:
        signals: by name, as given.
        known: signals by name, see `defined`.
        features: `[B, N, D]`.

    Raises:
        SignalError: naming the signal, its shape and the right one.
    """
    batch, tokens = features.shape[:2]
    for name, value in signals.items():
        wanted = of_name(name, known).axes
        sizes = {"B": batch, "N": tokens}
        if isinstance(value, Tensor) and _fits(value, wanted, sizes):
            continue
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        right = ", ".join(str(sizes.get(axis, axis)) for axis in wanted)
        raise SignalError(
            f"'{name}' is {found}, but has to be a tensor [{right}].",
            where="signals",
            remedy=f"Its axes are [{', '.join(wanted)}]; the features say B = {batch} and "
            f"N = {tokens}.",
        )


def missing_remedy(missing: Sequence[Signal], signals: Iterable[str]) -> str:
    """What to do about signals that weren't given; a given name close to one is a misspelling."""
    needed = [signal.name for signal in missing]
    for name in signals:
        if name not in Signal.shipped() and nearest(name, needed):
            return f"There is no signal '{name}'. {suggestion(name, needed)}"
    return "Pass it in signals, or choose a strategy that reads the features alone."


def defined(asked: Iterable[Signal]) -> dict[str, Signal]:
    """The signals that ship and those asked for, by name."""
    return Signal.shipped() | {signal.name: signal for signal in asked}


def of_name(name: str, known: Mapping[str, Signal]) -> Signal:
    """The signal of a name; an unknown one has a value per token."""
    return known.get(name) or known.get(name.partition("@")[0]) or Signal(name)


def _fits(value: Tensor, wanted: Sequence[str], sizes: Mapping[str, int]) -> bool:
    open_end = wanted[-1] == "..."
    axes = wanted[:-1] if open_end else wanted
    if value.ndim < len(axes) or (value.ndim > len(axes) and not open_end):
        return False
    return all(sizes.get(axis, size) == size for axis, size in zip(axes, value.shape, strict=False))
