"""Tensor parallelism: whose heads a process has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import SignalError, UnsupportedCallError
from tokenprune.interface.signals import BlockAttention, LayerAttention, LayerValues, Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import asked


class WholeHeads:
    """Refuses signals of attention where each process computes some of the heads.

    In tensor parallelism, scores would be of a process's own heads, and every process would keep
    other tokens than those whose results theirs are added to.
    """

    def __init__(self) -> None:
        self._read: list[tuple[ResolvedStage, Signal, list[dict[str, Any]]]] = []

    def read(self, stage: ResolvedStage, sites: Iterable[Site], parts: Iterable[nn.Module]) -> None:
        """Note what a stage reads of attention, if it does.

        Args:
            stage: the stage.
            sites: where it acts.
            parts: the modules that make the heads.

        Raises:
            SignalError: their weights are spread over processes; naming the signal.
        """
        heads = BlockAttention, LayerAttention, LayerValues
        named = (signal for site in sites for signal in asked(stage.strategy, site))
        found = next((signal for signal in named if signal.reads(*heads)), None)
        if found is None:
            return
        weights = [one._parameters for part in parts for one in part.modules() if one._parameters]
        if _spread(weights):
            raise SignalError(
                f"'{stage.strategy.name}' needs {found.kind}, and every process has some of the "
                "heads only: the attention's weights are spread over processes (tensor "
                "parallelism).",
                where=stage.where,
                remedy="Load the model without a tensor-parallel plan, or use a strategy that "
                "reads no attention there.",
            )
        self._read.append((stage, found, weights))

    def require(self, root: nn.Module) -> None:
        """Refuse a call of a model that was spread over processes since the plan was attached.

        Args:
            root: the model. What FSDP shards is whole again where a module computes.

        Raises:
            UnsupportedCallError: naming the stage and the signal.
        """
        for stage, signal, weights in self._read:
            if _spread(weights) and not _gathered(root, weights):
                raise UnsupportedCallError(
                    f"the attention's weights were spread over processes (tensor parallelism) "
                    f"since the plan was attached, and '{stage.strategy.name}' reads "
                    f"{signal.kind} there: every process has some of the heads only.",
                    where=stage.where,
                    remedy="Detach the plan, or use a strategy that reads no attention there.",
                )

    def forget(self) -> None:
        """Keep no weights any more, of a model that may go."""
        self._read.clear()


_Weights = Iterable[dict[str, Any]]
"""The parameters of modules, as the modules have them now."""


def _spread(weights: _Weights) -> bool:
    """Whether processes hold parts of one of the weights."""
    return any(_sharded(weight) for some in weights for weight in some.values())


def _gathered(root: nn.Module, weights: _Weights) -> bool:
    """Whether FSDP gathers all that is spread before it is used."""
    from torch.distributed.fsdp import FSDPModule  # not in every build; where weights spread, it is

    units = [module for module in root.modules() if isinstance(module, FSDPModule)]
    held = {id(weight) for unit in units for weight in unit.parameters()}
    return all(
        id(weight) in held for some in weights for weight in some.values() if _sharded(weight)
    )


def _sharded(weight: Any) -> bool:
    """Whether a weight is a `DTensor` of which processes hold parts."""
    if type(weight) is nn.Parameter:  # nearly all are: the look-up of an attribute would cost more
        return False
    placements = getattr(weight, "placements", ())
    return any(one.is_shard() for one in placements) and weight.device_mesh.size() > 1
