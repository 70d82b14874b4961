"""What a comparison runs on: samples for the kind of model, and the plans that fit it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attach import attach
from tokenprune.errors import DataError, SignalError, UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import (
    LoadedClassifier,
    LoadedDual,
    LoadedMllm,
    LoadedModel,
    LoadOptions,
)
from tokenprune.interface.strategy import PruningStrategy
from tokenprune.lab.clips import check_clips, on_clips
from tokenprune.lab.compare.chosen import chosen
from tokenprune.lab.compare.defaults import Wanted, default_entries, encoder_entries
from tokenprune.lab.compare.keeps import Shown, encoder_keeps, mllm_keeps
from tokenprune.lab.compare.matching import equal_tokens
from tokenprune.lab.compare.settings import Settings
from tokenprune.lab.data.builtin import BUILT_IN
from tokenprune.lab.data.candidates import PROMPTS, Candidates, check_prompts, read_classes
from tokenprune.lab.data.pictures import labelled_pictures
from tokenprune.lab.data.question import Question
from tokenprune.lab.judge.result import BASELINE
from tokenprune.lab.measure.entries import Entry, Strategies, plan_entries
from tokenprune.lab.measure.run import why
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.zero_shot import task_of
from tokenprune.lab.models import bundled_name, load_model
from tokenprune.lab.trained import check_trained_for
from tokenprune.plugins.host import host
from tokenprune.plugins.strategies import strategy_class


@dataclass(frozen=True)
class Source:
    """Everything another process needs to build the same task.

    Attributes:
        model: what stands behind `--model`.
        options: how it is loaded.
        settings: what to compare.
        images: folder of pictures, for encoders.
        labels: CSV with their classes.
        classes: file with the names of the classes, for dual encoders.
        prompts: templates for the names.
    """

    model: str
    options: LoadOptions
    settings: Settings
    images: Path | None = None
    labels: Path | None = None
    classes: Path | None = None
    prompts: tuple[str, ...] = PROMPTS

    def task(self, loaded: LoadedModel | None = None) -> Task:
        """The samples with the model, which is loaded if it isn't given.

        Raises:
            TokenpruneError: the model or the samples can't be read, or don't fit each other.
        """
        loaded = load_model(self.model, self.options) if loaded is None else loaded
        settings = self.settings
        if not isinstance(loaded, LoadedDual) and (self.classes or self.prompts != PROMPTS):
            raise DataError(
                "only dual encoders are asked by the names of classes.",
                where="--classes" if self.classes else "--prompt",
                remedy="Leave it away, or pass the folder of a dual encoder, such as CLIP.",
            )
        candidates = None
        if isinstance(loaded, LoadedMllm):
            self._check_own_pictures()
            if settings.video:
                check_clips(loaded, "--task video")
            samples = _questions(settings)
        elif isinstance(loaded, LoadedClassifier):
            samples = self._pictures(loaded.classes)
        else:
            names = self._names(loaded)
            candidates = Candidates.of_classes(names, self.prompts)
            samples = self._pictures(len(names))
        return task_of(loaded, samples, settings.batch_size, settings.new_tokens, candidates)

    def _check_own_pictures(self) -> None:
        """Refuse what would be ignored: multimodal LLMs are asked the built-in questions."""
        given = {
            "--images": self.images is not None,
            "--labels": self.labels is not None,
            "--split": self.settings.split != "all",
        }
        for option, there in given.items():
            if there:
                raise DataError(
                    "labelled pictures are for encoders, and this model is a multimodal LLM, which "
                    "is asked the built-in questions.",
                    where=option,
                    remedy="Pass --model timm:NAME or the folder of a dual encoder, or ask your "
                    "own questions in a study: tokenprune study.",
                )

    def about(self, loaded: LoadedModel) -> dict[str, Any]:
        """Where the samples come from, for the record."""
        if isinstance(loaded, LoadedMllm):
            shown = "clips" if self.settings.video else "pictures"
            about = {"task": self.settings.task}
            return {"name": f"built-in held-out questions about {shown}", **about}
        assert self.labels is not None
        split = self.settings.split
        about = {"name": "labelled pictures", "labels": self.labels.name, "split": split}
        if not isinstance(loaded, LoadedDual):
            return about
        assert self.classes is not None
        return {**about, "classes": self.classes.name, "prompts": list(self.prompts)}

    def _names(self, loaded: LoadedDual) -> tuple[str, ...]:
        check_prompts(self.prompts)
        if self.classes is not None:
            return read_classes(self.classes)
        raise DataError(
            "a dual encoder is compared on pictures whose classes have names.",
            where=f"--model {loaded.name}",
            remedy="Pass --images FOLDER, --labels FILE.csv and --classes NAMES.txt.",
        )

    def _pictures(self, classes: int) -> list[Question]:
        if self.settings.video:
            raise DataError(
                "an encoder answers no questions about videos.",
                where="--task video",
                remedy="Pass a multimodal LLM, or leave --task away.",
            )
        if self.images is None or self.labels is None:
            raise DataError(
                "an encoder is compared on labelled pictures.",
                where=f"--model {self.model}",
                remedy="Pass --images FOLDER and --labels FILE.csv.",
            )
        split, limit = self.settings.split, self.settings.limit
        return labelled_pictures(
            self.images, self.labels, classes=classes, split=split, limit=limit
        )


def build_entries(loaded: LoadedModel, settings: Settings) -> tuple[list[Entry], list[str]]:
    """The rows, and sentences about default ones that don't run on this model.

    Raises:
        TokenpruneError: one of the user's plans doesn't fit the model, or a budget doesn't:
            the baseline can't keep so many tokens.
    """
    if settings.plans:
        given = plan_entries(settings.plans, settings.keeps, host().strategies)
        for entry in given:
            check_trained_for(loaded, entry.plan)
        return [_on_task(entry, loaded, settings) for entry in given], []
    strategies = compared_strategies(loaded, settings)
    unsaid: list[str] = []
    if isinstance(loaded, LoadedMllm):
        shown = Shown.to(loaded, settings.task)
        wanted, unsaid = _wanted(loaded, settings, shown)
        rows = partial(default_entries, wanted=wanted)
    else:
        shown = Shown(0)
        keeps = settings.keeps or encoder_keeps(loaded)
        rows = partial(encoder_entries, keeps=keeps, seed=settings.seed)
    sound, broken = _describable(strategies, rows)
    entries = [_on_task(entry, loaded, settings) for entry in rows(sound)]
    if settings.match == "tokens":
        entries = [equal_tokens(entry, shown.tiles) for entry in entries]
    found, left_out = _fitting(loaded, entries)
    return found, [*unsaid, *broken, *left_out]


def _on_task(entry: Entry, loaded: LoadedModel, settings: Settings) -> Entry:
    """The row as it runs on the task's samples."""
    if not settings.video or not isinstance(loaded, LoadedMllm):
        return entry
    return replace(entry, plan=on_clips(entry.plan, loaded))


def compared_strategies(loaded: LoadedModel, settings: Settings) -> Strategies:
    """Those that are compared without plans; of an encoder all, few enough can stand in one.

    Raises:
        DataError: a family was asked for that an encoder doesn't have.
    """
    if isinstance(loaded, LoadedMllm):
        return chosen(host().strategies, every=settings.every, family=settings.family)
    if settings.family is not None:
        raise DataError(
            "in an encoder every strategy that can stand there is compared.",
            where="--family",
            remedy="Leave it away, or pass a multimodal LLM.",
        )
    return host().strategies


def _wanted(loaded: LoadedMllm, settings: Settings, shown: Shown) -> tuple[Wanted, list[str]]:
    """What the default rows depend on, and sentences about kinds of rows that can't be."""
    adapter = choose_adapter(loaded.model)
    assert isinstance(adapter, MllmAdapter)
    positions, why_not = settings.positions, adapter.spec().renumbers
    unsaid = []
    if positions == "both" and why_not is not None:
        positions = "original"
        unsaid = [f"rows with renumbered position ids are left out: {why_not}"]
    wanted = Wanted(
        keeps=settings.keeps or mllm_keeps(shown.units, settings.task),
        positions=positions,
        seed=settings.seed,
        video=settings.video,
        trained_for=bundled_name(loaded.name),
        layers=len(adapter.spec().layers),
    )
    return wanted, unsaid


def _describable(
    strategies: Strategies, rows: Callable[[Strategies], list[Entry]]
) -> tuple[Strategies, list[str]]:
    """The strategies that rows can be made of, and sentences about the others.

    What strategies declare is code of plugins too, such as a layer that depends on the depth.
    """
    sound: dict[str, type[PruningStrategy[Any]]] = {}
    left_out = []
    for name, kind in strategies.items():
        try:
            rows({name: kind})
        except Exception as error:
            left_out.append(f"{name} is left out: {why(error, kind)}")
        else:
            sound[name] = kind
    return sound, left_out


def _fitting(loaded: LoadedModel, entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The default rows without those that can't stand on this model, and sentences about these.

    What the baseline can't do is no strategy's fault, such as a budget above the patches: that
    ends everything. Only places that a whole model refuses are left out for the baseline too.
    """
    found: list[Entry] = []
    reasons: dict[str, list[tuple[Entry, str]]] = defaultdict(list)
    for entry in entries:
        try:
            attach(loaded.model, entry.plan).detach()
        except Exception as error:
            refused = isinstance(error, SignalError | UnsupportedModelError)
            if entry.strategy == BASELINE and not refused:
                raise
            kinds = [strategy_class(stage.strategy) for stage in entry.plan.stages]
            reasons[entry.name].append((entry, why(error, *kinds)))
        else:
            found.append(replace(entry, optional=entry.strategy != BASELINE))
    stand = {entry.name for entry in found}
    return found, [_left_out(mine, name in stand) for name, mine in reasons.items()]


def _left_out(refused: Sequence[tuple[Entry, str]], partly: bool) -> str:
    """A sentence about the rows of one strategy, with the reason of the first.

    Args:
        refused: the rows that can't stand, with their reasons.
        partly: whether the strategy stands at other budgets.
    """
    entry, reason = refused[0]
    budgets = f" at {', '.join(one.peers for one, _ in refused)}" if partly else ""
    return f"{entry.name}{budgets} is left out: {reason}"


def _questions(settings: Settings) -> list[Question]:
    task = BUILT_IN[settings.task]
    return task.questions(settings.limit or task.usual)
