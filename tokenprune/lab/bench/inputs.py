"""What a model makes of a workload before any call: which sizes it tells apart, and what fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from tokenprune.interface.loading import LoadedMllm, LoadedModel
from tokenprune.lab.bench.workload import Workload, drawn
from tokenprune.lab.positions import check_positions, position_limit

#: Sizes that a model of any resolution tells apart, by height and by shape (ours).
PROBES = ((336, 336), (672, 336))


def size_note(loaded: LoadedModel, sizes: Iterable[Workload]) -> str | None:
    """A sentence if the model resizes all pictures alike, so that their size makes no difference.

    Args:
        loaded: the model.
        sizes: the workloads; the user's own input has no size.

    Returns:
        None if sizes differ to the model, or if the only one asked for is the model's own.
    """
    asked = list(dict.fromkeys((one.height, one.width) for one in sizes if not one.own))
    if not asked:
        return None
    probes = [Workload(1, 1, height, width, 1) for height, width in (*asked, *PROBES)]
    seen = [_seen(loaded.inputs(*drawn(probe, 0))) for probe in probes]
    if any(one != seen[0] for one in seen):
        return None
    shapes = [shape for shape, values in seen[0].values() if values is None]
    resolution = next((shape[-2:] for shape in shapes if len(shape) > 3), None)
    if asked == [resolution]:
        return None
    target = f"{resolution[0]}x{resolution[1]}" if resolution else "one resolution"
    return (
        f"the model resizes every picture to {target}, so --size makes no difference to tokens "
        "and times; only preprocessing (load) depends on it"
    )


def own_note(own: int, sizes: Iterable[Workload], rounds: int) -> str | None:
    """A sentence if the rounds don't reach all of the user's own inputs, a batch in each.

    Args:
        own: how many inputs there are.
        sizes: the workloads.
        rounds: measurements of every row.
    """
    reached = {size.batch: rounds * size.batch for size in sizes if rounds * size.batch < own}
    if not reached:
        return None
    firsts = ", ".join(f"the first {seen} (batch {batch})" for batch, seen in reached.items())
    return (
        f"of your {own} inputs {firsts} are measured, a batch in each round: all of them take "
        f"--rounds {-(-own // min(reached))}"
    )


def check_lengths(loaded: LoadedModel, sizes: Sequence[Workload]) -> None:
    """Refuse synthetic workloads that are longer than the LLM has positions, before any is timed.

    Raises:
        DataError: naming the workload.
    """
    if not isinstance(loaded, LoadedMllm) or position_limit(loaded.model) is None:
        return
    for size in {replace(one, batch=1): one for one in sizes if not one.own}.values():
        check_length(loaded, loaded.inputs(*drawn(replace(size, batch=1), 0)), size)


def check_length(loaded: LoadedModel, inputs: Any, size: Workload) -> None:
    """Refuse one batch that is longer than the LLM has positions.

    Raises:
        DataError: naming the workload.
    """
    if not isinstance(loaded, LoadedMllm):
        return
    check_positions(
        loaded.model,
        inputs,
        size.new_tokens,
        where=f"workload '{size.label}'",
        remedy="Take fewer or smaller pictures, fewer frames, words or new tokens.",
    )


def _seen(inputs: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes of all tensors, and the values of those that aren't pixels."""
    named = inputs if isinstance(inputs, Mapping) else {"pixels": inputs}
    return {
        name: (tuple(one.shape), None if one.is_floating_point() else one.tolist())
        for name, one in named.items()
        if isinstance(one, Tensor)
    }
