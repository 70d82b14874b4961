"""Code of plugins that takes long, or is interrupted, is named while it does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tokenprune.errors.visible import visible

#: Seconds after which it is named (ours).
PATIENCE = 5.0

logger = logging.getLogger("tokenprune")


@contextmanager
def named(plugin: str, distribution: str, doing: str) -> Iterator[None]:
    """Say whose code runs in the block once it has run for `PATIENCE` seconds, or is interrupted.

    Args:
        plugin: its name.
        distribution: that it is part of.
        doing: what it does, such as `is being imported`.
    """
    what = visible(f"the plugin '{plugin}' of {distribution} {doing}")
    timer = threading.Timer(
        PATIENCE,
        logger.warning,
        (f"waiting: {what}. TOKENPRUNE_PLUGINS=NAME,NAME leaves out all plugins but those named.",),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("interrupted while %s.", what)
        raise
    finally:
        timer.cancel()
