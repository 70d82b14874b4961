"""Prompts: where pictures stand in them, and those that are longer than the LLM has positions."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.train.tiny import tiny
from tokenprune.cli.app import app
from tokenprune.errors import DataError, TokenpruneError
from tokenprune.interface.loading import LoadedMllm, LoadOptions
from tokenprune.lab.data.question import Question
from tokenprune.lab.drawing.show import NEW_TOKENS, show
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.models import load_model
from tokenprune.lab.positions import position_limit
from tokenprune.lab.train.batches import make_batch
from tokenprune.lab.train.heldout import accuracy
from tokenprune.plan import Plan
from tokenprune.reference import reference_model_path

PICTURE = Image.new("RGB", (112, 112), "red")
ASKED = "what is this ?"
LONG = "what " * 600


@pytest.fixture(scope="module")
def model() -> LoadedMllm:
    loaded = load_model(str(reference_model_path()), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    return loaded


def ids(model: LoadedMllm, question: str, pictures: int = 1) -> list[int]:
    inputs = model.prepare([[PICTURE] * pictures], [question])
    found: list[int] = inputs["input_ids"][0].tolist()
    return found


@pytest.mark.parametrize("form", ["<image>\n{}", "<image> {}", " <image>{}", "<image>\n\n{}"])
def test_a_place_in_front_is_where_the_picture_stands_anyway(model: LoadedMllm, form: str) -> None:
    assert ids(model, form.format(ASKED)) == ids(model, ASKED)


def test_the_picture_stands_where_the_question_says(model: LoadedMllm) -> None:
    image = model.model.config.image_token_id
    plain = ids(model, ASKED)
    visual = plain.count(image)
    behind = ids(model, f"{ASKED} <image>")
    assert behind.count(image) == visual
    assert behind[-visual:] == [image] * visual
    words = [token for token in plain if token != image]
    assert [token for token in behind if token != image] == words
    middle = ids(model, "what is <image> this ?")
    at = middle.index(image)
    assert middle[at : at + visual] == [image] * visual
    assert words == middle[:at] + middle[at + visual :]


def test_several_pictures_have_one_place_or_one_each(model: LoadedMllm) -> None:
    image = model.model.config.image_token_id
    assert ids(model, f"<image>\n{ASKED}", 2) == ids(model, ASKED, 2)
    each = ids(model, "<image> or <image> ?", 2)
    assert each.count(image) == 2 * ids(model, ASKED).count(image)
    gap = [token != image for token in each]
    assert sum(now and not before for before, now in itertools.pairwise(gap)) == 2
    with pytest.raises(DataError, match="3 places for pictures, and there are 2"):
        ids(model, "<image> <image> <image>", 2)
    with pytest.raises(DataError, match="2 places for pictures, and there are 1"):
        ids(model, "<image> <image>")


def test_prompts_beyond_the_positions_are_refused_everywhere(model: LoadedMllm) -> None:
    words = r"don't fit into the 512 positions"
    task = VqaTask(model, [Question(PICTURE, "a", ASKED), Question(PICTURE, "a", LONG)], 2)
    with pytest.raises(DataError, match=words) as caught:
        task.inputs(task.questions)
    assert caught.value.where.startswith("question 'what what what")
    assert len(str(caught.value)) < 500
    task.inputs(task.questions[:1])
    with pytest.raises(DataError, match=words):
        show(model, Plan(), [("red", PICTURE)], question=LONG)
    with pytest.raises(DataError, match=words):
        make_batch(model, [Question(PICTURE, "a", LONG)], 1)
    with pytest.raises(DataError, match=words):
        make_batch(model, [Question(PICTURE, LONG, ASKED)], 1)
    with pytest.raises(DataError, match=words):
        accuracy(model, Plan(), [Question(PICTURE, "a", LONG)])


def test_the_last_position_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny()
    length = loaded.prepare([_small()], [ASKED])["input_ids"].shape[1]
    task = VqaTask(loaded, [Question(_small(), "a", ASKED)], 1, NEW_TOKENS)
    config = loaded.model.config.text_config
    monkeypatch.setattr(config, "max_position_embeddings", length + NEW_TOKENS)
    assert position_limit(loaded.model) == length + NEW_TOKENS
    assert torch.is_tensor(task.inputs(task.questions)["input_ids"])
    monkeypatch.setattr(config, "max_position_embeddings", length + NEW_TOKENS - 1)
    with pytest.raises(DataError, match="don't fit"):
        task.inputs(task.questions)


@pytest.mark.parametrize(
    ("step", "value"), [(0, math.nan), (1, math.nan), (0, math.inf), (1, -math.inf)]
)
def test_logits_that_are_no_numbers_end_it(step: int, value: float) -> None:
    """In half precision logits that are too large are infinite; the first of them would win."""
    loaded, seen = tiny(), itertools.count()
    questions = [Question(_small(), "a", ASKED)] * 2
    task = VqaTask(loaded, questions, 2, NEW_TOKENS)
    inputs = task.inputs(questions)
    task.call(inputs)

    def spoil(module: object, args: object, logits: torch.Tensor) -> torch.Tensor:
        if next(seen) == step:
            logits[0, :, 3 if value != -math.inf else slice(None)] = value
        logits[1, :, 3] = -math.inf  # a token that is ruled out
        return logits

    hook = loaded.model.lm_head.register_forward_hook(spoil)
    try:
        with pytest.raises(TokenpruneError, match="logits of 1 answer are NaN") as caught:
            task.call(inputs)
    finally:
        hook.remove()
    assert "float32" in caught.value.remedy


def _small() -> Any:
    from tests.train.tiny import picture

    return picture(0)


def test_a_comparison_ends_with_exit_code_2(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: fopru, keep: 9}]")
    out = tmp_path / "out.json"
    result = CliRunner().invoke(
        app,
        f"compare --task video --model {reference_model_path()} --limit 1 --plans {plan} "
        f"--out {out}",
    )
    assert result.exit_code == 2
    assert "512 positions" in " ".join(result.output.split())
    assert not out.exists() or json.loads(out.read_text() or "{}") == {}
