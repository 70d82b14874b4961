"""The same models behind lmms-eval's older protocol, which multiple-choice tasks speak.

    lmms-eval --model tokenprune_hf --force_simple --model_args pretrained=FOLDER,plan=plan.yaml ...

Requests hold a context and functions for pictures instead of messages. Every picture stands in
front of the context, in one turn of the user's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from tqdm import tqdm

from tokenprune.errors import DataError, UnsupportedCallError
from tokenprune_adapters.lmms_eval import models
from tokenprune_adapters.lmms_eval.likelihood import judged, with_answer
from tokenprune_adapters.lmms_eval.prompts import Conversation, conversation


class Simple(models.HfChat):
    """What the older protocol changes."""

    is_simple = True

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Mean negative log-likelihood of each answer, and whether it is the greedy one.

        lmms-eval takes the least for the model's choice, as of its own models. It makes a text of
        a bare pair (in 0.7.3), which its tasks can't read; what stands in a result stays as it is.

        Raises:
            UnsupportedCallError: a request has no picture's document, as for mutual information.
            DataError: an answer is empty.
            TokenpruneError: whatever the plan meets.
        """
        found = []
        for request in tqdm(requests, disable=self.rank != 0, desc="tokenprune"):
            if len(request.args) != 6:
                raise UnsupportedCallError(
                    "the request has a text alone, as for mutual information.",
                    where="lmms-eval",
                    remedy="Leave the metric acc_mutual_info away.",
                )
            context, target, visual, place, task, split = request.args
            doc = self.task_dict[task][split][place]
            answer = str(target if isinstance(target, str) else target(doc))
            pair = self._judge(_conversation(context, visual(doc)), answer)
            found.append(GenerationResult(pair))
        return found

    def _given(self, asked: tuple[Any, ...]) -> Mapping[str, Any]:
        given: Mapping[str, Any] = asked[1]
        return given

    def _read(self, asked: tuple[Any, ...]) -> Conversation:
        context, _, visual, place, task, split = asked
        return _conversation(context, visual(self.task_dict[task][split][place]))

    @torch.inference_mode()
    def _judge(self, asked: Conversation, answer: str) -> tuple[float, bool]:
        tokenizer = self.chat.processor.tokenizer
        ids = tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids[0].long()
        if not len(ids):
            raise DataError("an answer to judge is empty.", where="lmms-eval")
        inputs = self.chat.inputs([asked]).to(self.device, self.model.dtype)
        call = with_answer(inputs, ids, self.chat.answer_values)
        return judged(self.model(**call).logits, ids)


def _conversation(context: str, pictures: Any) -> Conversation:
    parts: list[dict[str, Any]] = [{"type": "image", "url": one} for one in _flat(pictures)]
    parts.append({"type": "text", "text": context})
    return conversation([{"role": "user", "content": parts}])


def _flat(pictures: Any) -> Iterator[Any]:
    """Tasks give one picture, several, or lists of several."""
    for one in pictures if isinstance(pictures, list | tuple) else [pictures]:
        if isinstance(one, list | tuple):
            yield from _flat(one)
        elif one is not None:
            yield one


class HfChatSimple(Simple):
    """Any family that has an adapter."""


class LlavaHfSimple(Simple, models.LlavaHf):
    """LLaVA."""


class LlavaOnevisionSimple(Simple, models.LlavaOnevision):
    """LLaVA-OneVision."""


class Qwen2_5_VlSimple(Simple, models.Qwen2_5_Vl):
    """Qwen2.5-VL."""


class Qwen3VlSimple(Simple, models.Qwen3Vl):
    """Qwen3-VL."""


class InternVlHfSimple(Simple, models.InternVlHf):
    """InternVL."""
