"""Dense on its fastest attention backend: the only baseline that counts."""

from __future__ import annotations

import torch

from tokenprune.interface.loading import LoadedModel
from tokenprune.lab.bench.rows import DENSE, Lane
from tokenprune.lab.bench.runners import Timed
from tokenprune.lab.bench.timer import seconds

AS_LOADED = "as loaded"

#: What a backend raises that isn't installed, or can't run this workload.
UNAVAILABLE = (ImportError, ValueError, RuntimeError, torch.OutOfMemoryError)

#: Calls of every backend; the fastest single one counts.
TRIES = 3


def fastest_backend(loaded: LoadedModel, runner: Timed) -> str:
    """Switch the model to the backend on which dense reaches the first token soonest.

    Which one that is depends on the length, so it is asked for every workload. A backend that
    isn't installed, or can't run this workload, is left out.

    Args:
        loaded: the model.
        runner: calls on the workload; a plain encoder's is its whole pass.

    Returns:
        Its name; `as loaded` where the loader offers no choice.
    """
    dense, inputs = Lane(DENSE, None, loaded.model), runner.batches[0]
    found: dict[str, float] = {}
    for name, switch in loaded.backends.items():
        try:
            switch()
            found[name] = min(
                seconds(lambda: runner.first(dense, inputs), runner.device) for _ in range(TRIES)
            )
        except UNAVAILABLE:
            continue
    if not found:
        return AS_LOADED
    best = min(found, key=found.__getitem__)
    loaded.backends[best]()
    return best
