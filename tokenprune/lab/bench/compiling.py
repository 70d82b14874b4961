"""Rows through `torch.compile`: a copy of the model that shares its weights and keeps its plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tokenprune.engine.adapters import choose_encoder
from tokenprune.engine.attach import attach
from tokenprune.engine.stages import build_strategy
from tokenprune.errors import BackendUnavailableError, DataError
from tokenprune.interface.loading import LoadedDual, LoadedMllm, LoadedModel
from tokenprune.lab.bench.rows import Lane
from tokenprune.plan import Plan

Part = Callable[[nn.Module], nn.Module]

MODES = ("default", "reduce-overhead")
BACKEND = "inductor"
#: Untimed calls until nothing is compiled any more, at most (ours): shapes that change from call
#: to call are compiled once more with sizes left open.
SETTLING = 6
#: Compiled variants of a function (ours): one a block, in models of up to about as many blocks.
ROOM = 128


def check_compile(loaded: LoadedModel, plans: Sequence[tuple[str, Plan]], mode: str) -> None:
    """Refuse what can't be compiled in that mode.

    Raises:
        DataError: there is no such mode, it doesn't fit, or a plan's length isn't static.
        BackendUnavailableError: the compiler doesn't work here.
    """
    if mode not in MODES:
        raise DataError(
            f"there is no mode '{mode}'.", where="--compile", remedy=f"Use {' or '.join(MODES)}."
        )
    if mode == "reduce-overhead":
        _check_graphs(loaded)
    for name, plan in plans:
        for stage in plan.stages:
            if build_strategy(stage).length != "planned":
                raise DataError(
                    f"'{stage.strategy}' decides at run time how much it keeps, so every input "
                    "would be compiled anew.",
                    where=f"--compile, {name}",
                    remedy="Compile plans of static length only, or go without --compile.",
                )
    _check_compiler(next(loaded.model.parameters()).device)


def whole(model: nn.Module) -> nn.Module:
    """All of it."""
    return model


def compiled(lane: Lane, mode: str, part: Part = whole) -> Lane:
    """A further row: the same plan on a compiled copy, weights shared.

    Graph breaks are allowed: strategies run uncompiled between the compiled parts.

    Args:
        lane: the row.
        mode: of `torch.compile`.
        part: of the copy, what is compiled.
    """
    model = shared_copy(lane.model)
    handle = None if lane.plan is None else attach(model, lane.plan)
    called: Any = part(model)
    forward = torch.compile(called.forward, mode=_mode(mode), backend=BACKEND)
    called.__dict__["forward"] = forward
    return Lane(lane.name, lane.plan, model, handle, twin=lane)


def compiled_part(loaded: LoadedModel) -> Part:
    """What of a model is compiled: all of it, or of a dual encoder the vision tower."""
    if isinstance(loaded, LoadedDual):
        return lambda model: choose_encoder(model).spec().entry
    return whole


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy whose modules are its own and whose parameters and buffers are the model's."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(one): one for one in tensors})


def settle(lane: Lane, call: Callable[[], Any]) -> None:
    """Compile afresh, then call until nothing is compiled any more.

    Compiled code hangs on a function's code, which all copies of a model share; where a plan
    breaks the graph, dense would be left with the broken one. So every turn starts from nothing.

    Raises:
        DataError: it goes on compiling, so no time would be that of compiled code.
    """
    torch.compiler.reset()
    for _ in range(SETTLING):
        before = compilations()
        call()
        if compilations() == before:
            return
    raise DataError(
        f"'{lane.name}' is still being compiled after {SETTLING} calls.",
        where="--compile",
        remedy="Measure it without --compile.",
    )


def compilations() -> int:
    """How many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@contextmanager
def room() -> Iterator[None]:
    """Let a function be compiled for many blocks; torch gives up after 8 by default."""
    from torch import _dynamo as dynamo

    with dynamo.config.patch(recompile_limit=ROOM, accumulated_recompile_limit=16 * ROOM):
        yield


def _mode(mode: str) -> str | None:
    return None if mode == "default" else mode


def _check_graphs(loaded: LoadedModel) -> None:
    if isinstance(loaded, LoadedMllm):
        raise DataError(
            "CUDA graphs reuse their outputs' memory, and a growing KV cache keeps them.",
            where="--compile reduce-overhead",
            remedy="Use --compile default; CUDA graphs are measured on classifiers only.",
        )
    if next(loaded.model.parameters()).device.type != "cuda":
        raise DataError(
            "CUDA graphs need a CUDA device.",
            where="--compile reduce-overhead",
            remedy="Use --compile default here.",
        )


def _check_compiler(device: torch.device) -> None:
    try:
        one = torch.ones(2, device=device)
        torch.compile(lambda x: x * 2 + 1, backend=BACKEND)(one)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendUnavailableError(
            f"torch.compile doesn't work here ({reason}).",
            where="--compile",
            remedy="Install a C++ compiler (CPU) or Triton (GPU), or go without --compile.",
        ) from error
