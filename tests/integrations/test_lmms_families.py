"""lmms-eval's own command line on tiny checkpoints of the families that it has models for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.lmms_eval_task import NAME, write_task
from tests.families.conftest import folder
from tokenprune.lab.data.question import Question

__all__ = ["folder"]

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("lmms_eval", "datasets")),
    reason="lmms-eval isn't installed",
)
MODELS = {
    "tokenprune_llava_hf": "llava",
    "tokenprune_llava_onevision": "llava_onevision",
    "tokenprune_qwen2_5_vl": "qwen2_5_vl",
    "tokenprune_qwen3_vl": "qwen3_vl",
    "tokenprune_internvl_hf": "internvl",
    "tokenprune_hf": "smolvlm",
}


def choosing(task: Path) -> None:
    """Make a task of multiple choice of it, whose answers are judged and not generated."""
    text = task.read_text().replace("process_results: !function heldout.score\n", "")
    text = text.replace("generate_until", "multiple_choice").replace("accuracy", "acc")
    task.write_text(f"{text}doc_to_choice: [red, blue]\n")


def run(model: str, checkpoint: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Two questions about pictures of two sizes, half of whose tokens are kept."""
    questions = [
        Question(Image.new("RGB", size, colour), colour, f"what is {colour}?", "", number)
        for number, (size, colour) in enumerate((((90, 60), "red"), ((60, 80), "blue")))
    ]
    write_task(out / "task", questions)
    if more:
        choosing(out / "task" / f"{NAME}.yaml")
    plan = out / "plan.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: random, keep: 0.5}]\n")
    return subprocess.run(
        [
            *(sys.executable, "-m", "lmms_eval", "--model", model, "--batch_size", "2"),
            *("--model_args", f"pretrained={checkpoint},dtype=float32,plan={plan}"),
            *("--include_path", str(out / "task"), "--tasks", NAME, "--device", "cpu"),
            *("--log_samples", "--output_path", str(out / "found"), "--verbosity", "DEBUG"),
            *more,
        ],
        env={**os.environ, "HF_HOME": str(out / "cache"), "HF_DATASETS_OFFLINE": "1"},
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_runs_with_its_plan(
    model: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run(model, folder(MODELS[model]), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (tmp_path / "found").rglob("*_results.json")
    measured = json.loads(results.read_text())["throughput"]
    assert (
        0
        < measured["avg_tokens_llm"]
        <= measured.get("avg_tokens_units", measured.get("avg_tokens_patches")) / 2
    )
    (samples,) = (tmp_path / "found").rglob(f"*_samples_{NAME}.jsonl")
    assert len(samples.read_text().splitlines()) == 2


def test_a_checkpoint_of_another_family_is_refused(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run("tokenprune_qwen3_vl", folder("internvl"), tmp_path)
    assert "of type 'internvl', not qwen3_vl or qwen3_vl_moe" in done.stdout + done.stderr


@pytest.mark.parametrize("model", ["tokenprune_llava_hf", "tokenprune_qwen2_5_vl"])
def test_choices_are_judged_by_their_likelihood(
    model: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run(model, folder(MODELS[model]), tmp_path, "--force_simple")
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = (tmp_path / "found").rglob(f"*_samples_{NAME}.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(lines) == 2
    assert {float(one["acc"]) for one in lines} <= {0.0, 1.0}
