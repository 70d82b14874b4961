"""What a comparison measured so far, kept beside its record until that is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from tokenprune.engine.adapters import choose_adapter
from tokenprune.errors.words import counted
from tokenprune.interface.loading import LoadedModel
from tokenprune.lab.compare.settings import Settings
from tokenprune.lab.compare.source import Source
from tokenprune.lab.data.opening import revision
from tokenprune.lab.measure.code import code_of, digest, method_facts
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.environment import environment_facts
from tokenprune.lab.measure.journal import Journal, kept_about
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.telling import Say

#: Two values of a fact that take more characters aren't told.
LONG = 100


@dataclass(frozen=True)
class Kept:
    """The journals of a comparison's measurements.

    Attributes:
        folder: in which they lie; made with the first.
        facts: what all of its measurements depend on, as plain data.
        say: told in a line where an earlier run kept batches.
        paths: of the journals that were asked for.
    """

    folder: Path
    facts: Mapping[str, Any]
    say: Say | None = None
    paths: list[Path] = field(default_factory=list)

    @classmethod
    def of(
        cls, folder: Path, task: Task, loaded: LoadedModel, source: Source, say: Say | None = None
    ) -> Self:
        """Of a task: model, samples, settings, machine and code, as in a study's records."""
        options, settings = source.options, source.settings
        facts = {
            "weights": loaded.fingerprint(),
            "configs": loaded.configs,
            "device": str(options.device),
            "dtype": str(options.dtype),
            "data": revision(task.questions, task.choices),
            "task": task.kind,
            "batch size": settings.batch_size,
            "new tokens": settings.new_tokens,
            "seed": settings.seed,
            "frames": settings.frames,
            "jobs": settings.jobs,
            "threads": torch.get_num_threads(),
            **environment_facts(),
            "code": code_of([Settings, type(choose_adapter(task.model))]),
        }
        if say is not None and (other := _differing(kept_about(folder), facts)):
            say(f"what an earlier run kept in {folder} isn't taken over; other there: {other}")
        return cls(folder, facts, say)

    def journal(self, entries: Sequence[Entry]) -> Journal:
        """Of the measurement of these plans; others, or in another order, have another one."""
        plans = [
            [
                *(entry.name, entry.group, entry.peers, entry.optional),
                entry.plan.model_dump(mode="json"),
                method_facts(entry.plan),
            ]
            for entry in entries
        ]
        name = digest({**self.facts, "plans": plans})
        journal = Journal(self.folder / f"{name}.jsonl", self.facts)
        self.paths.append(journal.path)
        if self.say is not None and (said := self._found(journal.peek())):
            self.say(said)
        return journal

    def _found(self, batches: int | None) -> str:
        """A line about what a journal holds already; empty if that is nothing."""
        if batches is None:
            return "another run measures the same at the moment, so nothing of this one is kept"
        if not batches:
            return ""
        what = counted(batches, "batch", "batches")
        return f"taken over: {what} that an earlier run kept in {self.folder}"


def _differing(kept: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """In what the latest of earlier runs differs from this one, in words; empty if one doesn't."""
    here = _flat(facts)
    found = [_flat(one) for one in kept]
    if not found or here in found:
        return ""
    there = found[0]
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(_difference(name, there.get(name), here.get(name)) for name in names)


def _difference(name: str, there: Any, here: Any) -> str:
    """A fact with its two values, unless these are digests."""
    said = f"{there}, now {here}"
    return name if len(said) > LONG else f"{name} ({said})"


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same with what stands in a dictionary side by side, as JSON gives it back."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        inner = value.items() if isinstance(value, Mapping) else ()
        found |= {f"{name}.{key}": one for key, one in inner} if inner else {name: value}
    return found
