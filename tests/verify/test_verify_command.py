"""`tokenprune verify`: exit codes, JSON, encoders and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import run
from tests.dual.tiny import save_clip
from tokenprune.engine.patching import Patches


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text("stages: [{at: encoder, strategy: tome, keep: 0.5}]\nname: halved\n")
    return path


def test_a_table_and_exit_code_0(llava_folder: Path, plan: Path, pictures: Path) -> None:
    code, out, err = run("verify", llava_folder, "--plan", plan, "--images", pictures)
    assert code == 0, err
    assert "halved on" in out
    assert "11 rows hold, 0 fail, 0 don't apply" in out
    assert "float64" in out
    assert str(pictures) in out.replace("\n", "")


def test_json_and_exit_code_1(
    llava_folder: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = Patches.undo

    def leaky(self: Patches) -> None:
        if len(self._layers) > 9:
            self._layers.pop(0)
        undo(self)

    monkeypatch.setattr(Patches, "undo", leaky)
    code, out, _ = run("verify", llava_folder, "--plan", plan, "--json", "--new-tokens", 2)
    assert code == 1
    data = json.loads(out)
    assert data["passed"] is False
    assert "detach" in [row["key"] for row in data["rows"] if row["status"] == "fail"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_that_was_asked_for(llava_folder: Path, plan: Path, dtype: str) -> None:
    code, out, _ = run("verify", llava_folder, "--plan", plan, "--json", "--dtype", dtype)
    data = json.loads(out)
    assert {row["dtype"] for row in data["rows"] if row["dtype"]} == {dtype}
    assert code == 0, [row for row in data["rows"] if row["status"] == "fail"]


def test_encoders(timm_weights: Path, plan: Path, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip", fitted=False)
    for model in (("timm:test_vit", "--weights", timm_weights), (clip,)):
        code, out, err = run("verify", *model, "--plan", plan, "--json")
        assert code == 0, err + out
        rows = {row["key"]: row for row in json.loads(out)["rows"]}
        passed = {key for key, row in rows.items() if row["status"] == "pass"}
        wanted = {"keep_all", "detach", "counts", "batch", "encoder", "leftovers", "threads"}
        assert passed == wanted
        assert all(rows[key]["note"] for key in rows.keys() - wanted)


def test_bad_input(llava_folder: Path, plan: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    unserved = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), unserved)
    late = tmp_path / "late.yaml"
    late.write_text("stages: [{at: decoder, strategy: fastv, keep: 9, layer: 40}]")
    empty = tmp_path / "empty"
    empty.mkdir()
    for says, *args in (
        ("absent.yaml", llava_folder, "--plan", tmp_path / "absent.yaml"),
        ("no adapter serves", "timm:test_resnet", "--weights", unserved, "--plan", plan),
        ("config.json", tmp_path / "nowhere", "--plan", plan),
        ("layer", llava_folder, "--plan", late),
        ("no pictures", llava_folder, "--plan", plan, "--images", empty),
        ("no folder", llava_folder, "--plan", plan, "--images", tmp_path / "nowhere"),
        ("dtype", llava_folder, "--plan", plan, "--dtype", "int8"),
    ):
        code, _, err = run("verify", *args)
        assert code == 2, (says, err)
        assert says in " ".join(err.split())
        assert "Traceback" not in err
    assert run("verify", llava_folder)[0] == 2  # without --plan


def test_an_empty_question_is_refused(llava_folder: Path, plan: Path) -> None:
    code, _, err = run("verify", llava_folder, "--plan", plan, "--question", " ")
    assert code == 2
    assert "a question is empty" in err
