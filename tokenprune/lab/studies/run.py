"""Running a study: validate everything, skip what is recorded, record what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attach import attach
from tokenprune.errors import TokenpruneError
from tokenprune.interface.loading import LoadedMllm, LoadedModel
from tokenprune.lab.clips import on_clips
from tokenprune.lab.data.checking import check_samples
from tokenprune.lab.data.opening import revision
from tokenprune.lab.measure.code import code_of, digest, method_facts
from tokenprune.lab.measure.environment import environment_facts
from tokenprune.lab.measure.metrics import chosen_metrics
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.studies.baselines import may_lack, missing_baselines
from tokenprune.lab.studies.execute import cell_task, loaded_model, model_of
from tokenprune.lab.studies.load import Cell, cells, identity
from tokenprune.lab.studies.model import Study, TaskEntry
from tokenprune.lab.studies.older import older_keys
from tokenprune.lab.studies.reporters import Announcer, Opening, Reporter
from tokenprune.lab.studies.runners import LocalRunner, Runner
from tokenprune.lab.studies.store import Damaged, Record, Store

Known = tuple[Cell, dict[str, Any]]

#: An entry of the study's plans, and one of the names that its grid makes.
Named = tuple[int, str]

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
    """Every cell with its identity, and behind the study's own those of the random plans it lacks.

    Each plan is attached once to each model; plans of cells about clips are as they run on the
    cell's model. Where a plan doesn't fit, its cell says so (`Cell.unfit`), if it fits another one.

    Args:
        study: all cells of it; see `Study.add_random`.
        check: pictures that are opened, see `check_samples`.

    Raises:
        TokenpruneError: a model or a task that doesn't fit, or a plan that fits none of them.
    """
    metrics = chosen_metrics(study.metrics)
    environment = environment_facts()
    given, added, checked = list[Known](), list[Known](), list[TaskEntry]()
    all_cells, refused = cells(study), dict[Named, TokenpruneError]()
    for _, several in groupby(all_cells, key=lambda cell: (cell.model, cell.task)):
        mine = list(several)
        first = mine[0]
        task = cell_task(first, study)
        if first.task not in checked:
            check_samples(task.questions, check)
            checked.append(first.task)
        loaded = loaded_model(model_of(first.model, first.task), first.model)
        facts = {
            "weights": loaded.fingerprint(),
            "configs": loaded.configs,
            "data": revision(task.questions, task.choices),
            "settings": {
                **study.model_dump(mode="json", include=SETTINGS),
                "new_tokens": study.generated(first.task),
            },
            "environment": environment,
            "code": code_of([Study, type(choose_adapter(task.model)), *map(type, metrics)]),
        }
        tried = [_tried(cell, loaded, refused) for cell in mine]
        number = len(all_cells) + len(added)
        given += [_known(cell, facts) for cell in tried]
        if study.add_random:
            added += [_known(cell, facts) for cell in _baselines(tried, loaded, number)]
    fits = {_named(cell) for cell, _ in given if not cell.unfit}
    for plan, error in refused.items():
        if plan not in fits:
            raise error
    return given + added


def _known(cell: Cell, facts: Mapping[str, Any]) -> Known:
    return cell, identity(cell, {**facts, "methods": method_facts(cell.plan)})


def _named(cell: Cell) -> Named:
    """Which plan of the study a cell is of, on whatever model; others may share its name there."""
    return cell.entry, cell.name


def _tried(cell: Cell, loaded: LoadedModel, refused: dict[Named, TokenpruneError]) -> Cell:
    """The cell with its plan as it runs on the model, and with the reason if it doesn't fit.

    Args:
        cell: the cell.
        loaded: its model.
        refused: the first refusal of every plan; one is added.

    Raises:
        TokenpruneError: the model isn't served.
    """
    if cell.task.video and isinstance(loaded, LoadedMllm):
        cell = replace(cell, plan=on_clips(cell.plan, loaded))
    try:
        attach(loaded.model, cell.plan).detach()
    except TokenpruneError as error:
        reason = f"its plan doesn't fit the model: {error}"
        error.where = ": ".join(filter(None, (cell.label, error.where)))
        if not cell.plan.stages:
            raise
        # frames hold the model, of which only two are kept
        error.__traceback__ = error.__cause__ = error.__context__ = None
        refused.setdefault(_named(cell), error)
        return replace(cell, unfit=reason)
    return cell


def _baselines(tried: Sequence[Cell], loaded: LoadedModel, number: int) -> list[Cell]:
    """Cells of the random plans that a model's plans lack on a task, numbered from `number` on."""
    plans = [(cell.name, cell.plan) for cell in tried if not cell.unfit]
    if not may_lack(plan for _, plan in plans):
        return []
    model, task = tried[0].model, tried[0].task
    return [
        Cell(place, model, task, name, plan, added=True)
        for place, (name, plan) in enumerate(missing_baselines(loaded.model, plans), number)
    ]


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
        unfit = [cell for cell in waiting if cell.unfit]
        waiting = [cell for cell in waiting if not cell.unfit]
        labels = tuple(cell.label for cell in waiting)
        older = older_keys(store, [known[cell.number][1] for cell in waiting])
        reasons = {cell.label: cell.unfit for cell in unfit}
        opening = Opening(
            study.name, str(study.out), labels, tuple(done.added), len(older), reasons
        )
        claims.enter_context(announcer.study(opening))
        for cell in unfit:
            store.write(Record(known[cell.number][1], "failed", {"reason": cell.unfit}))
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
