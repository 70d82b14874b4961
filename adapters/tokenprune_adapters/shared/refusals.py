"""Refusals that all encoder families share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tokenprune.errors import UnsupportedCallError, UnsupportedModelError


def require_exact(
    part: nn.Module, where: str, supported: tuple[str, ...], reasons: Mapping[str, str]
) -> None:
    """Refuse a part of a model whose exact class isn't one of `supported`.

    A subclass of a supported class is refused too, because it may have another forward.

    Args:
        part: the module.
        where: what to call its place.
        supported: full class names.
        reasons: by short class name, why a known class is refused.

    Raises:
        UnsupportedModelError: names the class, the reason and what is supported.
    """
    if f"{type(part).__module__}.{type(part).__qualname__}" in supported:
        return
    short = type(part).__name__
    reason = reasons.get(short, "its forward isn't known to the adapter")
    known = ", ".join(name.rsplit(".", 1)[1] for name in supported)
    raise UnsupportedModelError(
        f"'{short}' isn't supported: {reason}.", where=where, remedy=f"Supported here: {known}."
    )


def refuse_dropout(active: float, model: nn.Module, switch_off: str) -> None:
    """Refuse dropout on attention weights, which the pruned blocks don't compute.

    Args:
        active: its probability in this call.
        model: whose it is.
        switch_off: how it is switched off, as a sentence without its end.

    Raises:
        UnsupportedCallError: it is above 0.
    """
    if active > 0:
        raise UnsupportedCallError(
            "dropout on attention weights is on, and the pruned blocks have none.",
            where=type(model).__name__,
            remedy=f"{switch_off} or call eval().",
        )
