"""Which strategy runs on which model family, told from what both declare; no model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from tokenprune.errors import TokenpruneError
from tokenprune.errors.raised import raised
from tokenprune.interface.adapter import EncoderAdapter, MllmAdapter
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.interface.signals import Signal, View
from tokenprune.interface.sites import STAGES, Site, Stage
from tokenprune.interface.strategy import PruningStrategy, placement, places
from tokenprune.interface.trainable import ModelShape, untrained_params
from tokenprune.plugins.host import host

#: The model that strategies are asked about, as deep as the bundled one. Signals don't depend on
#: its numbers; a strategy whose own layer it doesn't have is refused there.
SHAPE = ModelShape(
    encoder_width=64, encoder_blocks=12, grid=(1, 14, 14), llm_width=64, llm_layers=6
)
LAYER = 2

NEEDS_TOWER = "tokens aren't followed through the towers of this family"
NEEDS_LLM = "acts around the LLM, and this is an encoder alone"
COMPACT = (
    "renumbers survivors as its official code does, which this family's LLM can't: write "
    "positions: original in the plan"
)
NO_BLOCK = "needs the block behind the last one that is read, and all are read"
DYNAMIC = "its number of tokens depends on the picture; inside an encoder all share one length"


@dataclass(frozen=True)
class MatrixColumn:
    """A column: models of one adapter, for a multimodal LLM with towers of one encoder adapter.

    Attributes:
        adapter: name of the adapter.
        tower: name of the tower's adapter; None for encoders alone and for towers that aren't
            followed.
        encoder: what signals of the encoder can be computed from.
        llm: what signals of the LLM can be computed from; None for encoders alone.
        behind: whether there are blocks behind the last one that feeds the LLM.
        renumbers: whether survivors can be renumbered in the LLM.
    """

    adapter: str
    tower: str | None
    encoder: frozenset[type[View]]
    llm: frozenset[type[View]] | None = None
    behind: bool = True
    renumbers: bool = True

    @property
    def name(self) -> str:
        """As it is shown."""
        return self.adapter if self.tower is None else f"{self.adapter} + {self.tower}"

    def offers(self, signal: Signal, at: Stage) -> bool:
        """Whether a stage can have a signal here."""
        if at != "encoder" and self.llm is None:
            return False
        return at in signal.stages and signal.needs in self.encoder | (self.llm or frozenset())


@dataclass(frozen=True)
class Fit:
    """One strategy on one family, under its default parameters.

    Attributes:
        strategy: name of the strategy.
        family: the column.
        runs: the stages at which it can be attached.
        refused: why not at the others that the strategy declares.
    """

    strategy: str
    family: MatrixColumn
    runs: tuple[Stage, ...]
    refused: Mapping[Stage, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What has to be said: refusals, except where a column lacks a stage as a whole."""
        reasons = dict.fromkeys(self.refused.values())
        lacking = {NEEDS_LLM, NEEDS_TOWER}
        return [reason for reason in reasons if reason not in lacking or not self.runs]

    def data(self) -> dict[str, Any]:
        """As plain data for scripts."""
        return {
            "strategy": self.strategy,
            "adapter": self.family.adapter,
            "tower": self.family.tower,
            "runs": list(self.runs),
            "refused": dict(self.refused),
        }


def matrix(
    strategies: Mapping[str, type[PruningStrategy[Any]]] | None = None,
    columns: Sequence[MatrixColumn] | None = None,
) -> list[list[Fit]]:
    """Every strategy on every family: a row a strategy, in the order of their names.

    Args:
        strategies: by name; default: all installed.
        columns: default: all installed adapters, multimodal LLMs once for each kind of tower.
    """
    kinds = host().strategies if strategies is None else strategies
    shown = families() if columns is None else columns
    asked = cache(signals)  # it makes the strategy, which a learned one takes its time for
    return [[fit(kind, family, asked) for family in shown] for _, kind in sorted(kinds.items())]


def alike(rows: Sequence[Sequence[Fit]]) -> list[list[Fit]]:
    """Columns of the matrix, families that take the same strategies at the same stages as one.

    Args:
        rows: of `matrix`.

    Returns:
        The fits of each column, from top to bottom; a fit's family is named after all of its.
    """
    found: dict[tuple[Any, ...], list[tuple[Fit, ...]]] = {}
    for column in zip(*rows, strict=True):
        same = tuple((fit.runs, tuple(fit.notes)) for fit in column)
        key = (column[0].family.llm is None, same)
        found.setdefault(key, []).append(column)
    named = [(_joined([column[0].family for column in same]), same[0]) for same in found.values()]
    return [[replace(fit, family=name) for fit in column] for name, column in named]


def _joined(kinds: Sequence[MatrixColumn]) -> MatrixColumn:
    if len(kinds) == 1:
        return kinds[0]
    return replace(kinds[0], adapter=", ".join(kind.name for kind in kinds), tower=None)


def footnotes(rows: Sequence[Sequence[Fit]]) -> list[str]:
    """What the fits have to say, each once, in the order in which it is met."""
    return [*dict.fromkeys(note for row in rows for fit in row for note in fit.notes)]


def families(
    encoders: Mapping[str, type[EncoderAdapter]] | None = None,
    mllms: Mapping[str, type[MllmAdapter]] | None = None,
) -> list[MatrixColumn]:
    """The columns: encoder adapters, then adapters of multimodal LLMs with each of their towers."""
    encoders = host().encoders if encoders is None else encoders
    mllms = host().mllms if mllms is None else mllms
    found = [MatrixColumn(name, None, kind.supplies) for name, kind in encoders.items()]
    for name, kind in mllms.items():
        if kind.towers is None:
            bare = MatrixColumn(name, None, frozenset(), kind.supplies, renumbers=kind.renumbers)
            found.append(bare)
            continue
        for tower in kind.towers or tuple(encoders):
            if tower in encoders:
                offers = encoders[tower].supplies - kind.withholds
                column = MatrixColumn(
                    name, tower, offers, kind.supplies, kind.behind, kind.renumbers
                )
                found.append(column)
    return found


def signals(kind: type[PruningStrategy[Any]], at: Stage) -> tuple[Signal, ...]:
    """What a strategy asks for at a stage, with default parameters and untrained weights.

    Raises:
        TokenpruneError: it can't be built from its defaults.
    """
    return example(kind).signals(site_of(kind, at))


Asked = Callable[[type[PruningStrategy[Any]], Stage], tuple[Signal, ...]]


def fit(kind: type[PruningStrategy[Any]], family: MatrixColumn, asked: Asked = signals) -> Fit:
    """One strategy on one family.

    Args:
        kind: the strategy.
        family: the column.
        asked: what it asks for at a stage; whoever tries it on several families asks it once.
    """
    answers = {at: refusal(kind, family, at, asked) for at in STAGES if at in places(kind)}
    runs = tuple(at for at, reason in answers.items() if not reason)
    return Fit(kind.name, family, runs, {at: reason for at, reason in answers.items() if reason})


def refusal(
    kind: type[PruningStrategy[Any]], family: MatrixColumn, at: Stage, asked: Asked = signals
) -> str:
    """Why a strategy can't stand at a stage of a family's models; empty if it can."""
    if at != "encoder" and family.llm is None:
        return NEEDS_LLM
    if at == "encoder" and family.llm is not None and family.tower is None:
        return NEEDS_TOWER
    if at == "encoder" and kind.length != "planned":
        return DYNAMIC
    try:
        site = site_of(kind, at)
        if site.layer > site.layers - (at != "pre_llm"):
            part = "the LLM" if at == "decoder" else "the encoder"
            return (
                f"its own layer is {site.layer}, and {part} of the bundled model has {site.layers}"
            )
        wanted = asked(kind, at)
    except TokenpruneError as error:
        return f"not known: {error.message.rstrip('.')}"
    except Exception as error:  # what a strategy declares is a plugin's code
        return f"not known: '{kind.name}' {raised(error, kind)}"
    missing = [signal.kind.name for signal in wanted if not family.offers(signal, at)]
    if not missing and not family.behind and any(signal.block == site.layers for signal in wanted):
        return NO_BLOCK
    if not missing:
        compact = placement(kind, at).positions == "compact"
        return COMPACT if compact and not family.renumbers else ""
    return f"needs {', '.join(sorted({*missing}))}, which this family doesn't supply"


def site_of(kind: type[PruningStrategy[Any]], at: Stage) -> Site:
    """Where a strategy stands if a plan names no layer; one of its layers if it stands at all.

    The first layer may have less to be asked for than later ones.
    """
    layers = SHAPE.llm_layers if at == "decoder" else SHAPE.encoder_blocks
    own = placement(kind, at)
    if isinstance(own, PreLlm):
        return Site(at, layers, layers)
    layer = own.layer_of(layers) if isinstance(own, Decoder) else own.layer
    if layer is None or (isinstance(own, Decoder) and own.every_layer):
        layer = max(LAYER, layer or 0)
    return Site(at, layer, layers)


def example(
    kind: type[PruningStrategy[Any]], shape: ModelShape = SHAPE, keep: int | None = None
) -> PruningStrategy[Any]:
    """An instance with default parameters, and random weights if it needs weights.

    Raises:
        TokenpruneError: a parameter has no default.
    """
    try:
        return kind.from_params(**untrained_params(kind, shape, keep))
    except ValueError as error:
        raise TokenpruneError(
            f"'{kind.name}' can't be built from its default parameters.",
            where=f"{kind.__module__}.{kind.__qualname__}",
            remedy="Give every parameter a default, or return what it needs from untrained().",
        ) from error
