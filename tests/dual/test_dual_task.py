"""Zero-shot answers against loops over the model's own outputs, and what they are chosen from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.dual import tiny
from tokenprune.engine.attach import attach
from tokenprune.errors import DataError, TokenpruneError
from tokenprune.interface.loading import LoadedDual
from tokenprune.lab.data.candidates import Candidates, read_classes
from tokenprune.lab.data.captions import captioned_pictures
from tokenprune.lab.data.question import Question
from tokenprune.lab.greedy import largest
from tokenprune.lab.measure.zero_shot import ZeroShotTask

PLAN = {"stages": [{"at": "encoder", "strategy": "random", "keep": 4}]}


def asked(colours: Path) -> list[Question]:
    return captioned_pictures(colours / "captions.jsonl")


def answers(task: ZeroShotTask) -> list[str]:
    found = []
    with torch.no_grad():
        for batch in task.batches:
            inputs = task.inputs(batch)
            found += task.read(inputs, task.call(inputs))
    return found


def unit(vector: Tensor) -> Tensor:
    return vector / vector.pow(2).sum().sqrt()


def naive(one: LoadedDual, questions: Sequence[Question], texts: Sequence[Sequence[str]]) -> Any:
    """The nearest candidate by loops: one picture, one text and one product at a time."""
    model: Any = one.model
    means = []
    for several in texts:
        vectors = [unit(one.texts([text])[0]) for text in several]
        means.append(unit(torch.stack(vectors).sum(dim=0) / len(vectors)))
    found = []
    for question in questions:
        from PIL import Image

        inputs = one.prepare([Image.open(question.image)])
        with torch.no_grad():
            picture = unit(model.get_image_features(**inputs).pooler_output[0])
        best, nearest = -2.0, -1
        for number, mean in enumerate(means):
            cosine = sum(float(a) * float(b) for a, b in zip(picture, mean, strict=True))
            if cosine > best:
                best, nearest = cosine, number
        found.append(nearest)
    return found


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
@pytest.mark.parametrize("pruned", [False, True])
def test_answers_are_the_nearest_texts(
    family: str, pruned: bool, loaded: dict[str, LoadedDual], colours: Path
) -> None:
    one = loaded[family]
    words = ("red", "a", "the", "green", "black", "photo")
    candidates = Candidates.of_classes(words, tiny.PROMPTS)
    task = ZeroShotTask(one, asked(colours), 5, candidates)
    with attach(one.model, PLAN if pruned else {"stages": []}):
        found = answers(task)
        expected = naive(one, task.questions, candidates.texts)
    assert found == [str(number) for number in expected]
    assert len(set(found)) > 1


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_fitted_models_know_their_colours(
    family: str, loaded: dict[str, LoadedDual], colours: Path
) -> None:
    task = ZeroShotTask(loaded[family], asked(colours), 4, Candidates.of_classes(tiny.NAMES))
    right = [number % len(tiny.NAMES) for number in range(len(task.questions))]
    hits = [int(answer) == wanted for answer, wanted in zip(answers(task), right, strict=True)]
    assert sum(hits) > 0.7 * len(hits)


def test_ties_go_to_the_lower_number(loaded: dict[str, LoadedDual], colours: Path) -> None:
    twice = Candidates.of_classes([*tiny.NAMES, *tiny.NAMES])
    once = Candidates.of_classes(tiny.NAMES)
    found = [answers(ZeroShotTask(loaded["clip"], asked(colours), 3, one)) for one in (twice, once)]
    assert found[0] == found[1]


def test_texts_are_embedded_once_a_process(loaded: dict[str, LoadedDual], colours: Path) -> None:
    given: list[list[str]] = []

    def counted(texts: Sequence[str]) -> Tensor:
        given.append(list(texts))
        return loaded["clip"].texts(texts)

    one = replace(loaded["clip"], texts=counted)
    names = ["one red", "one blue", "one red"]
    for _ in range(2):
        answers(ZeroShotTask(one, asked(colours), 3, Candidates.of_classes(names, ["it is {}"])))
    assert given == [["it is one red", "it is one blue"]]


def test_every_place_of_a_prompt_takes_the_name() -> None:
    found = Candidates.of_classes(["a {b}", "c"], ["{} or {}", "{}"])
    assert found.texts == (("a {b} or a {b}", "a {b}"), ("c or c", "c"))
    assert found.answers == ("0", "1")


def test_captions_are_chosen_from_once_each() -> None:
    found = Candidates.of_captions(["b", "a", "b"])
    assert (found.answers, found.texts) == (("b", "a"), (("b",), ("a",)))


def test_any_of_several_answers_is_right(loaded: dict[str, LoadedDual], colours: Path) -> None:
    question = Question(colours / "0.png", "First one.", others=("second",))
    task = ZeroShotTask(loaded["clip"], [question], 1, Candidates.of_captions(["second"]))
    assert [task.right(said, question) for said in ("first one", "Second.", "third")] == [
        True,
        True,
        False,
    ]
    assert question.matched("Second.") == "second"
    assert question.matched("third") == "First one."


def test_captions_of_one_picture_come_together(colours: Path, tmp_path: Path) -> None:
    tiny.save_colours(tmp_path, 1)
    file = tmp_path / "some.jsonl"
    file.write_text(
        '{"image": "1.png", "caption": ["x", "y"], "type": "t"}\n\n'
        '{"image": "0.png", "caption": "x"}\n{"image": "1.png", "caption": "z"}\n'
    )
    first, second = captioned_pictures(file)
    assert (first.image, first.answer, first.others) == (tmp_path / "1.png", "x", ("y", "z"))
    assert (second.image.name, second.answer, second.others) == ("0.png", "x", ())
    assert (first.kind, second.kind, first.image_id, second.image_id) == ("t", "", 0, 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no captions"),
        ("{", "no JSON"),
        ("[1]", "no object"),
        ('{"caption": "x"}', "no 'image'"),
        ('{"image": "7.png", "caption": "x"}', "there is no picture"),
        ('{"image": "0.png"}', "no 'caption'"),
        ('{"image": "0.png", "caption": ["x", " "]}', "a 'caption' is empty"),
        ('{"image": "0.png", "caption": []}', "'caption' names none"),
    ],
)
def test_bad_captions(tmp_path: Path, line: str, words: str) -> None:
    tiny.save_colours(tmp_path, 1)
    file = tmp_path / "bad.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        captioned_pictures(file)
    assert "bad.jsonl" in caught.value.where


def test_class_names_stand_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("great white shark \nhen\n")
    assert read_classes(file) == ("great white shark", "hen")
    for content, words in (("", "no class names"), ("hen\n\ncock\n", "the line is empty")):
        file.write_text(content)
        with pytest.raises(DataError, match=words):
            read_classes(file)
    with pytest.raises(DataError, match="can't be read"):
        read_classes(tmp_path)


def test_candidates_that_half_precision_takes_for_equal_are_told_apart() -> None:
    task = object.__new__(ZeroShotTask)
    task._candidates = Candidates.of_classes(("a", "b"))
    near = torch.tensor([[0.5, 0.5], [0.5, 0.50390625]])
    picture = torch.tensor([[1.0, 0.25]]).bfloat16()
    task.__dict__["_vectors"] = near.bfloat16()
    assert len((picture @ task._vectors.T).unique()) == 1
    assert task.read({}, picture) == ["1"]


def test_scores_that_are_no_numbers_end_it() -> None:
    assert largest(torch.tensor([[1.0, 3.0, 3.0], [2.0, -math.inf, 1.0]])) == [1, 0]
    for value in (math.nan, math.inf):
        with pytest.raises(TokenpruneError, match="scores of 1 picture are NaN or inf") as caught:
            largest(torch.tensor([[1.0, value], [2.0, 1.0]]))
        assert "float32" in caught.value.remedy
