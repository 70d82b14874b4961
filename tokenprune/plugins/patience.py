"""Code of plugins that takes long, is interrupted or ends the process is named."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tokenprune.errors.visible import visible

#: Seconds after which it is named (ours).
PATIENCE = 5.0

logger = logging.getLogger("tokenprune")


@contextmanager
def named(plugin: str, distribution: str, doing: str) -> Iterator[None]:
    """Say whose code runs in the block once it has run for `PATIENCE` seconds, or is interrupted.

    `os._exit` would end the process without a word, so in the block it raises SystemExit instead.

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
        with _no_silent_end():
            yield
    except KeyboardInterrupt:
        logger.warning("interrupted while %s.", what)
        raise
    finally:
        timer.cancel()


@contextmanager
def _no_silent_end() -> Iterator[None]:
    """Let `os._exit` raise SystemExit in this thread; other threads and forks end as ever.

    Code of the block may hold on to the stand-in, which is the real one again after the block.
    """
    real, here, within = os._exit, (os.getpid(), threading.get_ident()), True

    def stand_in(status: int) -> NoReturn:
        if within and here == (os.getpid(), threading.get_ident()):
            raise SystemExit(f"it called os._exit({status})")
        real(status)

    vars(os)["_exit"] = stand_in
    try:
        yield
    finally:
        within = False
        vars(os)["_exit"] = real
