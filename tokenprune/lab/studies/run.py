"""Running a study: validate everything, skip what is recorded, record what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attach import attach
from tokenprune.errors import TokenpruneError
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.clips import on_clips
from tokenprune.lab.data.checking import check_samples
from tokenprune.lab.data.opening import revision
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.metrics import chosen_metrics
from tokenprune.lab.studies.baselines import may_lack, missing_baselines
from tokenprune.lab.studies.code import code_of, method_facts
from tokenprune.lab.studies.execute import cell_task, loaded_model, model_of
from tokenprune.lab.studies.load import Cell, cells, identity
from tokenprune.lab.studies.model import Study, TaskEntry
from tokenprune.lab.studies.older import older_keys
from tokenprune.lab.studies.reporters import Announcer, Opening, Reporter
from tokenprune.lab.studies.runners import LocalRunner, Runner
from tokenprune.lab.studies.store import Damaged, Record, Store, digest

Tell = Callable[[int, int, str], None]
Known = tuple[Cell, dict[str, Any]]

#: Facts of the environment that make a measurement another one.
FACTS = ("python", "system", "processor", "accelerator", "packages")

#: Keys of the study that make it another one, too.
SETTINGS = {"batch_size", "seed", "metrics"}


@dataclass
class Finished:
    """What a run did.

    Attributes:
        records: of all cells, in the study's order, where there is one.
        ran: labels of the cells that ran now.
        failed: labels of failed cells, with the reason.
        damaged: keys of records that were damaged and run again, with what was wrong.
        elsewhere: labels of cells that another run is working on.
        added: labels of the cells that the study added as baselines.
    """

    records: list[Record] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)


def identified(study: Study, check: int | None = None) -> list[Known]:
    """Every cell with its identity; each plan is attached once, so bad ones end it here.

    Args:
        study: all cells of it.
        check: pictures that are opened, see `check_samples`.

    Raises:
        TokenpruneError: a model, a task or a plan that doesn't fit.
    """
    metrics = chosen_metrics(study.metrics)
    found, facts, checked = [], dict[str, dict[str, Any]](), list[TaskEntry]()
    environment = {name: describe_environment()[name] for name in FACTS}
    for cell in with_baselines(study):
        pair = digest([cell.model.model_dump(mode="json"), cell.task.model_dump(mode="json")])
        task = cell_task(cell, study)
        if pair not in facts:
            if cell.task not in checked:
                check_samples(task.questions, check)
                checked.append(cell.task)
            loaded = loaded_model(model_of(cell.model, cell.task), cell.model)
            facts[pair] = {
                "weights": loaded.fingerprint(),
                "configs": loaded.configs,
                "data": revision(task.questions, task.choices),
                "settings": {
                    **study.model_dump(mode="json", include=SETTINGS),
                    "new_tokens": study.generated(cell.task),
                },
                "environment": environment,
                "code": code_of([Study, type(choose_adapter(task.model)), *map(type, metrics)]),
            }
        try:
            attach(task.model, cell.plan).detach()
        except TokenpruneError as error:
            error.where = ": ".join(filter(None, (cell.label, error.where)))
            raise
        about = {**facts[pair], "methods": method_facts(cell.plan)}
        found.append((cell, identity(cell, about)))
    return found


def with_baselines(study: Study) -> list[Cell]:
    """The study's cells, and behind them the random plans that it lacks; see `Study.add_random`.

    Plans of cells about clips are as they run on the cell's model.

    Raises:
        TokenpruneError: a model, a task or a plan that doesn't fit.
    """
    found = [_on_model(cell) for cell in cells(study)]
    if not study.add_random:
        return found
    added: list[Cell] = []
    for _, several in groupby(found, key=lambda cell: (cell.model, cell.task)):
        mine = list(several)
        first, plans = mine[0], [(cell.name, cell.plan) for cell in mine]
        if not may_lack(plan for _, plan in plans):
            continue
        model = loaded_model(model_of(first.model, first.task), first.model).model
        for name, plan in missing_baselines(model, plans):
            number = len(found) + len(added)
            added.append(Cell(number, first.model, first.task, name, plan, added=True))
    return found + added


def _on_model(cell: Cell) -> Cell:
    """The cell, with its plan as it runs on clips if it is about these."""
    if not cell.task.video:
        return cell
    loaded = loaded_model(model_of(cell.model, cell.task), cell.model)
    if not isinstance(loaded, LoadedMllm):  # refused with its task
        return cell
    return replace(cell, plan=on_clips(cell.plan, loaded))


def run_study(
    study: Study,
    runner: Runner | None = None,
    tell: Tell | None = None,
    reporters: Sequence[Reporter] = (),
    *,
    check: int | None = None,
) -> Finished:
    """Run what has no record yet.

    Args:
        study: what to run.
        runner: where; default: in this process.
        tell: told (cells done, cells in all, what was last).
        reporters: told how it goes; what goes wrong with one is a warning.
        check: pictures that are opened before anything runs, see `check_samples`.

    Raises:
        TokenpruneError: bad input of any kind; nothing has run then.
    """
    store, done = Store(study.out), Finished()
    known = identified(study, check)
    done.added = [cell.label for cell, _ in known if cell.added]
    store.note(study.name, [digest(about) for _, about in known])
    announcer = Announcer(reporters)
    with ExitStack() as claims:
        waiting = _waiting(known, store, done, claims)
        labels = tuple(cell.label for cell in waiting)
        older = older_keys(store, [known[cell.number][1] for cell in waiting])
        opening = Opening(study.name, str(study.out), labels, tuple(done.added), len(older))
        claims.enter_context(announcer.study(opening))
        if tell is not None:
            tell(0, len(waiting), "")
        results = (runner or LocalRunner()).run(waiting, study)
        for count, (cell, status, result) in enumerate(results, start=1):
            written = Record(known[cell.number][1], status, result)
            store.write(written)
            announcer.recorded(cell.label, written)
            done.ran.append(cell.label)
            if tell is not None:
                tell(count, len(waiting), cell.label)
    for cell, about in known:
        record = _read(store, digest(about), done)
        if record is not None:
            done.records.append(record)
            if record.status == "failed":
                done.failed[cell.label] = str(record.result.get("reason", ""))
    return done


def _waiting(known: Sequence[Known], store: Store, done: Finished, claims: ExitStack) -> list[Cell]:
    """Cells without a good record that no other run works on; failed ones are tried again."""
    waiting = []
    for cell, about in known:
        key = digest(about)
        with ExitStack() as claim:
            if not claim.enter_context(store.claimed(key)):
                done.elsewhere.append(cell.label)
                continue
            record = _read(store, key, done)  # after the claim: another run may just have ended
            if record is None or record.status != "done":
                waiting.append(cell)
                claims.push(claim.pop_all())
    return waiting


def _read(store: Store, key: str, done: Finished) -> Record | None:
    try:
        return store.read(key)
    except Damaged as error:
        done.damaged[key] = str(error)
        return None
