"""Going on with a run: with other data it is refused, and damaged states are passed over."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.processes import killed, started
from tests.train.test_train_run import same
from tests.train.tiny import picture, plan, run, tiny
from tokenprune.errors import CheckpointError, DataError
from tokenprune.lab.train import FileStream, TrainSettings, train
from tokenprune.lab.train.state import StateFolder

SETTINGS = TrainSettings(steps=2, batch_size=2, shared=1, save_every=1, warmup=0.0)


def data(folder: Path, answer: str = "red", seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(2):
        picture(seed + number).save(folder / f"{number}.png")
    rows = [{"image": f"{n}.png", "question": "what", "answer": answer} for n in range(2)]
    (folder / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "qa.jsonl"


def go_on(file: Path, out: Path) -> str:
    done = train(tiny(), "vistog", plan("vistog"), out, FileStream(file, 0), SETTINGS)
    found: str = done.data["data_sha256"]
    return found


def test_other_data_of_the_same_name_are_refused(tmp_path: Path) -> None:
    file, out = data(tmp_path / "a"), tmp_path / "out"
    digest = go_on(file, out)
    assert go_on(data(tmp_path / "b"), out) == digest  # the same in another folder
    with pytest.raises(DataError, match="data_sha256 was"):
        go_on(data(tmp_path / "a", answer="blue"), out)
    with pytest.raises(DataError, match="data_sha256 was"):
        go_on(data(tmp_path / "a", seed=5), out)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "progress.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path: Path, name: str, how: str) -> None:
    run("vistog", tmp_path / "whole")
    run("vistog", tmp_path / "parts")
    newest, before = StateFolder(tmp_path / "parts", {}).complete()
    file = newest / name
    if how == "cut":
        file.write_bytes(file.read_bytes()[:50])
    else:
        file.unlink()
    with pytest.warns(UserWarning, match=f"goes on from .*{before.name}"):
        run("vistog", tmp_path / "parts")
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert len(StateFolder(tmp_path / "parts", {}).complete()) == 2


def test_where_no_state_is_sound_the_error_says_so(tmp_path: Path) -> None:
    run("vistog", tmp_path)
    for state in StateFolder(tmp_path, {}).complete():
        (state / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="can't be read") as caught:
        run("vistog", tmp_path)
    assert "--restart" in caught.value.remedy
    run("vistog", tmp_path, restart=True)


def held(out: Path) -> None:
    """Train, and stand still in the middle."""

    def tell(done: int, total: int, what: str) -> None:
        if done == 3:
            out.with_name("held").touch()
            time.sleep(600)

    run("vistog", out, tell=tell)


def test_two_runs_into_one_folder_are_refused(tmp_path: Path) -> None:
    """Each would clear the other's states and write over its weights and record."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with killed(started(held, parts), (tmp_path / "held").exists):
        before = {path: path.stat().st_mtime_ns for path in parts.rglob("*")}
        for restart in (False, True):
            with pytest.raises(DataError, match="another run is training into this") as caught:
                run("vistog", parts, restart=restart)
            assert caught.value.where == str(parts)
            assert "another --out" in caught.value.remedy
            assert {path: path.stat().st_mtime_ns for path in parts.rglob("*")} == before
    # the lock went with its process, and the run with its states goes on
    assert run("vistog", parts).data["starts"] == 2
    run("vistog", whole)
    assert same(whole, parts)
