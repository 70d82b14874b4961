"""How transformers collects the states that a call is to put out, by its private names.

A decorator of a model's forward sets a collector, into which hooks on the modules inside write.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

MODULE = "transformers.utils.output_capturing"
COLLECTOR = "_active_collector"


def is_hook(hook: Callable[..., Any]) -> bool:
    """Whether a forward hook writes into the collector."""
    return getattr(hook, "__module__", None) == MODULE


def running() -> bool:
    """Whether a collector is set here."""
    found = sys.modules.get(MODULE)
    return found is not None and getattr(found, COLLECTOR).get() is not None
