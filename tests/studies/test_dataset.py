"""Hugging Face datasets as tasks, from folders that the tests make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.compare.tiny import save_pictures
from tokenprune.errors import DataError
from tokenprune.lab.data.hub import dataset_questions
from tokenprune.lab.data.opening import opened, revision
from tokenprune.lab.data.question import Columns
from tokenprune.lab.measure.task import ClassifyTask
from tokenprune.lab.studies.building import build_task
from tokenprune.lab.studies.model import Study, TaskEntry

datasets = pytest.importorskip("datasets", reason="the extra 'data' isn't installed")

ASKED = Columns(image="picture", question="asked", answer="said", type="sort")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, the first asked about twice."""
    place = tmp_path_factory.mktemp("dataset")
    save_pictures(place, 3)
    names = [str(place / f"{number}.png") for number in (0, 1, 2, 0)]
    rows = {
        "picture": names,
        "several": [[names[0], names[1]]] * 4,
        "asked": [f"what is {number} ?" for number in range(4)],
        "said": ["yes", "no", "red", "blue"],
        "sort": ["a", "b", "b", "a"],
        "label": [0, 1, 2, 0],
    }
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "several": datasets.List(datasets.Image()),
            "asked": datasets.Value("string"),
            "said": datasets.Value("string"),
            "sort": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["x", "y", "z"]),
        }
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"test": made}).save_to_disk(place / "saved")
    (place / "parquet").mkdir()
    made.to_parquet(place / "parquet" / "test.parquet")
    return place


def entry(folder: Path, **changes: Any) -> TaskEntry:
    given = {"kind": "dataset", "dataset": str(folder), "columns": ASKED}
    return TaskEntry.model_validate(given | changes)


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("_own_cache")
def test_a_folder_of_parquet_files_and_a_saved_one_hold_the_same(folder: Path) -> None:
    saved = dataset_questions(entry(folder / "saved").hub)
    parquet = dataset_questions(entry(folder / "parquet").hub)
    assert [(q.text, q.answer, q.kind, q.image_id) for q in saved] == [
        ("what is 0 ?", "yes", "a", 0),
        ("what is 1 ?", "no", "b", 1),
        ("what is 2 ?", "red", "b", 2),
        ("what is 3 ?", "blue", "a", 0),
    ]
    assert revision(saved) == revision(parquet)
    assert len(dataset_questions(entry(folder / "saved", limit=2).hub)) == 2


def test_pictures_are_those_of_the_files(folder: Path) -> None:
    from tokenprune.lab.data.reading import open_picture

    asked = dataset_questions(entry(folder / "saved").hub)[1]
    assert opened(asked.image).tobytes() == open_picture(folder / "1.png").tobytes()
    several = ASKED.model_copy(update={"image": "several"})
    pair = dataset_questions(entry(folder / "saved", columns=several).hub)[0]
    assert [one.tobytes() for one in opened(pair.image)] == [
        open_picture(folder / f"{number}.png").tobytes() for number in (0, 1)
    ]


def test_classes_for_a_classifier(folder: Path) -> None:
    import torch

    from tokenprune.interface.loading import LoadedClassifier

    labels = Columns(image="picture", question=None, answer="label")
    task = entry(folder / "saved", columns=labels)
    module = torch.nn.Linear(1, 3)
    loaded = LoadedClassifier(
        "toy", module, lambda p: torch.ones(len(p), 1), lambda p: p, 3, str, "none"
    )
    study = Study.model_validate({"out": "out", "plans": [{"plan": {"stages": []}}]})
    built = build_task(task, loaded, study)
    assert isinstance(built, ClassifyTask)
    assert [question.answer for question in built.questions] == ["0", "1", "2", "0"]
    assert built.inputs(built.questions[:2]).shape == (2, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": Columns(image="picture", question="ask", answer="said")}, "column 'ask'"),
        ({"columns": Columns(image="said", question="asked", answer="said")}, "no pictures"),
        ({"split": "train"}, "can't be loaded"),
        ({"dataset": "/nowhere/at/all"}, "can't be loaded"),
    ],
)
def test_what_does_not_fit_is_said(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        dataset_questions(entry(folder / "saved", **changes).hub)


def test_a_name_goes_with_the_kind() -> None:
    with pytest.raises(ValidationError, match="goes with the kind"):
        TaskEntry(kind="image", dataset="some/set")
    with pytest.raises(ValidationError, match="goes with the kind"):
        TaskEntry(kind="dataset")
