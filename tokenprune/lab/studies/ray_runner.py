"""Cells on the machines of a Ray cluster, one task a cell."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, util
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tokenprune.errors import BackendUnavailableError, DataError, TokenpruneError
from tokenprune.errors.installing import pip_install
from tokenprune.lab.measure.code import code_of, method_code
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.studies.execute import execute, forget_models
from tokenprune.lab.studies.load import Cell
from tokenprune.lab.studies.model import Study
from tokenprune.lab.studies.packing import Packed, pack, unpack
from tokenprune.lab.studies.runners import ATTEMPTS, Outcome
from tokenprune.lab.studies.worker import Result

LOCAL = "local"

#: Seconds that the head of a cluster may take to take a connection.
KNOCK = 10


def work(packed: Packed, packages: Mapping[str, str], code: Mapping[str, str]) -> Result:
    """Run a packed cell: what a task of the cluster does.

    A machine with other versions or other code may not run the cell, for its record would state
    what isn't so.

    Args:
        packed: from `pack`.
        packages: versions that the record's identity names.
        code: digests of the packages that the cell needs, see `needed_code`.
    """
    other = _different(describe_environment()["packages"], packages)
    if other:
        return "failed", {"reason": f"the worker has {other}"}
    try:
        cell, study = unpack(packed)
    except TokenpruneError as error:
        return "failed", {"reason": f"on the worker: {error}"}
    other = _different(needed_code(cell), code)
    if other:
        return "failed", {"reason": f"the worker has other code: {other}"}
    return execute(cell, study)


def needed_code(cell: Cell) -> dict[str, str]:
    """Digests of tokenprune and of the packages of a cell's strategies."""
    return {**code_of([Study]), **method_code(cell.plan)}


def _different(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {here.get(name, 'missing')} instead of {there.get(name, 'none')}"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    )


@dataclass(frozen=True)
class RayRunner:
    """Machines of a Ray cluster; the driver alone reads and writes records.

    A cell whose worker or machine is lost is tried again on another; a cell that fails by itself
    is not.

    Attributes:
        address: of a running cluster: `auto`, `HOST:PORT` or `ray://HOST:PORT`. Default: the
            environment's RAY_ADDRESS, or else a cluster of this machine, stopped at the end.
        num_cpus: cores reserved for a cell, which are its threads too.
        num_gpus: GPUs reserved for a cell; with 0 it sees none.
        attempts: how often a cell is tried whose worker was lost.

    Raises:
        BackendUnavailableError: Ray isn't installed.
        DataError: there is no such cluster, or a cluster of this machine is too small for a cell.
    """

    name: ClassVar[str] = "ray"

    address: str | None = None
    num_cpus: Annotated[float, Field(gt=0)] = 1
    num_gpus: Annotated[float, Field(ge=0)] = 0
    attempts: Annotated[int, Field(ge=1)] = ATTEMPTS

    def __post_init__(self) -> None:
        if util.find_spec("ray") is None:
            raise BackendUnavailableError(
                "the runner 'ray' needs Ray.", remedy=f"Install it: {pip_install('ray')}."
            )

    def run(self, cells: Sequence[Cell], study: Study) -> Iterator[Outcome]:
        """See `Runner`; results come as cells finish."""
        if not cells:
            return
        packages = describe_environment()["packages"]
        forget_models()
        with self.connected() as ray:
            task = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=0)(work)

            def start(cell: Cell) -> Any:
                return task.remote(pack(cell, study), packages, needed_code(cell))

            running = {start(cell): cell for cell in cells}
            tries = {cell.number: 1 for cell in cells}
            try:
                while running:
                    ready, _ = ray.wait(list(running), num_returns=1)
                    cell = running.pop(ready[0])
                    status, result = _fetched(ray, ready[0])
                    if result.get("lost") and tries[cell.number] < self.attempts:
                        tries[cell.number] += 1
                        running[start(cell)] = cell
                    else:
                        yield cell, status, result
            finally:
                for reference in running:  # the study was broken off
                    ray.cancel(reference, force=True)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The library, connected to the cluster; a connection of the caller's own is used."""
        # a cluster of ours reports nothing to anyone unless its user wants that
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = import_module("ray")
        if ray.is_initialized():
            yield ray
            return
        address = self.address or os.environ.get("RAY_ADDRESS") or LOCAL
        try:
            _knock(address)
            own: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"the cluster can't be reached ({_line(error)}).",
                where=f"address {address}",
                remedy="Start one with `ray start --head`, or leave the address out.",
            ) from error
        try:
            if address == LOCAL:
                self._fits(ray.cluster_resources())
            yield ray
        finally:
            ray.shutdown()

    def _fits(self, has: Mapping[str, float]) -> None:
        """Without this, tasks would wait for a machine that never comes."""
        for name, asked in (("CPU", self.num_cpus), ("GPU", self.num_gpus)):
            if asked > has.get(name, 0):
                raise DataError(
                    f"a cell asks for {asked:g} {name}s, and this machine has "
                    f"{has.get(name, 0):g}.",
                    where=f"num_{name.lower()}s",
                    remedy="Ask for less, or give the address of a cluster.",
                )


def _knock(address: str) -> None:
    """Raise where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK).close()


def _fetched(ray: Any, reference: Any) -> Result:
    """A task's result; `lost` marks cells whose worker or machine was lost."""
    try:
        result: Result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # the task itself raised, so it would again
        return "failed", {"reason": f"the worker can't run cells: {_line(error.cause or error)}"}
    except ray.exceptions.RayError as error:
        reason = f"the worker was lost: {type(error).__name__}: {_line(error)}"
        return "failed", {"reason": reason, "lost": True}
    return result


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
