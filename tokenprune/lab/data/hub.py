"""Questions of a Hugging Face dataset, by name or from a local folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenprune.errors import BackendUnavailableError, DataError
from tokenprune.errors.files import PICTURE_BYTES, check_file, reason
from tokenprune.errors.installing import pip_install
from tokenprune.errors.names import suggestion
from tokenprune.lab.data.question import Columns, Question, check_answered
from tokenprune.lab.data.rows import DataRow
from tokenprune.lab.data.videos import Clip

USAGE = (
    "Name columns of texts in 'columns'; that of answers may hold lists of texts, too, or without "
    "a column of questions the numbers of classes."
)


@dataclass(frozen=True)
class HubDataset:
    """Which rows of which dataset are samples, and how they are read.

    Attributes:
        name: on the hub, or a local folder.
        columns: how its columns are called.
        config: which of its configurations.
        split: which split.
        revision: a commit of the hub.
        frames: frames taken of a sample's video; None where samples are pictures.
        limit: at most so many samples.
    """

    name: str
    columns: Columns = field(default_factory=Columns)
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    frames: int | None = None
    limit: int | None = None


def dataset_questions(entry: HubDataset) -> list[Question]:
    """The samples of a dataset; pictures stay encoded until they are needed.

    Samples with the same picture count as one group in intervals. Without a column of questions,
    the answers are classes: of a column of class labels, their numbers.

    Args:
        entry: the dataset and what of it is read.

    Raises:
        DataError: there is no such dataset, split or column, or a picture is missing.
        BackendUnavailableError: the library isn't installed.
    """
    columns = entry.columns
    data = _loaded(entry)
    _check(data, columns, entry)
    _check_kind(data.features[columns.image], entry)
    groups: dict[str, int] = {}
    found = []
    for number, row in enumerate(data):
        place = DataRow(row, f"{entry.name}: row {number}", USAGE)
        first, *rest = _answers(place, columns)
        image, together = _seen(row[columns.image], entry)
        group = groups.setdefault(together, len(groups))
        found.append(
            Question(
                image=image,
                answer=first,
                text=place.text(columns.question) if columns.question else "",
                kind=place.text(columns.type, "") if columns.type else "",
                image_id=group,
                others=tuple(rest),
                where=place.where,
            )
        )
    check_answered(found, entry.name)
    return found


def _answers(row: DataRow, columns: Columns) -> tuple[str, ...]:
    """The right answers to a question; of a picture without one, the number of its class."""
    given = row.data[columns.answer]
    if columns.question is None and type(given) is int:
        return (str(given),)
    return row.answers(columns.answer)


def class_names(entry: HubDataset) -> tuple[str, ...] | None:
    """The names of a dataset's classes, where its column of answers holds class labels.

    Raises:
        DataError: there is no such dataset, split or column.
        BackendUnavailableError: the library isn't installed.
    """
    data = _loaded(entry)
    _check(data, entry.columns, entry)
    names = getattr(data.features[entry.columns.answer], "names", None)
    return None if names is None else tuple(map(str, names))


def _loaded(entry: HubDataset) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise BackendUnavailableError(
            "tasks of kind 'dataset' need the library datasets.",
            where="tasks",
            remedy=f"Install it: {pip_install('data')}.",
        ) from error
    name = entry.name
    try:
        if (Path(name) / "dataset_info.json").is_file() or (
            Path(name) / "dataset_dict.json"
        ).is_file():
            data = datasets.load_from_disk(name)
            data = data[entry.split] if isinstance(data, datasets.DatasetDict) else data
        else:
            data = datasets.load_dataset(
                name, entry.config, split=entry.split, revision=entry.revision
            )
    except Exception as error:
        # the library raises a dozen kinds of errors, and none that they share
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"the dataset can't be loaded ({reason}).",
            where=name,
            remedy="Check 'dataset', 'config', 'split' and 'revision'.",
        ) from error
    limited = data.select(range(min(entry.limit or len(data), len(data))))
    image = entry.columns.image
    if image in limited.column_names:
        limited = _undecoded(limited, image, datasets)
    return limited


def _undecoded(data: Any, column: str, datasets: Any) -> Any:
    feature = data.features[column]
    if isinstance(feature, datasets.Video):
        return data.cast_column(column, datasets.Video(decode=False))
    if isinstance(feature, datasets.Image):
        return data.cast_column(column, datasets.Image(decode=False))
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else None)
    if isinstance(inner, datasets.Image):
        return data.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return data


def _check(data: Any, columns: Columns, entry: HubDataset) -> None:
    for key, column in columns.model_dump(exclude_none=True).items():
        if column not in data.column_names:
            raise DataError(
                f"the dataset has no column '{column}'.",
                where=f"{entry.name}: columns.{key}",
                remedy=suggestion(column, data.column_names),
            )


def _check_kind(feature: Any, entry: HubDataset) -> None:
    """Videos go with `frames` and single pictures without; lists of pictures are either."""
    kind = type(feature).__name__
    if (kind == "Video" and entry.frames is None) or (kind == "Image" and entry.frames is not None):
        held, remedy = "single pictures", "Leave 'frames' out, or name a column of videos."
        if kind == "Video":
            held, remedy = "videos", "Say how many frames are taken of each, such as frames: 8."
        raise DataError(
            f"the column '{entry.columns.image}' holds {held}.",
            where=entry.name,
            remedy=remedy,
        )


def _seen(value: Any, entry: HubDataset) -> tuple[bytes | tuple[bytes, ...] | Clip, str]:
    """What a sample shows, and what is the same for samples that show the same."""
    if entry.frames is not None and not isinstance(value, list | tuple):
        clip = _clip(value, entry, entry.frames)
        return clip, clip.digest().hex()
    encoded = _encoded(value, entry)
    together = hashlib.sha256(b"".join(encoded)).hexdigest()
    if entry.frames is not None:
        return Clip(encoded, entry.frames, entry.name), together
    return (encoded if len(encoded) > 1 else encoded[0]), together


def _clip(value: Any, entry: HubDataset, frames: int) -> Clip:
    """A video by its file where it has one, so that memory holds no videos without need."""
    name = f"{entry.name}: {entry.columns.image}"
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        raise DataError(
            f"the column '{entry.columns.image}' holds no videos.",
            where=entry.name,
            remedy="Name a column of videos, or of lists of frames, in 'columns'.",
        )
    if value.get("bytes"):
        return Clip(value["bytes"], frames, name).checked()
    return Clip.of(Path(value["path"]), frames, name)


def _encoded(value: Any, entry: HubDataset) -> tuple[bytes, ...]:
    """The bytes of a sample's pictures."""
    several = value if isinstance(value, list | tuple) else [value]
    found = []
    for one in several:
        if not isinstance(one, dict) or not (one.get("bytes") or one.get("path")):
            raise DataError(
                f"the column '{entry.columns.image}' holds no pictures.",
                where=entry.name,
                remedy="Name a column of images in 'columns'.",
            )
        found.append(one["bytes"] or _read(Path(one["path"]), entry))
    if not found:
        raise DataError("a sample has no picture.", where=entry.name)
    return tuple(found)


def _read(path: Path, entry: HubDataset) -> bytes:
    try:
        check_file(path, PICTURE_BYTES)
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the picture '{path}' can't be read ({reason(error)}).", where=entry.name
        ) from error
