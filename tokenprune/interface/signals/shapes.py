"""Whether a signal's meaning, its view and what its function answers agree on the shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tokenprune.errors import SignalError
from tokenprune.interface.signals.views import View


def axes_of(meaning: str, *, computed: bool) -> tuple[str, ...]:
    """The axes that a signal's meaning begins with.

    Args:
        meaning: as in `[B, N, d] keys`.
        computed: whether the signal has a function; one that only a caller gives may leave its
            axes out, and is per token and otherwise open then.
    """
    found = re.match(r"\[(B\b[^\]]*)\]", meaning)
    if found is None:
        return ("",) if computed else ("B", "N", "...")
    return tuple(axis.strip() for axis in found[1].split(","))


def refuse_row(
    name: str,
    meaning: str,
    axes: Sequence[str],
    needs: type[View] | None,
    compute: Callable[[Any], Tensor] | None,
) -> None:
    """Refuse a row that contradicts itself.

    Args:
        name: of the signal.
        meaning: which begins with the shape.
        axes: read from it.
        needs: the view that it is computed from.
        compute: its function of that view.

    Raises:
        SignalError: it has one of view and function alone, or its shape is none that a value
            computed from the view can have; naming those that it could have.
    """
    if (needs is None) != (compute is None):
        raise SignalError(
            "a signal has both a need and a function of it, or neither.",
            where=f"Signal '{name}'",
            remedy="Give needs and compute.",
        )
    if needs is None:
        return
    leads = needs.leads
    if axes[0] != "B" or (leads and list(axes[1:2]) not in [[lead] for lead in leads]):
        wanted = " or ".join(f"[B, {lead}, ...]" for lead in leads) or "[B, ...]"
        raise SignalError(
            f"a signal computed from the {needs.title} has a shape {wanted}, and the "
            f"meaning begins with '{meaning[:20]}'.",
            where=f"Signal '{name}'",
            remedy="Begin the meaning with the shape, as in '[B, N, d] attention keys'.",
        )


def refuse_shape(name: str, axes: Sequence[str], value: Tensor, view: View) -> None:
    """Refuse a value whose shape isn't the one that the meaning gives.

    Args:
        name: of the signal.
        axes: of its meaning.
        value: what its function answered.
        view: what it was computed from.

    Raises:
        SignalError: naming both shapes.
    """
    known, shape = view.sizes, value.shape
    # at a glance: every axis that is known has its length, and the others have their own
    if tuple(map(known.get, axes, shape)) != shape and not _fits(axes, shape, known):
        told = ", ".join(f"{axis} = {size}" for axis, size in known.items())
        raise SignalError(
            f"its function answered {list(value.shape)}, and its meaning says "
            f"[{', '.join(axes)}] with {told}.",
            where=f"Signal '{name}'",
            remedy="Mend the function or the shape in front of the meaning.",
        )


def _fits(axes: Sequence[str], shape: Sequence[int], known: Mapping[str, int]) -> bool:
    """Whether a shape has these axes, of which some lengths are known."""
    named = len(axes) - (axes[-1] == "...")
    if len(shape) < named or (len(shape) > named and axes[-1] != "..."):
        return False
    for axis, size in zip(axes[:named], shape, strict=False):
        if known.get(axis, size) != size:
            return False
    return True
