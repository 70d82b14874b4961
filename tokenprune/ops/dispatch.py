"""Which implementation of an operation runs, and why."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import TracebackType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, is_autocast_enabled

from tokenprune.errors import BackendUnavailableError

Backend = Literal["auto", "reference", "triton"]

KERNELS = (
    "attention_received",
    "best_last",
    "bipartite_match",
    "coverage_select",
    "dpp_select",
    "keep_slots",
    "keep_step",
    "knn_density",
    "match_pairs",
    "max_min_select",
    "merge_compact",
    "merge_slots",
    "merge_step",
    "received_from_lse",
    "sum_compact",
    "topk_gather",
)
"""Operations that have both a reference and a Triton implementation."""

PLAIN = {
    "attend": "no kernel of its own: on a CPU blocks in plain torch, elsewhere the backend's "
    "attention and received_from_lse",
    "attend_short": "no kernel: on a CPU two products in plain torch, nobody asks for it elsewhere",
    "attention_row": "no kernel: one query row is a matrix-vector product, plain torch suffices",
    "attention_rows": "no kernel yet: rows of some queries, a product and a softmax in plain torch",
    "cluster_dpc": "no kernel: no step waits for another, plain torch suffices",
}
"""Operations that are plain torch everywhere, with the reason."""

_MINIMUM_CAPABILITY = (7, 0)
_asked: ContextVar[Backend] = ContextVar("tokenprune_ops_backend", default="auto")


@dataclass(frozen=True, slots=True)
class OpChoice:
    """What runs for one operation.

    Attributes:
        op: name of the operation.
        backend: `reference`, `triton`, or `none` where the backend asked for can't run.
        reason: why, in words.
    """

    op: str
    backend: Literal["reference", "triton", "none"]
    reason: str


class use_backend(AbstractContextManager["use_backend"]):
    """Overrides the choice of backend, from the call on or for the length of a `with` block.

    The override belongs to the current context, so other threads and tasks keep theirs.

    Args:
        backend: `reference`, `triton`, or `auto` to go back to a choice by device.

    Raises:
        BackendUnavailableError: no backend has that name. Whether Triton can run depends on the
            tensors, so that is decided, and refused, at the operation's call.
    """

    def __init__(self, backend: Backend) -> None:
        if backend not in get_args(Backend):
            raise BackendUnavailableError(
                f"There is no backend {backend!r}.",
                where="use_backend",
                remedy=f"Choose one of {', '.join(get_args(Backend))}.",
            )
        self._token: Token[Backend] = _asked.set(backend)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts back what was in force before."""
        _asked.reset(self._token)


def asked() -> Backend:
    """The backend in force here, see `use_backend`."""
    return _asked.get()


def choose(op: str, tensor: Tensor) -> OpChoice:
    """Decides what runs `op` on tensors like `tensor`.

    Raises:
        BackendUnavailableError: Triton was asked for and can't run there.
    """
    return _decide(op, tensor.device, tensor.dtype)


def explain(device: torch.device | str | None = None) -> list[OpChoice]:
    """What every operation would use for float32 tensors on `device`.

    Args:
        device: default: the CUDA device if there is one, else the CPU.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    choices = []
    for op in (*KERNELS, *PLAIN):
        try:
            choices.append(_decide(op, place, torch.float32))
        except BackendUnavailableError as error:
            choices.append(OpChoice(op, "none", str(error)))
    return choices


def run(op: str, tensor: Tensor, *args: Any) -> Any:
    """Calls the chosen implementation of `op`; `tensor` is its first argument and decides."""
    device, backend = tensor.device.type, "reference"
    # on a CPU a kernel runs only where somebody asked for it
    if device != "cpu" or _asked.get() == "triton":
        backend = _chosen(op, tensor.device, tensor.dtype, _asked.get())
    implementation = _implementation(op, backend)
    if device == "meta" or not is_autocast_enabled(device):
        return implementation(tensor, *args)
    # Autocast would turn the float32 products inside an operation into half precision.
    with torch.autocast(device, enabled=False):
        return implementation(tensor, *args)


@cache
def _chosen(op: str, device: torch.device, dtype: torch.dtype, asked: Backend) -> str:
    """The backend of an operation, found once; `asked` is in force."""
    return _decide(op, device, dtype).backend


@cache
def _implementation(op: str, backend: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(import_module(f"tokenprune.ops.{op}.{backend}"), op)
    return found


def _decide(op: str, device: torch.device, dtype: torch.dtype) -> OpChoice:
    if op in PLAIN:
        return OpChoice(op, "reference", PLAIN[op])
    wanted = _asked.get()
    if wanted == "reference":
        return OpChoice(op, "reference", "asked for by use_backend")
    obstacle = _obstacle(device, dtype, interpreter=wanted == "triton" and _interpreted())
    if obstacle is None:
        how = "asked for by use_backend" if wanted == "triton" else f"{device.type} tensors"
        return OpChoice(op, "triton", f"{how}, and triton can run")
    if wanted == "triton":
        raise BackendUnavailableError(
            f"The Triton kernel can't run: {obstacle}.",
            where=op,
            remedy="Use use_backend('auto') or use_backend('reference').",
        )
    return OpChoice(op, "reference", obstacle)


def _obstacle(device: torch.device, dtype: torch.dtype, *, interpreter: bool) -> str | None:
    if dtype == torch.float64:
        return "float64 tensors: the kernels accumulate in float32"
    if device.type != "cuda" and not interpreter:
        return f"{device.type} tensors: Triton kernels are compiled for CUDA devices"
    missing = _triton_problem()
    if missing is not None:
        return missing
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _MINIMUM_CAPABILITY:
        return "the CUDA device is older than Triton supports (compute capability below 7.0)"
    return None


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _triton_problem() -> str | None:
    try:
        import_module("triton")
    except Exception as error:
        return f"triton can't be imported ({type(error).__name__}: {error})"
    return None
