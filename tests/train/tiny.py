"""A tiny random LLaVA with a loader's functions, and a few questions to learn by heart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.models import EOS_TOKEN, IMAGE, IMAGE_TOKEN, llava_clip, llava_inputs
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.train import Trained, TrainSettings, train
from tokenprune.plan import Plan, load_plan

FIRST_WORD, WORDS = 6, 80
KEEPS: dict[str, int | None] = {"vistog": 4, "quecc": 9, "covipal_style": 6, "dyvte": None}


def word(text: str) -> int:
    return FIRST_WORD + sum(ord(letter) for letter in text) % WORDS


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (IMAGE, IMAGE, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def prepare(pictures: Sequence[Any], questions: Sequence[str]) -> dict[str, Any]:
    prompts = [[1, IMAGE_TOKEN, *(word(w) for w in text.split())] for text in questions]
    inputs: dict[str, Any] = llava_inputs(prompts)
    values = [torch.from_numpy(np.array(image)).float() / 64 - 2 for image in pictures]
    return {**inputs, "pixel_values": torch.stack(values).permute(0, 3, 1, 2).contiguous()}


def decode(ids: Tensor) -> list[str]:
    return [" ".join(str(int(token)) for token in row if token != EOS_TOKEN) for row in ids]


def tiny(model: Any = None) -> LoadedMllm:
    return LoadedMllm(
        name="tiny",
        model=llava_clip() if model is None else model,
        prepare=prepare,
        decode=decode,
        picture=lambda image: image,
        fingerprint=lambda: "tiny",
        weights="none",
        answer_ids=lambda answer: [*(word(w) for w in answer.split()), EOS_TOKEN],
    )


class ByHeart:
    """The same questions at every step, or others by step."""

    name = "by heart"
    digest = ""

    def __init__(self, fresh: bool = False) -> None:
        self.fresh = fresh

    def draw(self, step: int, pictures: int, shared: int) -> list[Question]:
        start = 100 * step if self.fresh else 0
        return [
            Question(picture(start + number), f"a{'x' * number}", f"what is {'b' * asked}", "what")
            for number in range(pictures)
            for asked in range(shared)
        ]


def plan(strategy: str, **params: Any) -> Plan:
    at = "pre_llm" if strategy in ("vistog", "quecc") else "decoder"
    stage: dict[str, Any] = {"at": at, "strategy": strategy, "params": params}
    if KEEPS[strategy] is not None:
        stage["keep"] = KEEPS[strategy]
    return load_plan({"schema_version": 1, "stages": [stage]})


def run(
    strategy: str,
    out: Path,
    *,
    loaded: LoadedMllm | None = None,
    steps: int = 6,
    save_every: int = 2,
    tell: Tell | None = None,
    fresh: bool = True,
    restart: bool = False,
    lr: float = 1e-3,
    **more: Any,
) -> Trained:
    settings = TrainSettings(
        steps=steps, batch_size=4, shared=2, lr=lr, save_every=save_every, warmup=0.0, **more
    )
    return train(
        tiny() if loaded is None else loaded,
        strategy,
        plan(strategy),
        out,
        ByHeart(fresh),
        settings,
        tell=tell,
        restart=restart,
    )
