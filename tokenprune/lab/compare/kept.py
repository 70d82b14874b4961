"""What a comparison measured so far, kept beside its record until that is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenprune.engine.adapters import choose_adapter
from tokenprune.interface.loading import LoadedModel
from tokenprune.lab.compare.settings import Settings
from tokenprune.lab.compare.source import Source
from tokenprune.lab.data.opening import revision
from tokenprune.lab.measure.code import code_of, digest, method_facts
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.environment import environment_facts
from tokenprune.lab.measure.journal import Journal
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.telling import Say


@dataclass(frozen=True)
class Kept:
    """The journals of a comparison's measurements.

    Attributes:
        folder: in which they lie; made with the first.
        facts: what all of its measurements depend on, as plain data.
        say: told in a line where an earlier run kept batches.
    """

    folder: Path
    facts: Mapping[str, Any]
    say: Say | None = None

    @classmethod
    def of(
        cls, folder: Path, task: Task, loaded: LoadedModel, source: Source, say: Say | None = None
    ) -> Self:
        """Of a task: model, samples, settings, machine and code, as in a study's records."""
        options, settings = source.options, source.settings
        asked = (settings.batch_size, settings.new_tokens, settings.seed, settings.frames)
        facts = {
            "weights": loaded.fingerprint(),
            "configs": loaded.configs,
            "model": [str(options.device), str(options.dtype)],
            "data": revision(task.questions, task.choices),
            "settings": [task.kind, *asked],
            "environment": environment_facts(),
            "code": code_of([Settings, type(choose_adapter(task.model))]),
        }
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
        journal = Journal(self.folder / f"{digest({**self.facts, 'plans': plans})}.jsonl")
        if self.say is not None and journal.path.exists():
            self.say(f"batches that an earlier run kept in {self.folder} are taken over")
        return journal
