"""lmms-eval's older protocol on the bundled model: generated answers and log-likelihoods."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from tests.integrations import fake_lmms
from tests.integrations.test_lmms_models import GREEDY, PLAN, QUESTIONS
from tests.integrations.test_lmms_models import requests as chat_requests
from tokenprune import attach
from tokenprune.errors import DataError, UnsupportedCallError
from tokenprune.reference import reference_model_path

CHOICES = ["red", "blue", "two"]


def shown(number: int) -> list[Any]:
    return [[QUESTIONS[number].image]]


def model(module: ModuleType, kind: str, **given: Any) -> Any:
    made = getattr(module, kind)(pretrained=str(reference_model_path()), device="cpu", **given)
    made.task_dict = {"task": {"test": range(len(QUESTIONS))}}
    return made


def asked(number: int, target: Any) -> fake_lmms.Instance:
    text = QUESTIONS[number].text
    return fake_lmms.Instance((text, target, shown, number, "task", "test"))


def test_answers_are_those_of_chat_requests(models: ModuleType, simple: ModuleType) -> None:
    # of the template's turn, pictures come first in both
    wanted = model(models, "LlavaHf", plan=PLAN).generate_until(chat_requests()[:1])
    found = model(simple, "LlavaHfSimple", plan=PLAN).generate_until([asked(0, GREEDY)])
    assert [one.text for one in found] == [one.text for one in wanted]


@pytest.mark.parametrize("plan", [None, PLAN], ids=["dense", "pruned"])
def test_likelihoods_are_those_of_one_token_after_the_other(
    simple: ModuleType, plan: dict[str, Any] | None
) -> None:
    of = model(simple, "LlavaHfSimple")
    tokenizer = of.chat.processor.tokenizer
    requests = [asked(0, choice) for choice in CHOICES] + [asked(1, lambda _: "two red")]
    if plan is not None:
        of.attachment = attach(of.model, plan)
    found = [one.text for one in of.loglikelihood(requests)]
    for request, (loss, greedy) in zip(requests, found, strict=True):
        context, target, *_, number, _, _ = request.args
        answer = target if isinstance(target, str) else target(None)
        ids = tokenizer(answer, add_special_tokens=False).input_ids
        inputs = of.chat.inputs([of._read((context, None, shown, number, "task", "test"))])
        start = inputs["input_ids"].shape[1]
        out = of.model.generate(
            **inputs,
            max_new_tokens=len(ids),
            output_logits=True,
            return_dict_in_generate=True,
            prefix_allowed_tokens_fn=lambda _, so_far, ids=ids, at=start: [ids[len(so_far) - at]],
        )
        told = torch.stack(out.logits)[:, 0].log_softmax(-1)
        assert out.sequences[0, start:].tolist() == ids
        wanted = [-float(row[token]) for row, token in zip(told, ids, strict=True)]
        assert loss == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)
        assert greedy is (told.argmax(-1).tolist() == ids)
    of.clean()


def test_the_likeliest_choice_is_what_the_model_answers(simple: ModuleType) -> None:
    of = model(simple, "HfChatSimple")
    for number, question in enumerate(QUESTIONS[:3]):
        choices = list(dict.fromkeys((question.answer, *CHOICES)))
        asking = [asked(number, choice) for choice in choices]
        found = [one.text for one in of.loglikelihood(asking)]
        losses = torch.tensor([loss for loss, _ in found])
        assert choices[int(losses.argmin())] == question.answer
        assert [greedy for _, greedy in found] == [choice == question.answer for choice in choices]


def test_what_is_no_question_is_refused(simple: ModuleType) -> None:
    of = model(simple, "LlavaHfSimple")
    with pytest.raises(UnsupportedCallError, match="text alone"):
        of.loglikelihood([fake_lmms.Instance(("", "red"))])
    with pytest.raises(DataError, match="empty"):
        of.loglikelihood([asked(0, "")])
