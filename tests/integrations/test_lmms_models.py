"""The model classes on the bundled model: answers, order, counts and refusals."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.integrations import fake_lmms
from tokenprune import attach, load_plan
from tokenprune.errors import DataError, PlanError, UnsupportedCallError, UnsupportedModelError
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.data.pictures import heldout_questions
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.models import load_model, load_options
from tokenprune.reference import reference_model_path

PLAN = {"stages": [{"at": "encoder", "strategy": "evoprune", "keep": 20, "schedule": "skip"}]}
QUESTIONS = heldout_questions(5)
GREEDY = {"max_new_tokens": 2, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


def messages(number: int) -> list[dict[str, Any]]:
    question = QUESTIONS[number]
    parts = [{"type": "image", "url": question.image}, {"type": "text", "text": question.text}]
    return [{"role": "user", "content": parts}]


def requests() -> list[fake_lmms.Instance]:
    """One a question; the second and fourth generate longer, so that they batch apart."""
    return [
        fake_lmms.Instance(
            ("", messages, {**GREEDY, "max_new_tokens": 2 + number % 2}, number, "task", "test")
        )
        for number in range(len(QUESTIONS))
    ]


def model(models: ModuleType, kind: str = "LlavaHf", **given: Any) -> Any:
    path = str(reference_model_path())
    made = getattr(models, kind)(pretrained=path, device="cpu", max_batch_size=None, **given)
    made.task_dict = {"task": {"test": range(len(QUESTIONS))}}
    return made


@pytest.fixture(scope="module")
def expected() -> dict[str, list[str]]:
    """Answers of the command line's own loader, one sample at a time."""
    loaded = load_model(str(reference_model_path()), load_options("cpu"))
    assert isinstance(loaded, LoadedMllm)
    task = VqaTask(loaded, QUESTIONS, 1)

    def answers() -> list[str]:
        inputs = [task.inputs(batch) for batch in task.batches]
        return [task.read(one, task.call(one))[0] for one in inputs]

    dense = answers()
    with attach(loaded.model, PLAN):
        return {"dense": dense, "pruned": answers()}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_dense_answers_are_those_of_the_command_line(
    models: ModuleType, expected: dict[str, list[str]], batch_size: int
) -> None:
    results = model(models, "HfChat", batch_size=batch_size).generate_until(requests())
    assert [result.text for result in results] == expected["dense"]
    assert all(result.token_counts.output_tokens == 2 for result in results)
    assert fake_lmms.LOGGED[-1]["additional_metrics"] == {}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_pruned_answers_are_those_of_the_command_line(
    models: ModuleType, expected: dict[str, list[str]], batch_size: int
) -> None:
    wrapped = model(models, batch_size=batch_size, plan=PLAN)
    for _ in range(2):
        results = wrapped.generate_until(requests())
        assert [result.text for result in results] == expected["pruned"]
        counts = fake_lmms.LOGGED[-1]["additional_metrics"]
        assert counts["tokens_patches"] == 196
        assert counts["tokens_llm_average"] == 20
    assert len(wrapped.cache_hook.seen) == 2 * len(QUESTIONS)


def test_a_plan_file_is_read(models: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("stages: [{at: pre_llm, strategy: uniform, keep: 7}]\n")
    wrapped = model(models, plan=str(path))
    wrapped.generate_until(requests()[:1])
    assert fake_lmms.LOGGED[-1]["additional_metrics"]["tokens_llm"] == 7


def test_a_plan_may_be_json(models: ModuleType) -> None:
    wrapped = model(models, plan=json.dumps(PLAN))
    assert wrapped.attachment.plan == load_plan(PLAN)


def test_a_failing_call_gives_no_empty_answers(
    models: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = model(models)

    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(wrapped.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        wrapped.generate_until(requests())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"paln": "plan.yaml"}, DataError, "Did you mean 'plan'"),
        ({"batch_size": "auto"}, DataError, "no positive number"),
        ({"dtype": "float8"}, DataError, "no dtype 'float8'"),
        ({"plan": "nowhere.yaml"}, PlanError, "nowhere.yaml"),
        ({"plan": {"stages": [{"at": "pre_llm", "strategy": "unifrom", "keep": 7}]}}, PlanError,
         "uniform"),
        ({"plan": '{"stages": [}'}, PlanError, "no valid JSON"),
        ({"chat_template": "nowhere.jinja"}, DataError, "nowhere.jinja"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(
    models: ModuleType, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        model(models, **given)


def test_a_checkpoint_has_to_be_named(models: ModuleType) -> None:
    with pytest.raises(DataError, match="checkpoint is missing"):
        models.HfChat(device="cpu")


def test_another_family_is_refused_by_name(models: ModuleType, tmp_path: Path) -> None:
    from transformers import CLIPConfig

    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"'clip', not llava.*tokenprune_hf"):
        models.LlavaHf(pretrained=str(tmp_path), device="cpu")


def test_cleaning_frees_the_model(models: ModuleType) -> None:
    wrapped = model(models, plan=PLAN)
    wrapped.generate_until(requests()[:1])
    alive = weakref.ref(wrapped.model)
    wrapped.clean()
    assert alive() is None


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until_multi_round"])
def test_other_requests_are_refused(models: ModuleType, kind: str) -> None:
    with pytest.raises(UnsupportedCallError, match=kind):
        getattr(model(models), kind)([])
