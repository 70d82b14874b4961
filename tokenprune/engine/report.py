"""What an attached model cost and kept, as measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from tokenprune.engine.meter import Meter
from tokenprune.engine.stages import ResolvedStage

_UNMEASURED = "not measured (calls ran as one compiled graph)"
_UNCOUNTED = "not counted (run the call inside `with handle.count_flops():`)"


@dataclass(frozen=True)
class Report:
    """Measurements since attaching or the last reset.

    Attributes:
        plan: one line a stage.
        calls: finished outermost calls that were measured.
        images: images encoded in these calls.
        tokens: mean tokens per image by stage; `text[K]` is per prompt.
        seconds: exclusive seconds by stage; empty if no call was measured and others ran.
        flops: FLOPs counted under `count_flops`; None where nothing was counted.
        notes: what to know about the plan on this model, in plain words.
        compiled: whether calls ran as one compiled graph besides, which nothing measures.
        tiles: pieces in which a tower saw an image, in the mean; None where nobody tells.
    """

    plan: tuple[str, ...]
    calls: int
    images: int
    tokens: dict[str, float]
    seconds: dict[str, float]
    flops: int | None
    notes: tuple[str, ...] = ()
    compiled: bool = False
    tiles: float | None = None

    @classmethod
    def of(cls, stages: Iterable[ResolvedStage], meter: Meter, notes: Iterable[str]) -> Report:
        """What `meter` holds, with one line a stage and the notes in order."""
        unmeasured = meter.compiled and not meter.calls
        return cls(
            lines_of(stages),
            meter.calls,
            meter.images,
            meter.tokens,
            {} if unmeasured else meter.seconds,
            meter.flops,
            tuple(sorted(notes)),
            meter.compiled,
            meter.tiles,
        )

    def __str__(self) -> str:
        """Plain text, a line each."""
        return "\n".join(f"{name:<9}{value}" for name, value in self._rows())

    def __rich__(self) -> Table:
        """A two-column table."""
        table = Table("measured", "value", title="; ".join(self.plan) or "dense")
        for name, value in self._rows()[1:]:
            table.add_row(name, value)
        return table

    def _rows(self) -> list[tuple[str, str]]:
        """What is told, by its name."""
        idle = "no call had any" if self.calls else "nothing ran yet"
        nothing = _UNMEASURED if self.compiled else idle
        seconds = ", ".join(f"{name} {value:.4f}" for name, value in self.seconds.items())
        return [
            ("plan", "; ".join(self.plan) or "dense"),
            ("calls", self._calls()),
            ("tokens", self._tokens(nothing)),
            ("seconds", seconds or _UNMEASURED),
            ("FLOPs", _UNCOUNTED if self.flops is None else f"{self.flops:,}"),
            *(("note", note) for note in self.notes),
        ]

    def _calls(self) -> str:
        calls = f"{self.calls} with {self.images} images"
        if self.tiles is not None and self.tiles != 1:
            calls += f", each in {self.tiles:.3g} tiles"
        if not self.compiled:
            return calls
        return f"{calls}, and compiled ones: not measured" if self.calls else _UNMEASURED

    def _tokens(self, nothing: str) -> str:
        counts = {name: f"{name} {count:.1f}" for name, count in self.tokens.items()}
        tokens = ", ".join(text for name, text in counts.items() if not name.startswith("text["))
        words = ", ".join(text for name, text in counts.items() if name.startswith("text["))
        return f"per image: {tokens or nothing}" + (f"; per prompt: {words}" if words else "")


def lines_of(stages: Iterable[ResolvedStage]) -> tuple[str, ...]:
    """A plan in words, one line a stage."""
    return tuple(
        f"{stage.plan.at}: {stage.plan.strategy}, keep {stage.plan.keep}" for stage in stages
    )
