"""The model classes that lmms-eval runs; imported when one of them is asked for by name.

    lmms-eval --model tokenprune_hf --model_args pretrained=FOLDER,plan=plan.yaml --tasks mmbench

Their prompts are those of the processor's chat template. Answers of a call that fails are never
replaced by empty ones: the error ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from torch import Tensor
from tqdm import tqdm

from tokenprune.errors import UnsupportedCallError
from tokenprune_adapters.lmms_eval.arguments import Arguments
from tokenprune_adapters.lmms_eval.generation import batches, cut, generate_options
from tokenprune_adapters.lmms_eval.loading import check_family, load
from tokenprune_adapters.lmms_eval.prompts import Chat, Conversation, conversation


class HfChat(lmms):  # type: ignore[misc]
    """Any image-text-to-text model of transformers whose family has an adapter.

    Args:
        pretrained: folder or hub name of the checkpoint.
        given: the other arguments, see `Arguments`.

    Raises:
        TokenpruneError: an argument, the plan or the checkpoint is bad, or they don't fit.
    """

    is_simple = False
    families: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pretrained: str = "", **given: Any) -> None:
        super().__init__()
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            given["device"] = str(self.accelerator.device)
            self._rank = self.accelerator.process_index
            self._world_size = self.accelerator.num_processes
        self.arguments = Arguments.of({"pretrained": pretrained, **given})
        check_family(self.arguments, self.families)
        self.model, processor, self.attachment = load(self.arguments)
        self.chat = Chat(processor, self.arguments.template())

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.arguments.options().device

    @property
    def batch_size(self) -> int:
        """Requests a batch."""
        return self.arguments.batch()

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers, in the order of the requests.

        Raises:
            UnsupportedCallError: a request holds more than images and text.
            TokenpruneError: whatever the plan meets.
        """
        results: list[GenerationResult | None] = [None] * len(requests)
        asked = [request.args for request in requests]
        if self.attachment is not None:
            self.attachment.meter.reset()
        seconds, tokens = 0.0, 0
        with tqdm(total=len(requests), disable=self.rank != 0, desc="tokenprune") as bar:
            for given, places in batches([self._given(one) for one in asked], self.batch_size):
                start = time.perf_counter()
                answers, counts = self._answer([self._read(asked[at]) for at in places], given)
                seconds += time.perf_counter() - start
                tokens += sum(counts)
                for at, answer, count in zip(places, answers, counts, strict=True):
                    results[at] = GenerationResult(answer, TokenCounts(output_tokens=count))
                    self.cache_hook.add_partial("generate_until", (asked[at][0], given), answer)
                bar.update(len(places))
        self._log(seconds, tokens)
        return [result for result in results if result is not None]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Not in this protocol: lmms-eval's chat tasks generate; see `simple`."""
        raise _unsupported("loglikelihood")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not supported."""
        raise _unsupported("generate_until_multi_round")

    def clean(self) -> None:
        """Free the model's memory; lmms-eval calls it before it starts judges of its own."""
        if self.attachment is not None:
            self.attachment.detach()
        self.attachment = None
        super().clean()

    def _given(self, asked: tuple[Any, ...]) -> Mapping[str, Any]:
        """The generation arguments of a request."""
        given: Mapping[str, Any] = asked[2]
        return given

    def _read(self, asked: tuple[Any, ...]) -> Conversation:
        _, messages, _, place, task, split = asked
        return conversation(messages(self.task_dict[task][split][place]))

    @torch.inference_mode()
    def _answer(
        self, asked: Sequence[Conversation], given: Mapping[str, Any]
    ) -> tuple[list[str], list[int]]:
        options = {**generate_options(given), "use_cache": self.arguments.use_cache}
        inputs = self.chat.inputs(asked).to(self.device, self.model.dtype)
        ids: Tensor = self.model.generate(**inputs, **options)
        new = ids[:, inputs["input_ids"].shape[1] :]
        return [cut(answer, given) for answer in self.chat.decode(new)], self.chat.count(new)

    def _log(self, seconds: float, tokens: int) -> None:
        kept = {} if self.attachment is None else self.attachment.meter.tokens
        log_metrics(
            total_elapsed_time=seconds,
            total_gen_tokens=tokens,
            avg_speed=tokens / seconds if seconds else 0.0,
            additional_metrics={f"tokens_{name}": mean for name, mean in kept.items()},
        )


class LlavaHf(HfChat):
    """LLaVA checkpoints in the transformers format, such as llava-hf/llava-1.5-7b-hf."""

    families = ("llava",)


class LlavaOnevision(HfChat):
    """LLaVA-OneVision checkpoints in the transformers format."""

    families = ("llava_onevision",)


class Qwen2_5_Vl(HfChat):
    """Qwen2.5-VL checkpoints."""

    families = ("qwen2_5_vl",)


class Qwen3Vl(HfChat):
    """Qwen3-VL checkpoints, with experts or without."""

    families = ("qwen3_vl", "qwen3_vl_moe")


class InternVlHf(HfChat):
    """InternVL checkpoints in the transformers format."""

    families = ("internvl",)


def _unsupported(kind: str) -> UnsupportedCallError:
    return UnsupportedCallError(
        f"tokenprune's models don't answer '{kind}' requests.",
        where="lmms-eval",
        remedy="Choose tasks with output_type generate_until; multiple-choice tasks run with "
        "--force_simple.",
    )
