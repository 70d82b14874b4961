"""accelerate, imported only when a run begins."""

from __future__ import annotations

from typing import Any

from tokenprune.errors import BackendUnavailableError, UnsupportedCallError

INSTALL = "pip install 'tokenprune[train]'"


def accelerator(device: Any) -> Any:
    """An `accelerate.Accelerator` of one process on the model's device.

    Raises:
        BackendUnavailableError: accelerate isn't installed.
        UnsupportedCallError: the run was started in several processes.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise BackendUnavailableError(
            f"training needs accelerate, which can't be imported ({error}).",
            where="tokenprune train",
            remedy=f"Install it: {INSTALL}",
        ) from error
    found = Accelerator(device_placement=False, cpu=device.type == "cpu", mixed_precision="no")
    if found.num_processes > 1:
        raise UnsupportedCallError(
            f"{found.num_processes} processes were started, and training runs in one.",
            where="accelerate launch",
            remedy="Start it with `tokenprune train` itself.",
        )
    return found
