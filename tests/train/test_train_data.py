from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.train.tiny import picture, tiny
from tokenprune.errors import DataError, UnsupportedModelError
from tokenprune.interface.trainable import IGNORE, Phase
from tokenprune.lab.data.question import Question
from tokenprune.lab.train import FileStream, ReferenceStream, TrainSettings
from tokenprune.lab.train.batches import make_batch
from tokenprune.lab.train.data import opened
from tokenprune.lab.train.heldout import questions_for
from tokenprune.lab.train.settings import rate, spans
from tokenprune.reference import TYPES, iter_heldout
from tokenprune.reference.heldout import HELDOUT_SEED

GOOD = '{"image": "a.png", "question": "what is it", "answer": "a star"}'


def test_the_stream_asks_several_questions_about_a_picture() -> None:
    drawn = ReferenceStream(3).draw(5, 4, 3)
    assert len(drawn) == 12
    assert {question.kind for question in drawn} <= set(TYPES)
    for first in range(0, 12, 3):
        assert all(q.image is drawn[first].image for q in drawn[first : first + 3])
    assert drawn[0].image is not drawn[3].image


def test_the_stream_is_a_function_of_seed_and_step() -> None:
    def pixels(seed: int, step: int) -> bytes:
        (one,) = ReferenceStream(seed).draw(step, 1, 1)
        return bytes(np.asarray(one.image)) + one.text.encode()

    assert pixels(3, 5) == pixels(3, 5)
    assert len({pixels(3, 5), pixels(3, 6), pixels(4, 5)}) == 3


def test_no_held_out_picture_is_trained_on() -> None:
    with pytest.raises(DataError, match="that of the held-out questions"):
        ReferenceStream(HELDOUT_SEED)
    shown = {sample.image.tobytes() for sample in iter_heldout(20)}
    seen = {q.image.tobytes() for step in range(5) for q in ReferenceStream(0).draw(step, 4, 1)}
    assert not shown & seen


def write(folder: Path, *lines: str) -> Path:
    picture(0).save(folder / "a.png")
    path = folder / "qa.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON"),
        ("[1]", "but a list"),
        ('{"image": "a.png", "question": "why"}', "there is no 'answer'"),
        ('{"image": "a.png", "question": "", "answer": "b"}', "'question' is empty"),
        ('{"image": "b.png", "question": "why", "answer": "b"}', "there is no picture"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "", line)
    with pytest.raises(DataError, match=said) as caught:
        FileStream(path, 0)
    assert caught.value.where == f"{path}:3"


def test_a_missing_an_empty_and_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        FileStream(tmp_path / "no.jsonl", 0)
    with pytest.raises(DataError, match="holds no questions"):
        FileStream(write(tmp_path, ""), 0)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="picture can't be read"):
        opened(Question(tmp_path / "bad.png", ""))


def test_a_file_is_gone_through_once_an_epoch_in_changing_order(tmp_path: Path) -> None:
    lines = [json.dumps({**json.loads(GOOD), "answer": str(n)}) for n in range(5)]
    stream = FileStream(write(tmp_path, *lines), 0)
    drawn = [q.answer for step in range(10) for q in stream.draw(step, 1, 1)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list("01234")
    assert drawn[:5] != drawn[5:]
    assert drawn[4:6] == [q.answer for q in stream.draw(2, 1, 2)]
    assert stream.draw(0, 1, 1)[0].image.size == (48, 48)


def test_held_out_questions_are_the_users_or_the_bundled_ones(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, GOOD, GOOD)
    assert len(questions_for("mine.jsonl", path, 2)) == 2
    assert len(questions_for("reference", None, 3)) == 3
    bundled = questions_for("reference", None, 12)
    assert len({id(question.image) for question in bundled}) == 12
    assert questions_for("mine.jsonl", None, 3) == []
    assert questions_for("reference", None, 0) == []


def test_answers_stand_at_the_end_and_alone_are_labelled() -> None:
    asked = [
        Question(picture(0), "one", "what is"),
        Question(picture(0), "two three", "what is this thing"),
    ]
    loaded = tiny()
    batch = make_batch(loaded, asked, 2)
    ids, mask, labels = batch.inputs["input_ids"], batch.inputs["attention_mask"], batch.labels
    assert batch.shared == 2
    assert batch.inputs["pixel_values"].shape[0] == 1
    for row, example in enumerate(asked):
        prompt = loaded.prepare([example.image], [example.text])["input_ids"][0].tolist()
        assert loaded.answer_ids is not None
        answer = loaded.answer_ids(example.answer)
        assert ids[row][mask[row].bool()].tolist() == prompt + answer
        assert labels[row][-len(answer) :].tolist() == answer
        assert set(labels[row][: -len(answer)].tolist()) == {IGNORE}
    assert batch.rows.tolist() == [0, 0, 1, 1, 1]
    assert batch.targets.tolist() == labels[labels != IGNORE].tolist()


def test_a_loader_without_answers_is_refused() -> None:
    from dataclasses import replace

    with pytest.raises(UnsupportedModelError, match="doesn't turn answers into tokens"):
        make_batch(replace(tiny(), answer_ids=None), [Question(picture(0), "b", "a")], 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TrainSettings(batch_size=10, shared=4), "can't be 4 a picture"),
        (lambda: TrainSettings(precision="int8"), "no precision 'int8'"),
        (lambda: spans([Phase("a"), Phase("b")], 1), "leave none for the phase"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        make()


def test_every_phase_warms_up_and_cools_down() -> None:
    every = spans([Phase("a", 1), Phase("b", 3)], 40)
    assert [(span.start, span.end) for span in every] == [(0, 10), (10, 40)]
    rates = [rate(step, every, 0.2) for step in range(40)]
    for first, last, warm in ((0, 10, 2), (10, 40, 6)):
        assert rates[first] == pytest.approx(1 / warm)
        assert rates[first + warm - 1] == rates[first + warm] == 1
        assert 0 < rates[last - 1] < 0.1
