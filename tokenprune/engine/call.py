"""The state of one call of an attached model; it lives no longer than the call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.errors import NonFiniteError, TokenpruneError
from tokenprune.interface.tokens import Site
from tokenprune.interface.trace import Trace

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment
    from tokenprune.engine.encoder.state import EncoderState
    from tokenprune.engine.meter import Meter

_active: ContextVar[CallState | None] = ContextVar("tokenprune_call", default=None)


@dataclass
class CallState:
    """What one outermost call of a model carries along.

    Attributes:
        owner: the attachment whose model is running.
        parent: the call around this one, of another attached model.
        trace: what was kept so far.
        grid: patch grid of the latest encoder pass.
        encoder: state of the latest encoder pass.
        mllm: the MLLM side's own state.
    """

    owner: Attachment
    parent: CallState | None
    trace: Trace = field(default_factory=Trace)
    grid: tuple[int, int, int] = (1, 0, 0)
    encoder: EncoderState | None = None
    mllm: Any = None
    _pending: list[tuple[TokenpruneError, Tensor]] = field(default_factory=list)

    @property
    def meter(self) -> Meter:
        """The attachment's meter."""
        return self.owner.meter

    def watch(self, site: Site, hidden: Tensor) -> None:
        """Refuse NaN and infinity before a selection is made from them.

        On the CPU at once; on other devices at the end of the call, to avoid a sync per site.

        Args:
            site: where the selection is made.
            hidden: `[B, P + N, D]` what arrives there.

        Raises:
            NonFiniteError: `hidden` holds NaN or infinity.
        """
        self.require(hidden.detach().sum(dtype=torch.float32).isfinite(), _not_finite(site))

    def require(self, fulfilled: Tensor, error: TokenpruneError) -> None:
        """Raise `error` unless a bool scalar `[]` holds; when, is up to the device as in `watch`.

        Raises:
            TokenpruneError: that error.
        """
        if torch.compiler.is_compiling():
            return
        if fulfilled.device.type == "cpu":
            _raise_unless(fulfilled, error)
        else:
            self._pending.append((error, fulfilled))

    def settle(self) -> None:
        """Check what was put off.

        Raises:
            TokenpruneError: the first error whose condition doesn't hold.
        """
        for error, fulfilled in self._pending:
            _raise_unless(fulfilled, error)


def current(owner: Attachment) -> CallState | None:
    """The running call of this attachment in this thread and context, if any."""
    state = _active.get()
    while state is not None and state.owner is not owner:
        state = state.parent
    return state


@contextmanager
def calling(owner: Attachment) -> Iterator[CallState]:
    """The running call of this attachment, or a new one that ends with the block."""
    running = current(owner)
    if running is not None:
        yield running
        return
    state = CallState(owner, parent=_active.get())
    token = _active.set(state)
    try:
        yield state
        state.settle()
        owner.finished(state)
    finally:
        _active.reset(token)


def _raise_unless(fulfilled: Tensor, error: TokenpruneError) -> None:
    if not bool(fulfilled):
        raise error


def _not_finite(site: Site) -> NonFiniteError:
    return NonFiniteError(
        "the hidden states hold NaN or infinity, so no token can be chosen.",
        where=str(site),
        remedy="Check the input, or run in bfloat16 or float32 if this is float16.",
    )
