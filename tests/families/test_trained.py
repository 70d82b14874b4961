"""`train`: learned methods on the inputs of every family."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import tokenprune
from tests.families.cases import CASES, LLMS
from tokenprune.cli.app import app
from tokenprune.engine.adapters import choose_adapter
from tokenprune.errors import BudgetError, DataError, SignalError, TokenpruneError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedMllm
from tokenprune.interface.trainable import IGNORE
from tokenprune.lab.data.question import Question
from tokenprune.lab.train import TrainSettings, train
from tokenprune.lab.train.batches import make_batch
from tokenprune.lab.train.session import model_shape
from tokenprune.plan import load_plan

Load = Callable[[str], LoadedMllm]
LINEAR = ("qwen3_5", "qwen3_5_moe", "qwen4_exp", "glm5_next")
SHARED = ("gemma3n", "gemma4-shared", "mistral_large4", "hy_v4_vl")
"""LLMs of which some layers read the keys of earlier ones."""
UNLEARNT = (
    *(*LINEAR, "lfm2_vl", "lfm3_vl", "minicpmv4_6", "minicpmv4_7", "minicpm_ocr"),
    *("nemotron_h_omni", *SHARED),
)
LEARNED = [name for name in LLMS if name not in UNLEARNT]
SETTINGS = TrainSettings(steps=2, batch_size=2, shared=2, warmup=0.0, save_every=1)


def picture(seed: int) -> Image.Image:
    raw = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(raw)


class Made:
    """Questions about made pictures of one size."""

    name = "made"
    digest = ""

    def draw(self, step: int, pictures: int, shared: int) -> list[Question]:
        pairs = itertools.product(range(pictures), range(shared))
        return [Question(picture(n), f"a{'b' * m}", f"what{'s' * m} ?", "what") for n, m in pairs]


@pytest.mark.parametrize("name", CASES)
def test_answers_stand_behind_prompts_in_every_input(name: str, load: Load) -> None:
    loaded = load(name)
    asked = Made().draw(0, 1, 2)
    batch = make_batch(loaded, asked, 1)
    ids = batch.inputs["input_ids"]
    for row, one in enumerate(asked):
        assert loaded.answer_ids is not None
        alone, answer = loaded.prepare([one.image], [one.text]), loaded.answer_ids(one.answer)
        seen = batch.inputs["attention_mask"][row].bool()
        assert ids[row][seen].tolist() == alone["input_ids"][0].tolist() + answer
        assert batch.labels[row][-len(answer) :].tolist() == answer
        assert set(batch.labels[row][: -len(answer)].tolist()) == {IGNORE}
        for other, value in alone.items():
            if value.shape == alone["input_ids"].shape and other != "input_ids":
                grown = batch.inputs[other][row][seen].tolist()
                assert grown[: -len(answer)] == value[0].tolist()
                later = 1 if other == "attention_mask" or name == "paligemma" else 0
                assert grown[-len(answer) :] == [later] * len(answer)
    with torch.no_grad():
        loss = loaded.model(**batch.inputs, labels=batch.labels).loss
    assert bool(loss.isfinite())


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_method_learns_on_a_family(name: str, load: Load, tmp_path: Path) -> None:
    stage = {"strategy": "covipal_style", "at": "decoder", "layer": 1, "keep": 0.5}
    plan = load_plan({"schema_version": 1, "stages": [stage]})
    before = {key: value.clone() for key, value in load(name).model.state_dict().items()}
    found = train(load(name), "covipal_style", plan, tmp_path, Made(), SETTINGS)
    assert found.checkpoint.is_file()
    assert load_plan(found.plan).stages[0].params["checkpoint"]
    after = load(name).model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_gates_of_an_exit_learn_on_a_family(load: Load, tmp_path: Path) -> None:
    plan = load_plan({"schema_version": 1, "stages": [{"strategy": "dyvte", "at": "decoder"}]})
    found = train(load("qwen2_5_vl"), "dyvte", plan, tmp_path, Made(), SETTINGS)
    assert found.checkpoint.is_file()


@pytest.mark.parametrize(
    ("name", "layer", "told"),
    [
        (LINEAR[0], 3, "linear attention"),
        ("lfm2_vl", 3, "short convolution"),
        ("gemma3n", 1, "reads the keys of earlier ones"),
        ("gemma4-shared", 0, "read the keys of earlier ones"),
    ],
)
def test_what_a_loss_cannot_do_is_refused(
    name: str, layer: int, told: str, load: Load, tmp_path: Path
) -> None:
    stage = {"strategy": "covipal_style", "at": "decoder", "layer": layer, "keep": 0.5}
    plan = load_plan({"schema_version": 1, "stages": [stage]})
    with pytest.raises(TokenpruneError, match=told):
        train(load(name), "covipal_style", plan, tmp_path, Made(), SETTINGS)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("qwen2_5_vl", {"strategy": "covipal_style", "at": "decoder", "layer": 1, "keep": 0.5}),
        ("internvl", {"strategy": "covipal_style", "at": "decoder", "layer": 1, "keep": 0.5}),
        ("llava_onevision", {"strategy": "dyvte", "at": "decoder"}),
    ],
)
def test_the_command_trains_what_attaches_again(
    name: str, stage: dict[str, Any], folder: Callable[[str], Path], load: Load, tmp_path: Path
) -> None:
    asked = {"image": "a.png", "question": "what is this ?", "answer": "two"}
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "qa.jsonl").write_text(json.dumps(asked))
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"stages": [stage]}))
    out, method = tmp_path / "out", stage["strategy"]
    given = ["train", method, "--plan", str(tmp_path / "p.yaml"), "--model", str(folder(name))]
    given += ["--data", str(tmp_path / "qa.jsonl"), "--out", str(out), "--steps", "20"]
    result = CliRunner().invoke(app, [*given, "--batch-size", "1"])
    assert result.exit_code == 0, result.output
    found = load_plan(out / "plan.yaml")
    loaded = load(name)
    with torch.no_grad(), tokenprune.attach(loaded.model, found) as handle:
        loaded.model(**loaded.prepare([picture(1)], ["what?"]))
        (one,) = handle.trace.images
        assert [step.strategy for step in one.steps] in ([method], [])
        assert method != "covipal_style" or one.kept == one.patches // 2
    # the weights are those of this model alone
    show = ["show", str(tmp_path / "a.png"), "--plan", str(out / "plan.yaml"), "--model"]
    sheet = ["--force", "--out", str(tmp_path / "x.png")]
    mine = CliRunner().invoke(app, [*show, str(folder(name)), *sheet])
    assert mine.exit_code == 0, mine.output
    other = CliRunner().invoke(app, [*show, str(folder("gemma3")), *sheet])
    assert other.exit_code == 2
    assert "was trained" in " ".join(other.output.split())


@pytest.mark.parametrize(
    ("stage", "told", "able"),
    [
        ({"strategy": "vistog", "keep": 4}, "needs companions", "llava + clip, llava + siglip"),
        ({"strategy": "quecc", "keep": 6}, "needs question_state", "llava + clip, llava + siglip"),
    ],
)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "llava_onevision"])
def test_methods_that_a_family_has_no_part_for_are_refused_at_attach(
    name: str, stage: dict[str, Any], told: str, able: str, load: Load
) -> None:
    params: dict[str, Any] = {"init_seed": 0, "dim": 32}
    params |= {"text_dim": 32} if stage["strategy"] == "quecc" else {}
    plan = load_plan({"stages": [{**stage, "at": "pre_llm", "params": params}]})
    with pytest.raises(SignalError, match=told) as caught:
        tokenprune.attach(load(name).model, plan)
    assert caught.value.remedy == f"Families that can: {able}."


def test_inside_the_llm_a_token_is_as_wide_as_its_streams(load: Load) -> None:
    loaded = load("gemma3n")
    adapter = choose_adapter(loaded.model)
    assert isinstance(adapter, MllmAdapter)
    shape = model_shape(adapter, loaded.prepare([picture(0)], ["what?"]))
    width = loaded.model.config.get_text_config().hidden_size
    assert (shape.encoder_width, shape.llm_width, shape.grid) == (width, 3 * width, (1, 3, 3))


def test_the_shape_is_that_of_a_call(load: Load) -> None:
    loaded = load("qwen2_vl")
    adapter = choose_adapter(loaded.model)
    assert isinstance(adapter, MllmAdapter)
    inputs = loaded.prepare([picture(0)], ["what?"])
    shape = model_shape(adapter, inputs)
    config = loaded.model.config.get_text_config()
    assert (shape.llm_width, shape.llm_layers) == (config.hidden_size, config.num_hidden_layers)
    assert (shape.encoder_width, shape.encoder_blocks) == (config.hidden_size, 0)
    frames, high, wide = inputs["image_grid_thw"][0].tolist()
    assert shape.grid == (frames, high // 2, wide // 2)


def test_what_no_budget_helps_is_said_before_the_budget(load: Load, tmp_path: Path) -> None:
    plan = load_plan({"stages": [{"strategy": "quecc", "at": "pre_llm", "keep": 5}]})
    with pytest.raises(SignalError, match="needs question_state"):
        train(load("qwen2_5_vl"), "quecc", plan, tmp_path, Made(), SETTINGS)
    with pytest.raises(BudgetError, match="no stride leaves 5 tokens"):
        train(load("llava"), "quecc", plan, tmp_path, Made(), SETTINGS)


def test_the_auxiliary_reader_needs_one_grid(load: Load, tmp_path: Path) -> None:
    stage = {"strategy": "covipal_style", "at": "decoder", "layer": 1, "keep": 0.5}
    plan = load_plan({"stages": [stage]})
    settings = replace(SETTINGS, aux_weight=0.5)
    with pytest.raises(DataError, match="the reader has one grid") as caught:
        train(load("qwen2_5_vl"), "covipal_style", plan, tmp_path, Made(), settings)
    assert caught.value.where == "--aux-weight"
