"""How the processes start that share the work of a comparison or a study."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext

#: What the model libraries spend most of their start on; imported once, where they are installed.
PRELOADED = (
    "tokenprune.lab.studies.worker",
    "tokenprune.lab.compare.jobs",
    "transformers.models.auto.modeling_auto",
    "transformers.processing_utils",
)


def fresh_processes() -> BaseContext:
    """A way to start processes that have touched no device and hold nothing of this one.

    On Linux a server imports the libraries once and forks, so that a further process starts at
    once; it never runs a model, and forking is sound where no device was used. Elsewhere every
    process is spawned, and imports the libraries itself.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tokenprune.lab.measure.preloaded"])
    return context


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started inside ignore Ctrl-C, from their first moment on.

    Ctrl-C reaches all processes of a terminal; the one that started the others ends them. Only a
    process's main thread can choose that; started from another one, they don't ignore it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
