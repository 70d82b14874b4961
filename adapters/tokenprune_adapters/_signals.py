"""What a plain ViT block can supply, and the refusals that all encoder families share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.tokens import Signal

_ALWAYS = frozenset(
    {
        Signal.ATTENTION_RECEIVED,
        Signal.ATTENTION_GIVEN,
        Signal.LOGITS_RECEIVED,
        Signal.LOGITS_GIVEN,
        Signal.KEYS,
        Signal.PREVIOUS_HIDDEN,
        Signal.HIDDEN,
        Signal.COMPANIONS,
    }
)
_OF_CLASS_TOKEN = frozenset({Signal.CLS_ATTENTION, Signal.CLS_SIMILARITY})


def vit_signals(class_token: bool) -> frozenset[Signal]:
    """Signals of an encoder whose blocks expose query, key and value of every head."""
    return _ALWAYS | _OF_CLASS_TOKEN if class_token else _ALWAYS


def offered(class_token: bool) -> tuple[Signal, ...]:
    """The same in a fixed order, for an adapter's `offers`."""
    return tuple(sorted(vit_signals(class_token), key=str))


def full_name(part: object) -> str:
    """Module path and name of the object's exact class; a subclass may have another forward."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def require_exact(
    part: nn.Module, where: str, supported: tuple[str, ...], reasons: Mapping[str, str]
) -> None:
    """Refuse a part of a model whose exact class isn't one of `supported`.

    Args:
        part: the module.
        where: what to call its place.
        supported: full class names.
        reasons: by short class name, why a known class is refused.

    Raises:
        UnsupportedModelError: names the class, the reason and what is supported.
    """
    if full_name(part) in supported:
        return
    short = type(part).__name__
    reason = reasons.get(short, "its forward isn't known to the adapter")
    known = ", ".join(name.rsplit(".", 1)[1] for name in supported)
    raise UnsupportedModelError(
        f"'{short}' isn't supported: {reason}.", where=where, remedy=f"Supported here: {known}."
    )


def refuse_call(problem: str, where: str, remedy: str) -> UnsupportedCallError:
    """The error for a call that a pruned encoder can't serve correctly."""
    return UnsupportedCallError(problem, where=where, remedy=remedy)
