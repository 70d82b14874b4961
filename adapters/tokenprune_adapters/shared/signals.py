"""What a plain ViT block can supply."""

from __future__ import annotations

from tokenprune.interface.signals import Signal

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
