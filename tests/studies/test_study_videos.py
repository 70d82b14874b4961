"""Studies of the user's own videos: lines of a file, columns of a dataset, the bundled model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.compare import clips
from tests.compare.tiny import save_pictures, save_timm
from tokenprune.errors import DataError
from tokenprune.lab.bench.request import Request
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.data.hub import dataset_questions
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.data.opening import opened, revision
from tokenprune.lab.data.question import Columns
from tokenprune.lab.data.videos import Clip, chosen
from tokenprune.lab.measure.code import digest
from tokenprune.lab.models import load_model, load_options
from tokenprune.lab.studies import cells, load_study, run_study
from tokenprune.lab.studies.building import build_task
from tokenprune.lab.studies.model import TaskEntry
from tokenprune.lab.studies.run import identified
from tokenprune.reference import video_model_path

PLANS = [
    {"name": name, "plan": {"stages": [{"at": at, "strategy": strategy, "keep": 3}]}}
    for name, at, strategy in (("drawn", "pre_llm", "random"), ("merged", "encoder", "tome"))
]

ASKED = [
    {"video": "a.gif", "question": "what moves left ?", "answer": "star", "type": "motion"},
    {"video": "clip", "question": "what moves left ?", "answer": "square"},
    {"video": "a.gif", "question": "what moves up ?", "answer": "star"},
]


def save_asked(folder: Path, rows: list[dict[str, Any]], name: str = "questions.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An animation of 20 frames, a folder of 3, and questions about them."""
    place = tmp_path / "videos"
    place.mkdir()
    clips.save_animation(place / "a.gif", 20)
    clips.save_frames(place / "clip", 3)
    save_asked(place, ASKED)
    return place


def save_study(tmp_path: Path, **changes: Any) -> Path:
    data = {
        "out": "records",
        "tasks": [{"kind": "jsonl", "path": "videos", "frames": 4, "name": "mine"}],
        "plans": PLANS,
        "batch_size": 2,
        "new_tokens": 1,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data | changes))
    return path


def test_a_folder_of_videos_on_the_bundled_model(folder: Path, tmp_path: Path) -> None:
    study = load_study(save_study(tmp_path, plans=PLANS[1:], batch_size=3))
    assert {cell.plan.images for cell in cells(study)} == {"frames"}
    done = run_study(study)
    assert done.failed == {}
    sha = load_model(str(video_model_path()), load_options("cpu")).fingerprint()
    assert {record.identity["weights"] for record in done.records} == {sha}
    for record, kept in zip(done.records, (None, 4 * 3), strict=True):
        assert [sample["group"] for sample in record.result["samples"]] == [0, 1, 0]
        shown = record.result["shown"]
        assert [len(sample["frames"]) for sample in shown] == [4, 4]
        if kept is not None:
            owners = [[o for one in s["frames"] for o in one["owner"]] for s in shown]
            assert [len({o for o in mine if o >= 0}) for mine in owners] == [kept, kept]
            assert record.result["tokens"]["llm"] == 3
    assert run_study(study).ran == []
    clips.frame(9).save(folder / "clip" / "f1.png")
    again = {digest(about) for _, about in identified(study)}
    assert again.isdisjoint(record.key for record in done.records)


def test_frames_are_decoded_when_a_batch_needs_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    pictures = Clip.pictures

    def counted(clip: Clip) -> Any:
        decoded.append(clip.where)
        return pictures(clip)

    monkeypatch.setattr(Clip, "pictures", counted)
    study = load_study(save_study(tmp_path))
    task = build_task(study.tasks[0], load_model(str(video_model_path()), load_options()), study)
    assert revision(task.questions) == revision(read_jsonl(folder, frames=4))
    assert decoded == []
    task.inputs(task.questions)
    assert sorted(where[-2:] for where in decoded) == [":1", ":2"]  # the third asks about the first
    assert [clips.number_of(one) for one in opened(task.questions[1].image)] == chosen(3, 4)


@pytest.mark.parametrize(
    ("line", "frames", "words", "remedy"),
    [
        ({"video": "a.gif"}, None, "nothing says how many", "frames: 8"),
        ({"image": "clip/f0.png"}, 4, "names a picture", "'video'"),
        ({"images": ["clip/f0.png"], "video": "a.gif"}, 4, "names a picture", "'video'"),
        ({"video": ["a.gif"]}, 4, "names no video", "a.mp4"),
        ({}, 4, "names no video", "a.mp4"),
        ({"video": "b.gif"}, 4, "no video", ""),
    ],
)
def test_bad_lines_name_file_line_and_remedy(
    folder: Path, line: dict[str, Any], frames: int | None, words: str, remedy: str
) -> None:
    path = save_asked(folder, [{"question": "a", "answer": "b", **line}], "bad.jsonl")
    with pytest.raises(DataError, match=words) as caught:
        read_jsonl(path, frames=frames)
    assert caught.value.where == f"{path}:1"
    assert remedy in caught.value.remedy


def test_a_folder_as_hugging_face_lays_it_out(tmp_path: Path) -> None:
    clips.save_animation(tmp_path / "a.gif", 4)
    save_pictures(tmp_path, 1)
    row = {"question": "a", "answer": "b"}
    path = save_asked(tmp_path, [{"file_name": "a.gif", **row}], "metadata.jsonl")
    (video,) = read_jsonl(tmp_path, frames=2)
    assert video.image == Clip(tmp_path / "a.gif", 2)
    path.write_text(path.read_text().replace("a.gif", "0.png"))
    assert read_jsonl(tmp_path)[0].image == tmp_path / "0.png"
    path.unlink()
    with pytest.raises(DataError, match="holds no questions") as caught:
        read_jsonl(tmp_path)
    assert "questions.jsonl" in caught.value.remedy


def test_frames_go_with_questions_only(folder: Path, tmp_path: Path) -> None:
    for kind, more in (("image", {}), ("video", {}), ("pictures", {"path": folder})):
        with pytest.raises(ValidationError, match="'frames' goes with"):
            TaskEntry.model_validate({"kind": kind, "frames": 8, **more})
    save_timm(tmp_path / "vit.safetensors")
    models = [{"name": "timm:test_vit", "weights": "vit.safetensors"}]
    with pytest.raises(DataError, match="its samples are videos"):
        run_study(load_study(save_study(tmp_path, models=models)))


def test_a_benchmark_takes_videos(folder: Path) -> None:
    loaded = load_model(str(video_model_path()), load_options("cpu"))
    asked = Request(questions=folder, frames=(4,), batches=(2,))
    asked.check(BenchSettings())
    own = asked.own(loaded)
    assert [question.image.frames for question in own] == [4, 4, 4]
    assert [size.video for size in asked.workloads(own)] == [True]
    with pytest.raises(DataError, match="says that itself"):
        Request(questions=folder, frames=(4, 8)).check(BenchSettings())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns of frames, of videos and of single pictures."""
    datasets = pytest.importorskip("datasets", reason="the extra 'data' isn't installed")
    place = tmp_path_factory.mktemp("dataset")
    clips.save_frames(place / "clip", 6)
    clips.save_animation(place / "a.gif", 10)
    names = [str(place / "clip" / f"f{number}.png") for number in range(6)]
    filmed = [{"path": str(place / "a.gif")}, {"bytes": (place / "a.gif").read_bytes()}]
    rows = {
        "listed": [names, names[:4]],
        "filmed": filmed,
        "single": names[:2],
        "question": ["a", "b"],
        "answer": ["c", "d"],
    }
    features = datasets.Features(
        {
            "listed": datasets.List(datasets.Image()),
            "filmed": datasets.Video(decode=False),
            "single": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
        }
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(place / "saved")
    return place / "saved"


def entry(dataset: Path, column: str, frames: int | None) -> TaskEntry:
    columns = Columns(image=column)
    return TaskEntry(kind="dataset", dataset=str(dataset), columns=columns, frames=frames)


def test_columns_of_frames_and_of_videos(dataset: Path) -> None:
    listed = dataset_questions(entry(dataset, "listed", 2).hub)
    seen = [[clips.number_of(one) for one in opened(question.image)] for question in listed]
    assert seen == [chosen(6, 2), chosen(4, 2)]
    filmed = dataset_questions(entry(dataset, "filmed", 3).hub)
    for question in filmed:
        assert [clips.number_of(one) for one in opened(question.image)] == chosen(10, 3)
    assert [question.image_id for question in filmed] == [0, 0]  # the same bytes


@pytest.mark.skipif(find_spec("av") is None, reason="the extra 'video' isn't installed")
def test_a_dataset_of_video_files_is_read_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'data' isn't installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    place = tmp_path / "filmed"
    place.mkdir()
    clips.save_video(place / "a.mp4", 10)
    save_asked(place, [{"file_name": "a.mp4", "question": "a", "answer": "b"}], "metadata.jsonl")
    task = entry(place, "video", 3).model_copy(update={"split": "train"})
    (question,) = dataset_questions(task.hub)
    assert question.image.source == place / "a.mp4"
    assert [clips.number_of(one) for one in opened(question.image)] == chosen(10, 3)


@pytest.mark.parametrize(
    ("column", "frames", "words"),
    [
        ("filmed", None, "holds videos"),
        ("single", 4, "holds single pictures"),
        ("question", 4, "holds no videos"),
    ],
)
def test_columns_that_do_not_fit(
    dataset: Path, column: str, frames: int | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        dataset_questions(entry(dataset, column, frames).hub)
