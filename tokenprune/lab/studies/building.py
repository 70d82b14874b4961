"""Which task an entry of a study is on a model, and which pairs make none."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedClassifier, LoadedDual, LoadedMllm, LoadedModel
from tokenprune.lab.clips import check_clips
from tokenprune.lab.data.candidates import Candidates, check_names, read_classes
from tokenprune.lab.data.captions import captioned_pictures
from tokenprune.lab.data.folders import class_folders, numbered_folders
from tokenprune.lab.data.hub import class_names
from tokenprune.lab.data.pictures import labelled_pictures
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.zero_shot import task_of
from tokenprune.lab.studies.model import Study, TaskEntry
from tokenprune.lab.studies.tasks import questions

MLLM = "a multimodal LLM"
VIDEOS = f"{MLLM}, since its samples are videos"
CLASSIFIER = "a classifier, such as timm:NAME, or a dual encoder, such as a folder of CLIP"
DUAL = "a dual encoder, such as a folder of CLIP"


def build_task(entry: TaskEntry, loaded: LoadedModel, study: Study) -> Task:
    """A task on a model.

    Raises:
        DataError: the samples can't be read, or don't fit the kind of model.
    """
    candidates = None
    if isinstance(loaded, LoadedDual):
        samples, candidates = zero_shot(entry, loaded)
    else:
        samples = _samples(entry, loaded)
    return task_of(loaded, samples, study.batch_size, study.generated(entry), candidates)


def _samples(entry: TaskEntry, loaded: LoadedMllm | LoadedClassifier) -> list[Question]:
    """The samples of a task for a multimodal LLM or a classifier.

    Raises:
        DataError: the task is none for this kind of model.
    """
    classifier = isinstance(loaded, LoadedClassifier)
    if entry.frames is not None and classifier:
        raise _unfit(entry, loaded, VIDEOS)
    if entry.kind == "captions":
        raise _unfit(entry, loaded, DUAL)
    if entry.kind == "pictures":
        if not isinstance(loaded, LoadedClassifier):
            raise _unfit(entry, loaded, CLASSIFIER)
        return _labelled(entry, loaded.classes)
    if classifier and entry.kind != "dataset":
        raise _unfit(entry, loaded, MLLM)
    if entry.video and isinstance(loaded, LoadedMllm):
        check_clips(loaded, f"models: {loaded.name}, task '{entry.title}'")
    return questions(entry)


def zero_shot(entry: TaskEntry, loaded: LoadedDual) -> tuple[list[Question], Candidates]:
    """The samples of a task for a dual encoder, and the answers to choose from.

    Raises:
        DataError: the task is none for dual encoders, its classes have no names, or a sample has
            no such class.
    """
    if entry.frames is not None:
        raise _unfit(entry, loaded, VIDEOS)
    if entry.kind == "captions":
        assert entry.path is not None
        samples = captioned_pictures(entry.path)
        captions = [one for sample in samples for one in (sample.answer, *sample.others)]
        return samples[: entry.limit], Candidates.of_captions(captions)
    if entry.kind not in ("pictures", "dataset"):
        raise _unfit(entry, loaded, MLLM)
    if entry.kind == "dataset" and entry.columns.question is not None:
        raise DataError(
            f"the task '{entry.title}' asks questions, and a dual encoder answers none.",
            where=f"models: {loaded.name}",
            remedy="Write columns: {question: null, answer: COLUMN} with a column of classes.",
        )
    names = _names(entry, loaded)
    candidates = Candidates.of_classes(names, entry.prompts)
    if entry.kind == "pictures":
        return _labelled(entry, len(names)), candidates
    samples = questions(entry)
    _check_classes(samples, len(names), entry)
    return samples, candidates


def _names(entry: TaskEntry, loaded: LoadedDual) -> tuple[str, ...]:
    given = entry.classes
    if given is None and entry.kind == "dataset":
        given = class_names(entry.hub)
    elif given is None and entry.labels is None:
        assert entry.path is not None
        given = tuple(class_folders(entry.path)[0])
    if given is None:
        raise DataError(
            f"the task '{entry.title}' doesn't say how its classes are called, and a dual encoder "
            "needs their names.",
            where=f"models: {loaded.name}",
            remedy="Add classes: FILE with one name a line, or a list of names.",
        )
    names = given if isinstance(given, tuple) else read_classes(given)
    check_names(names, f"tasks: {entry.title}")
    return names


def _labelled(entry: TaskEntry, classes: int) -> list[Question]:
    """Pictures with class numbers: of a list, or of the subfolders in order."""
    assert entry.path is not None
    if entry.labels is None:
        return numbered_folders(entry.path, classes, entry.limit)
    return labelled_pictures(entry.path, entry.labels, classes=classes, limit=entry.limit)


def _check_classes(samples: Sequence[Question], classes: int, entry: TaskEntry) -> None:
    known = {str(number) for number in range(classes)}
    for sample in samples:
        if sample.answer not in known:
            raise DataError(
                f"'{sample.answer}' is no class number.",
                where=f"{entry.dataset}: {entry.columns.answer}",
                remedy=f"There are {classes} class names, so write numbers from 0 to "
                f"{classes - 1}.",
            )


def _unfit(entry: TaskEntry, loaded: LoadedModel, wanted: str) -> DataError:
    return DataError(
        f"the task '{entry.kind}' needs {wanted}.",
        where=f"models: {loaded.name}",
        remedy="Pair others.",
    )
