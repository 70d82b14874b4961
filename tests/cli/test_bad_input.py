"""Every kind of bad input: exit code 2, place and remedy, and no traceback."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.test_commands import run
from tokenprune.errors.files import NotReadableError, reason
from tokenprune.lab.studies.model import Study
from tokenprune.plan import Plan
from tokenprune.plan.read import OF_PLANS, OF_STUDIES

Files = Callable[[str], Path]


@pytest.fixture
def plan(tmp_path: Path) -> Files:
    def write(text: str) -> Path:
        path = tmp_path / "plan.yaml"
        path.write_text(text)
        return path

    return write


def refused(*args: object) -> str:
    code, _, err = run(*args)
    assert code == 2, err
    assert "Traceback" not in err
    assert err.strip()
    return " ".join(err.split())


BAD_PLANS = {
    "stages: [": "plan.yaml",
    "- 1": "plan.yaml",
    "stages: [{at: encoder, strategy: evoprun, keep: 9}]": "evoprune",
    "stages: [{at: encoder, strategy: tome, kep: 9}]": "keep",
    "stages: [{at: encoder, strategy: tome, keep: 9, params: {proportionl: true}}]": "proportional",
    "stages: [{at: encoder, strategy: tome, keep: 0}]": "keep",
    "stages: [{at: encoder, strategy: tome, keep: yes}]": "keep",
    "stages: [{at: decoder, strategy: tome, keep: 9}]": "encoder",
    "stages: [{at: pre_llm, strategy: trim}]": "the plan names none",
    "stages: [{at: pre_llm, strategy: vistog, keep: 4, params: {checkpoint: no.safetensors}}]": (
        "no.safetensors it can't be read as safetensors"
    ),
    "stages: [{at: pre_llm, strategy: vistog, keep: 4, params: {checkpoint: 'bundled:no'}}]": (
        "no checkpoint 'no' of vistog ships"
    ),
    "schema_version: 7": "schema_version",
    "extends: absent.yaml": "absent.yaml",
}


@pytest.mark.parametrize("text", BAD_PLANS)
def test_plans_that_do_not_validate(plan: Files, text: str) -> None:
    assert BAD_PLANS[text] in refused("validate", plan(text))


def test_absent_plan_bad_override_and_unknown_strategy(plan: Files, tmp_path: Path) -> None:
    assert "absent.yaml" in refused("validate", tmp_path / "absent.yaml")
    assert "override" in refused("validate", plan("stages: []"), "--set", "nothing")
    assert "Did you mean 'tome'" in refused("describe", "tomee")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "stages: [{at: encoder, strategy: tome, keep: 1, layer: 1}]",
            "nearest feasible value is 18",
        ),
        ("stages: [{at: pre_llm, strategy: fopru, keep: 37}]", "36"),
        ("stages: [{at: encoder, strategy: tome, keep: 20, layer: 9}]", "0 to 3"),
        ("stages: [{at: decoder, strategy: fastv, keep: 9, layer: 40}]", "layer"),
    ],
)
def test_plans_that_do_not_fit_the_model(
    plan: Files, llava_folder: Path, tmp_path: Path, text: str, says: str
) -> None:
    common = ("--model", llava_folder, "--limit", 2, "--out", tmp_path / "c.json")
    assert says in refused("compare", "--plans", plan(text), *common)
    assert not (tmp_path / "c.json").exists()


def test_a_stage_that_the_model_lacks(
    plan: Files, timm_weights: Path, pictures: Path, tmp_path: Path
) -> None:
    file = plan("stages: [{at: decoder, strategy: fastv, keep: 9, layer: 2}]")
    said = refused(
        *("show", pictures / "0.png", "--plan", file, "--out", tmp_path / "x.png"),
        *("--model", "timm:test_vit", "--weights", timm_weights),
    )
    assert "decoder" in said


def compare(model: object, *args: object) -> str:
    return refused("compare", "--model", model, "--limit", 2, *args)


def test_models_that_cannot_be_had(tmp_path: Path, timm_weights: Path) -> None:
    assert "config.json" in compare(tmp_path / "absent")
    assert "timm:NAME" in compare("tim:vit_tiny_patch16_224")
    assert "timm has no model 'vit_tny'" in compare("timm:vit_tny")
    assert "there is no file" in compare("timm:test_vit", "--weights", tmp_path / "absent")
    (tmp_path / "config.json").write_text("{}")
    assert "no safetensors" in compare(tmp_path)


def test_a_model_that_is_no_mllm(tmp_path: Path) -> None:
    from tests.models import clip_vision

    clip_vision().save_pretrained(tmp_path)
    assert "no image-text-to-text model" in compare(tmp_path)


@pytest.mark.parametrize("code", [{}, {"auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}])
def test_a_model_that_the_library_does_not_have(tmp_path: Path, code: dict[str, object]) -> None:
    from tests.models import clip_vision

    clip_vision().save_pretrained(tmp_path)
    (tmp_path / "configuration_own.py").write_text("raise RuntimeError('code beside a checkpoint')")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own_model", **code}))
    said = compare(tmp_path)
    assert "has no model of this config's type" in said
    assert "AutoConfig.register" in said


def test_a_classifier_that_is_no_vit(tmp_path: Path, pictures: Path) -> None:
    import timm

    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    said = compare(
        *("timm:test_resnet", "--weights", file, "--images", pictures),
        *("--labels", pictures / "labels.csv", "--out", tmp_path / "c.json"),
    )
    assert "ResNet" in said
    assert "timm" in said


@pytest.mark.parametrize("damage", ["cut", "text", "foreign", "shape"])
def test_damaged_and_foreign_timm_weights(
    damage: str, timm_weights: Path, pictures: Path, tmp_path: Path
) -> None:
    file = tmp_path / "w.safetensors"
    state = load_file(timm_weights)
    if damage == "cut":
        file.write_bytes(timm_weights.read_bytes()[:5000])
    elif damage == "text":
        file.write_text("not weights")
    elif damage == "foreign":
        save_file({"encoder.weight": torch.zeros(3)}, file)
    else:
        save_file(state | {"norm.weight": torch.zeros(7)}, file)
    said = compare("timm:test_vit", "--weights", file, "--images", pictures)
    assert "w.safetensors" in said
    assert {
        "cut": "no readable",
        "text": "no readable",
        "foreign": "missing",
        "shape": "norm.weight is [7]",
    }[damage] in said


@pytest.mark.parametrize("damage", ["cut", "foreign", "shape", "processor"])
def test_damaged_and_foreign_folders(damage: str, llava_folder: Path, tmp_path: Path) -> None:
    for file in llava_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    first = next(key for key in state if key.endswith("q_proj.weight"))
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:3000])
    elif damage == "foreign":
        save_file({"other.weight": torch.zeros(3)}, weights, metadata={"format": "pt"})
    elif damage == "shape":
        save_file(state | {first: torch.zeros(3, 3)}, weights, metadata={"format": "pt"})
    else:
        for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).unlink()
    said = compare(tmp_path)
    assert tmp_path.name in said
    assert ("processor" if damage == "processor" else "checkpoint") in said.lower()


def test_nan_in_the_model_is_named(llava_folder: Path, plan: Files, tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    folder.mkdir()
    for file in llava_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    key = next(k for k in state if k.endswith("patch_embedding.weight"))
    save_file(
        state | {key: state[key] * float("nan")},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    file = plan("stages: [{at: encoder, strategy: tome, keep: 16}]")
    said = compare(folder, "--plans", file, "--out", tmp_path / "c.json")
    assert "the model's logits of 2 answers are NaN" in said  # before a plan is asked


def test_pictures_and_labels(
    timm_weights: Path, pictures: Path, plan: Files, tmp_path: Path
) -> None:
    vit = ("timm:test_vit", "--weights", timm_weights)
    labels = tmp_path / "labels.csv"
    labels.write_text("file,class_index\n0.png,100000\n")
    assert "--images" in compare(*vit)
    assert "labels.csv:2" in compare(*vit, "--images", pictures, "--labels", labels)
    assert "absent.csv" in compare(*vit, "--images", pictures, "--labels", tmp_path / "absent.csv")
    good = ("--images", pictures, "--labels", pictures / "labels.csv")
    assert "first, second or all" in compare(*vit, *good, "--split", "third")
    file = plan("stages: [{at: encoder, strategy: tome, keep: 16}]")
    out = ("--plan", file, "--out", tmp_path / "x.png")
    assert "absent.jpg" in refused("show", tmp_path / "absent.jpg", *out)
    assert "picture can't be read" in refused("show", labels, *out)


@pytest.mark.parametrize(
    "args",
    [
        ("--device", "warp"),
        ("--dtype", "float99"),
        ("--out", "/absent/folder/c.json"),
        ("--positions", "sideways"),
        ("--keep", "0"),
        ("--keep", "few"),
        ("--limit", "0"),
    ],
)
def test_bad_options(llava_folder: Path, args: tuple[str, str]) -> None:
    said = compare(llava_folder, *args)
    assert args[0].lstrip("-") in said or args[1] in said


def test_unknown_commands_and_options() -> None:
    refused("compere")
    refused("list", "--jsn")
    refused("validate")


GOOD = "stages: [{at: pre_llm, strategy: random, keep: 4}]"
STUDY = "out: records\nplans: [{plan: plan.yaml}]\n"


def test_words_of_commands_that_take_options_only(plan: Files) -> None:
    file = plan(GOOD)
    for command in ("compare", "bench"):
        for before in ((), ("--seed", "4"), ("--seed=4",), ("--plans=x.yaml", "--seed", "4")):
            said = refused(command, *before, file)
            assert f"{command} takes options only" in said
            assert "Pass plans with --plans" in said
            assert "studies run with" in said
        assert "No such option: --limt" in refused(command, "--limt", "4", file)
    assert "takes options only" in refused("compare", "--all", file, "--limit", "2")
    assert "takes options only" in refused("compare", "absent.yaml")


def test_several_prompts_are_no_study(tmp_path: Path) -> None:
    said = compare(tmp_path, "--prompt", "a {}.", "b {}.")
    assert "safetensors" in said or "config.json" in said


def test_plans_and_studies_given_for_each_other(plan: Files, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    for text in (GOOD, "extends: other.yaml"):
        said = refused("study", plan(text))
        assert "this is a plan, and a study is needed" in said
        assert "compare --plans FILE" in said
    for args in (("validate",), ("compare", "--plans"), ("bench", "--plans")):
        said = refused(*args, study)
        assert "study.yaml this is a study, and a plan is needed" in said
        assert "tokenprune study FILE" in said


def test_what_tells_plans_from_studies_are_their_keys() -> None:
    assert set(Study.model_fields) >= OF_STUDIES
    assert not OF_STUDIES & set(Plan.model_fields)
    assert not OF_PLANS & set(Study.model_fields)


def test_missing_files_are_called_so_everywhere(plan: Files, tmp_path: Path) -> None:
    none, out = tmp_path / "none", ("--out", tmp_path / "x.png")
    study = tmp_path / "study.yaml"
    file = plan(GOOD)
    study.write_text(f"{STUDY}tasks: [{{kind: jsonl, path: none}}]\n")
    for args in (
        ("validate", none),
        ("study", none),
        ("study", study, "--dry-run"),
        ("show", none, "--plan", file, *out),
        ("bench", "--questions", none, *out),
    ):
        said = refused(*args)
        assert "there is no such file" in said
        assert "Errno" not in said


def test_why_a_file_cannot_be_read() -> None:
    for found, expected in (
        (FileNotFoundError(2, "No such file or directory", "x"), "there is no such file"),
        (NotADirectoryError(20, "Not a directory", "x"), "there is no such file"),
        (PermissionError(13, "Permission denied", "x"), "permission denied"),
        (NotReadableError("it is no regular file"), "it is no regular file"),
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
    ):
        assert reason(found) == expected
    assert reason(FileNotFoundError(), "folder") == "there is no such folder"
