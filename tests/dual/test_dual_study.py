"""Studies of dual encoders, from a folder of pictures to the report, and pairs that make none."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.compare.tiny import TIMM, save_llava, save_timm
from tests.dual import tiny
from tokenprune.errors import DataError, PlanError
from tokenprune.lab.report import html, read_results
from tokenprune.lab.studies import load_study, run_study
from tokenprune.lab.studies.load import cells
from tokenprune.lab.studies.model import TaskEntry
from tokenprune.lab.studies.packing import pack, unpack
from tokenprune.lab.studies.run import Finished
from tokenprune.lab.studies.summary import Group, summarise

PLANS = [
    {"name": name, "plan": {"stages": [{"at": "encoder", "strategy": strategy, "keep": keep}]}}
    for name, strategy, keep in (
        ("merged", "tome", 9),
        ("drawn", "random", 9),
        ("all kept", "tome", 1.0),
    )
]
PICTURES = {"kind": "pictures", "path": ".", "labels": "labels.csv", "classes": "classes.txt"}
CAPTIONS = {"kind": "captions", "path": "captions.jsonl"}

Ran = tuple[Finished, list[Group]]
Run = Callable[..., Ran]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tiny.save_colours(tmp_path)


@pytest.fixture
def run(place: Path) -> Run:
    """Write a study beside the pictures and run it."""

    def ran(models: list[Any], tasks: list[Any], **more: Any) -> Ran:
        data = {"out": "records", "plans": PLANS, "batch_size": 12, **more}
        named = [model if isinstance(model, dict) else {"name": str(model)} for model in models]
        file = place / "study.yaml"
        file.write_text(yaml.safe_dump({**data, "models": named, "tasks": tasks}))
        done = run_study(load_study(file))
        return done, summarise(done.records)

    return ran


def test_one_task_for_a_classifier_and_both_families(
    run: Run, place: Path, folders: dict[str, Path]
) -> None:
    save_timm(place / "vit.safetensors")
    models = [{"name": TIMM, "weights": "vit.safetensors"}, folders["clip"], folders["siglip"]]
    prompts = list(tiny.PROMPTS)
    done, groups = run(models, [{**PICTURES, "prompts": prompts}])
    assert done.failed == {}
    assert len(done.ran) == 3 * 4
    assert len({group.about["data"] for group in groups}) == 2  # a classifier is told no names
    for group in groups[1:]:
        dense, merged, drawn, kept = group.rows
        assert dense.accuracy.value > 0.7
        assert [row.run.mean_tokens for row in (dense, merged, drawn)] == [36, 9, 9]
        assert merged.versus_random is not None
        assert merged.flops_ratio < 1
        assert merged.run.peak_bytes
        assert merged.seconds["encode"] > 0
        assert merged.seconds["select"] > 0
        assert merged.seconds["prefill"] == 0
        assert merged.run.failures == []
        frames = [frame for one in merged.run.shown for frame in one["frames"]]
        shown = [len(set(frame["owner"]) - {-1}) for frame in frames]
        assert shown == [9, 9, 9]
        assert dense.run.answers == kept.run.answers
        assert list(dense.run.right) == list(kept.run.right)
    results = read_results(place / "records")
    page = html(results, groups)
    assert page.count('class="overlay"') == 3 * 4 * 3
    assert f"{folders['clip'].name}, {place.name}" in page


def test_the_texts_belong_to_a_cell_and_their_file_does_not(
    run: Run, place: Path, folders: dict[str, Path]
) -> None:
    tasks = [{**PICTURES, "limit": 6}]
    first, _ = run([folders["clip"]], tasks, plans=PLANS[:1])
    assert len(first.ran) == 2
    (place / "classes.txt").rename(place / "names.txt")
    tasks[0]["classes"] = "names.txt"
    assert run([folders["clip"]], tasks, plans=PLANS[:1])[0].ran == []
    tasks[0]["classes"] = list(tiny.NAMES)
    assert run([folders["clip"]], tasks, plans=PLANS[:1])[0].ran == []
    tasks[0]["classes"] = [*tiny.NAMES[:-1], "photo"]
    assert len(run([folders["clip"]], tasks, plans=PLANS[:1])[0].ran) == 2
    assert len(run([folders["clip"]], [{**tasks[0], "prompts": ["{}"]}], plans=PLANS[:1])[0].ran)


def test_captions_are_retrieved_among_those_of_all_pictures(
    run: Run, place: Path, folders: dict[str, Path]
) -> None:
    done, (group,) = run([folders["clip"]], [{**CAPTIONS, "limit": 7}])
    assert done.failed == {}
    samples = done.records[0].result["samples"]
    assert len(samples) == 7
    given: dict[int, set[str]] = {}
    for number, line in enumerate((place / "captions.jsonl").read_text().splitlines()):
        given.setdefault(number // 2, set()).add(json.loads(line)["caption"])
    everything = set().union(*given.values())
    for sample in samples:
        assert sample["answer"] in everything
        assert sample["right"] == (sample["answer"] in given[sample["group"]])
        assert sample["scores"]["accuracy"] == float(sample["right"])
    assert group.rows[0].accuracy.value > 0.7
    few = place / "few.jsonl"
    few.write_text("".join(line + "\n" for line in (place / "captions.jsonl").open()))
    more = few.read_text() + '{"image": "0.png", "caption": "the photo"}\n'
    few.write_text(more)
    other, _ = run([folders["clip"]], [{**CAPTIONS, "path": "few.jsonl", "limit": 7}])
    assert len(other.ran) == 4  # one caption more to choose from is another task


def test_a_dataset_of_class_labels_brings_its_names(
    run: Run, place: Path, folders: dict[str, Path]
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'data' isn't installed")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(tiny.NAMES)),
            "number": datasets.Value("int64"),
        }
    )
    rows = [(place / f"{number}.png", number % 6) for number in range(9)]
    data = {
        "image": [{"bytes": encoded(file), "path": None} for file, _ in rows],
        "label": [label for _, label in rows],
        "number": [label for _, label in rows],
    }
    datasets.Dataset.from_dict(data, features=features).save_to_disk(place / "data")
    columns = {"question": None, "answer": "label"}
    task = {"kind": "dataset", "dataset": "data", "columns": columns}
    done, (group,) = run([folders["siglip"]], [task])
    assert done.failed == {}
    assert group.rows[0].accuracy.value > 0.7
    plain = {**task, "columns": {"question": None, "answer": "number"}}
    with pytest.raises(DataError, match="how its classes are called"):
        run([folders["siglip"]], [plain])
    named = {**plain, "classes": list(tiny.NAMES)}
    _, (same,) = run([folders["siglip"]], [named])
    assert same.rows[0].accuracy == group.rows[0].accuracy
    with pytest.raises(DataError, match="'2' is no class number"):
        run([folders["siglip"]], [{**plain, "classes": ["red", "green"]}])
    asks = {**task, "columns": {"question": "number", "answer": "label"}}
    with pytest.raises(DataError, match="a dual encoder answers none") as caught:
        run([folders["siglip"]], [asks])
    assert "question: null" in caught.value.remedy


def test_subfolders_are_classes_and_bring_their_names(
    run: Run, place: Path, folders: dict[str, Path]
) -> None:
    for number in range(12):
        file = place / "sorted" / tiny.NAMES[number % 6] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").rename(file)
    task = {"kind": "pictures", "path": "sorted"}
    done, _ = run([folders["clip"]], [task])
    assert done.failed == {}
    samples = done.records[0].result["samples"]
    assert len(samples) == 12
    names = sorted(tiny.NAMES)
    wanted = [names[int(sample["answer"])] for sample in samples if sample["right"]]
    assert len(set(wanted)) > 3
    assert len(wanted) > 0.7 * 12
    with pytest.raises(DataError, match="6 subfolders"):
        run([folders["clip"]], [{**task, "classes": ["red", "green"]}])
    other = {"name": TIMM, "weights": str(save_timm(place / "vit.safetensors"))}
    with pytest.raises(DataError, match="6 subfolders"):
        run([other], [task])


def encoded(file: Path) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(file).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("family", "task", "words", "remedy"),
    [
        ("clip", {"kind": "image"}, "needs a multimodal LLM", ""),
        ("clip", {"kind": "jsonl", "path": "captions.jsonl"}, "needs a multimodal LLM", ""),
        ("clip", {**PICTURES, "classes": None}, "how its classes are called", "classes: FILE"),
        ("clip", {**PICTURES, "classes": ["red"]}, "'1' is no class", "0 to 0"),
        ("timm", CAPTIONS, "needs a dual encoder", ""),
        ("llava", CAPTIONS, "needs a dual encoder", ""),
        ("llava", PICTURES, "needs a classifier, such as timm:NAME, or a dual encoder", ""),
    ],
)
def test_pairs_that_make_no_task(
    run: Run, place: Path, folders: dict[str, Path], family: str, task: Any, words: str, remedy: str
) -> None:
    model: Any = folders["clip"]
    if family == "timm":
        model = {"name": TIMM, "weights": str(save_timm(place / "vit.safetensors"))}
    if family == "llava":
        (place / "llava").mkdir()
        model = save_llava(place / "llava")
    with pytest.raises(DataError, match=words) as caught:
        run([model], [task])
    assert remedy in caught.value.remedy
    assert caught.value.where


def test_a_batch_of_different_shapes_fails_with_the_remedy(
    run: Run, place: Path, folders: dict[str, Path]
) -> None:
    tiny.picture("green", 9, (40, 90)).save(place / "1.png")
    done, _ = run([folders["siglip2"]], [PICTURES], plans=PLANS[:1])
    assert all("Use a batch size of 1" in reason for reason in done.failed.values())
    assert len(done.failed) == 2
    done, (group,) = run([folders["siglip2"]], [PICTURES], plans=PLANS[:1], batch_size=1)
    assert done.failed == {}
    assert group.rows[1].run.mean_tokens == 9


def test_a_plan_behind_the_encoder_is_refused(run: Run, folders: dict[str, Path]) -> None:
    plan = {"stages": [{"at": "pre_llm", "strategy": "random", "keep": 9}]}
    with pytest.raises(PlanError, match="clip is an encoder"):
        run([folders["clip"]], [PICTURES], plans=[{"name": "p", "plan": plan}])


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"kind": "captions"}, "needs 'path'"),
        ({**CAPTIONS, "classes": ["a"]}, "'classes' goes with the kinds"),
        ({"kind": "image", "prompts": ["{}"]}, "'prompts' goes with the kinds"),
        ({**PICTURES, "prompts": ["a photo"]}, "has no '{}'"),
        ({**PICTURES, "prompts": []}, "at least 1 item"),
        ({**PICTURES, "classes": []}, "'classes' names none"),
        ({**PICTURES, "classes": [1]}, "valid string"),
    ],
)
def test_bad_entries(task: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TaskEntry.model_validate(task)


def test_a_misspelt_key_of_a_task_has_a_nearest_one(run: Run, folders: dict[str, Path]) -> None:
    misspelt = {"clases" if key == "classes" else key: value for key, value in PICTURES.items()}
    with pytest.raises(PlanError, match="unknown key 'clases'") as caught:
        run([folders["clip"]], [misspelt])
    assert "'classes'" in caught.value.remedy


def test_a_cell_travels_with_its_names(place: Path, folders: dict[str, Path]) -> None:
    few = {**PICTURES, "name": "few", "classes": ["red", "green"], "prompts": ["{}"]}
    tasks = [PICTURES, few, CAPTIONS]
    data = {"out": "records", "plans": PLANS, "models": [{"name": str(folders["clip"])}]}
    file = place / "study.yaml"
    file.write_text(yaml.safe_dump({**data, "tasks": tasks}))
    study = load_study(file)
    packed = [json.loads(json.dumps(pack(cell, study))) for cell in cells(study)]
    found = [unpack(one)[0].task for one in packed][:: len(PLANS) + 1]
    assert found == list(study.tasks)
    assert found[0].classes == place / "classes.txt"
    assert found[1].classes == ("red", "green")
