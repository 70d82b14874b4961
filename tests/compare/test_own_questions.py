"""Questions of one's own, as a table here and pictures there: in `compare` and in studies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.compare import clips
from tests.compare.tiny import TIMM, save_pictures
from tokenprune.cli.app import app
from tokenprune.errors import DataError
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.studies.load import load_study
from tokenprune.lab.studies.tasks import questions

STAGE = "{at: pre_llm, strategy: random, keep: 4}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of questions, and pictures in a folder beside it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "photos").mkdir()
    save_pictures(folder / "photos", 2)
    rows = ["0.png,what is the shape ?,yes,shape", "1.png,how many ?,two,count"]
    (folder / "asked.csv").write_text("\n".join(["image,question,answer,type", *rows]))
    (folder / "plan.yaml").write_text(f"stages: [{STAGE}]")
    return folder


def compare(*options: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["compare", *map(str, options)])
    return result.exit_code, " ".join(result.output.split())


def test_compare_asks_the_questions_of_a_table(folder: Path, llava_folder: Path) -> None:
    data = ("--data", folder / "asked.csv", "--images", folder / "photos", "--new-tokens", 1)
    out, plan = folder / "found.json", folder / "plan.yaml"
    code, said = compare("--model", llava_folder, *data, "--plans", plan, "--out", out)
    assert code == 0, said
    record = json.loads(out.read_text())
    about = {"name": "questions of asked.csv", "data": "asked.csv", "samples": 2, "images": 2}
    assert len(record["task"].pop("sha256")) == 64
    assert record["task"] == about
    assert record["settings"]["task"] == "asked.csv"
    assert set(record["dense"]["by_type"]) == {"shape", "count"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--task", "image"), "questions are your own or built in"),
        (("--probe", "all", "--images", "photos"), "the probe is fitted on built-in pictures"),
        (("--frames", "2"), "the line names a picture, and frames of videos are asked for"),
        ((), "'0.png'. Names are relative to '.'; another folder is named by --images."),
        (("--labels", "l.csv"), "--labels labelled pictures are for encoders"),
    ],
)
def test_what_does_not_go_with_them_is_refused(
    folder: Path,
    llava_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    code, found = compare("--model", llava_folder, "--data", "asked.csv", *options)
    assert code == 2
    assert said in found


def test_compare_asks_about_videos(folder: Path, llava_folder: Path) -> None:
    clips.save_frames(folder / "clip", 3)
    row = {"video": "clip", "question": "what is the shape ?", "answer": "yes"}
    (folder / "clips.jsonl").write_text(json.dumps(row))
    args = ("--model", llava_folder, "--plans", folder / "plan.yaml", "--frames", 2)
    code, said = compare(*args)
    assert code == 2
    assert "--frames frames are taken of the videos of your own questions" in said
    out = folder / "clips.json"
    data = ("--data", folder / "clips.jsonl", "--new-tokens", 1, "--out", out)
    code, said = compare(*args, *data)
    assert code == 0, said
    assert "Questions are about clips; token counts are per frame." in said
    record = json.loads(out.read_text())
    assert (record["settings"]["task"], record["settings"]["frames"]) == ("clips.jsonl", 2)
    (row,) = record["results"]
    assert "images: frames" in row["plan"]
    assert row["tokens"]["llm"] == 4


def test_a_missing_video_is_told_where_it_was_looked_for(tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"video": "a.mp4", "question": "what ?", "answer": "yes"}))
    with pytest.raises(DataError, match=r"there is no video 'a\.mp4'") as caught:
        read_jsonl(asked, frames=2, folder=tmp_path / "clips", elsewhere="--images")
    folder = tmp_path / "clips"
    assert caught.value.remedy == (
        f"Names are relative to '{folder}'; another folder is named by --images."
    )


def test_an_encoder_is_asked_no_questions(folder: Path, timm_weights: Path) -> None:
    data = ("--data", folder / "asked.csv")
    code, said = compare("--model", TIMM, "--weights", timm_weights, *data)
    assert code == 2
    assert "--data an encoder answers no questions" in said


def test_a_task_of_a_study_names_the_folder_of_its_pictures(folder: Path) -> None:
    text = f"out: records\nplans: [{{plan: {{stages: [{STAGE}]}}}}]\n"
    task = "{kind: jsonl, path: asked.csv, images: photos}"
    (folder / "study.yaml").write_text(f"{text}tasks: [{task}]")
    study = load_study(folder / "study.yaml")
    found = [one.image for one in questions(study.tasks[0])]
    assert found == [folder.resolve() / "photos" / name for name in ("0.png", "1.png")]
    (folder / "study.yaml").write_text(f"{text}tasks: [{task.replace(', images: photos', '')}]")
    with pytest.raises(DataError, match="is named by 'images' of the task, or --images"):
        questions(load_study(folder / "study.yaml").tasks[0])
