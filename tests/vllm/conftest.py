"""What vLLM's engines answer, and what `attach` answers to the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.vllm.engine import ENVIRONMENT, NEW_TOKENS, Asked, prompt_of
from tokenprune import attach
from tokenprune.reference import reference_model_path

REFERENCE = str(reference_model_path())

Engines = Callable[..., list[dict[str, Any]]]


def request(
    plan: dict[str, Any] | None, prompts: Sequence[Asked], model: str = REFERENCE, **more: Any
) -> dict[str, Any]:
    """One engine's plan and prompts, see `tests.vllm.engine`."""
    return {"model": model, "plan": plan, "prompts": prompts, "options": {}, **more}


def engines_in(folder: Path, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers to requests, of engines in a process of their own, whose files are in a folder."""
    asked, answered = folder / "requests.json", folder / "answers.json"
    asked.write_text(json.dumps(requests))
    command = [sys.executable, "-m", "tests.vllm.engine", str(asked), str(answered)]
    done = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(answered.read_text())
    return found


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    """Runs requests in a process of their own and gives the answers."""
    return partial(engines_in, tmp_path)


def clips_of(videos: Sequence[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Arguments of a processor for clips as vLLM gets them."""
    from transformers.video_utils import VideoMetadata

    if not videos:
        return {}
    told = [{key: one[key] for key in one if key != "do_sample_frames"} for _, one in videos]
    metadata = [VideoMetadata(**one) for one in told]
    frames = [frames for frames, _ in videos]
    return {"videos": frames, "video_metadata": metadata, "do_sample_frames": False}


def attached(
    plan: dict[str, Any], prompts: Sequence[Asked], model: str = REFERENCE
) -> list[list[int]]:
    """What transformers generates with the plan attached, prompt by prompt."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype="float32").eval()
    found = []
    with torch.no_grad(), attach(loaded, plan):
        for asked in prompts:
            prompt = prompt_of(asked)
            shown = prompt["multi_modal_data"]
            inputs = processor(
                images=shown.get("image"),
                text=prompt["prompt"],
                return_tensors="pt",
                **clips_of(shown.get("video", ())),
            )
            ids = loaded.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            found.append(ids[0, inputs["input_ids"].shape[1] :].tolist())
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The checkpoint of a family."""
    from tests.vllm.checkpoints import save

    root, known = tmp_path_factory.mktemp("checkpoints"), dict[str, str]()

    def saved(name: str) -> str:
        if name not in known:
            known[name] = save(name, root / name)
        return known[name]

    return saved
