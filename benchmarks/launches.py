"""Which sizes of programs the kernels of a merge are fastest with, on the GPU at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops import SITES, Site, cases
from benchmarks.timing import Call, alternating, queued, replayed
from tokenprune.ops.launching import Sizes, trying

Clock = Callable[[Call], float]

#: Calls that one CUDA graph holds, so that its own start hardly counts.
CALLS = 10
#: What sizes must gain over the kernel's own, which fit smaller GPUs as well (ours).
GAIN = 1.05


@dataclass(frozen=True)
class Trial:
    """A kernel, the operation that it is part of, and the sizes to try.

    Attributes:
        kernel: as the table names it.
        op: in `benchmarks.ops.cases`.
        site: the tokens.
        batches: batch sizes, which count alike.
        candidates: sizes; the kernel's own are tried as well.
    """

    kernel: str
    op: str
    site: Site
    batches: tuple[int, ...]
    candidates: Sequence[Sizes]


def _blocks(*sizes: tuple[int, int, int]) -> list[Sizes]:
    return [{"BLOCK_M": m, "BLOCK_N": n, "num_warps": warps} for m, n, warps in sizes]


_HEADS = _blocks((64, 32, 4), (64, 128, 8), (128, 64, 8))
_PARTS: list[Sizes] = [{"programs": 128}, {"programs": 512}]
_ALONE: list[Sizes] = [{"num_warps": 4}, {"num_warps": 16}, {"tokens": 512}]  # or two launches
_RANKS = _blocks((8, 256, 4), (4, 1024, 4))
_TILES: list[Sizes] = [
    {"BLOCK": block, "BLOCK_D": depth, "num_warps": warps}
    for block, depth, warps in ((64, 64, 4), (64, 128, 8), (128, 64, 8))
]
_FEW: list[Sizes] = [
    {"BLOCK": block, "BLOCK_D": depth, "num_warps": warps, "num_stages": stages}
    for block, depth, warps, stages in ((32, 64, 4, 5), (32, 128, 4, 4), (32, 256, 4, 2))
]
_FEW += [{"BLOCK": 16, "BLOCK_D": 256, "num_warps": 2, "num_stages": 3}]
_WARPS: list[Sizes] = [{"num_warps": warps} for warps in (2, 8)]


#: A single image has few tiles of products.
_SHORT = Site("vit-b16-224", 196, 12, 64)


def trials(dtype: torch.dtype) -> list[Trial]:
    """All trials with features of that type, which `benchmarks/gpu.sh` runs."""
    clip, siglip = SITES
    item = dtype.itemsize
    return [
        Trial(f"received_from_lse 64x{item}", "received_from_lse", clip, (1, 8), _HEADS),
        Trial(f"received_from_lse 128x{item}", "received_from_lse", siglip, (1, 8), _HEADS),
        Trial("received_from_lse parts", "received_from_lse", clip, (1, 8), _PARTS),
        Trial(f"gram x{item}", "match_pairs", clip, (1, 8), _TILES),
        Trial(f"gram few x{item}", "match_pairs", _SHORT, (1,), _FEW),
        Trial("best_last alone", "best_last", clip, (1, 8), _ALONE),
        Trial("merge_slots", "merge_slots", clip, (1, 8), _RANKS),
        Trial("merge_step 1x1024", "merge_step", clip, (1,), _WARPS),
        Trial("merge_step 4x2048", "merge_step", siglip, (8,), _WARPS),
    ]


def measure(
    trial: Trial, device: torch.device, dtype: torch.dtype, clock: Clock
) -> Iterator[dict[str, Any]]:
    """A row for every candidate, in seconds; one that fails, or gives something else, has none.

    Args:
        trial: what to try.
        device: where to.
        dtype: of features.
        clock: seconds of a call.
    """
    calls = [cases(trial.site, batch, device, dtype)[trial.op] for batch in trial.batches]
    expected = [tensors(call()) for call in calls]
    for sizes in ({}, *trial.candidates):
        row: dict[str, Any] = {"kernel": trial.kernel, "sizes": sizes, "seconds": None}
        with trying(trial.kernel, sizes):
            try:
                found = [tensors(call()) for call in calls]
                if all(map(_alike, found, expected)):
                    row["seconds"] = exp(mean(log(clock(call)) for call in calls))
            except Exception as error:  # more shared memory than there is, say
                row["error"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        yield row


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Sizes]:
    """Of every kernel the fastest sizes, or none where its own are hardly slower."""
    found: dict[str, Sizes] = {}
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        timed = [row for row in rows if row["kernel"] == kernel and row["seconds"] is not None]
        fastest = min(timed, key=lambda row: row["seconds"], default=None)
        own = next((row["seconds"] for row in timed if not row["sizes"]), None)
        if fastest and own:  # else its own failed, and nothing is known
            gains = own > GAIN * fastest["seconds"]
            found[kernel] = fastest["sizes"] if gains else {}
    return found


def clock_of(device: torch.device) -> Clock:
    """Seconds that a GPU needs for a call, without the time to launch its kernels.

    Nothing of it depends on a CPU that is busy otherwise.
    """

    def seconds(call: Call) -> float:
        calls = {"": replayed(lambda: [call() for _ in range(CALLS)])}
        found = queued(calls, device, CALLS)[""]
        return (found or alternating(calls, device, CALLS)[""]) / CALLS

    return seconds


def tensors(made: Any) -> list[Tensor]:
    """Those of an operation's answer."""
    if isinstance(made, Tensor):
        return [made]
    return [tensor for part in made for tensor in tensors(part)]


def _alike(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether all indices are equal, and numbers up to rounding."""
    return all(
        torch.allclose(one, other, rtol=1e-2, atol=1e-4)
        if one.is_floating_point()
        else torch.equal(one, other)
        for one, other in zip(found, expected, strict=True)
    )
