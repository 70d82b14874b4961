"""Folders of pictures: their order, and the classes that subfolders stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.errors import DataError
from tokenprune.lab.data.folders import class_folders, natural, numbered_folders, pictures_in


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three classes, one without pictures, and what doesn't count."""
    for name in ("2/b.png", "2/a.JPG", "10/c.jpeg", "2/notes.txt", ".cache/d.png", "e.png"):
        file = tmp_path / "classes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "classes" / "9").mkdir()
    return tmp_path / "classes"


def test_subfolders_are_classes_in_natural_order(classes: Path) -> None:
    names, samples = class_folders(classes)
    assert names == ["2", "9", "10"]
    assert [(q.image.name, q.answer) for q in samples] == [
        ("a.JPG", "0"),
        ("b.png", "0"),
        ("c.jpeg", "2"),
    ]
    assert len({q.image_id for q in samples}) == 3
    assert [q.image.name for q in class_folders(classes, limit=1)[1]] == ["b.png"]


def test_a_classifier_needs_all_its_classes(classes: Path) -> None:
    assert len(numbered_folders(classes, 3)) == 3
    with pytest.raises(DataError, match="3 subfolders, and the model has 4 classes") as caught:
        numbered_folders(classes, 4)
    assert "'labels'" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "words"),
    [("2", "no subfolders"), ("bare", "no pictures in the subfolders"), ("none", "can't be read")],
)
def test_other_folders_are_refused(classes: Path, name: str, words: str) -> None:
    (classes / "bare" / "class").mkdir(parents=True)
    with pytest.raises(DataError, match=words):
        class_folders(classes / name)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_are_compared_as_numbers(numbers: list[int]) -> None:
    names = [f"Frame {number} of a clip" for number in numbers]
    ordered = sorted(names, key=natural)
    assert ordered == [f"Frame {number} of a clip" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=8)))
def test_any_two_names_can_be_compared(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural) == sorted(backwards, key=natural)


def test_only_files_that_end_like_pictures_count(tmp_path: Path) -> None:
    for name in ("f10.png", "f9.png", "Thumbs.db", ".f1.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == ["f9.png", "f10.png"]
