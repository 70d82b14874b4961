"""Models in vLLM whose pictures have text between their tokens: features bring its embeddings.

Imported when an engine runs one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from tokenprune_adapters.vllm.placeholders import filled
from tokenprune_adapters.vllm.runs import Runs, ServedRuns, runs_of, spelled, within
from tokenprune_adapters.vllm.seen import PIXELS, SeenItems
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.sharing import words_of

IDS = "tokenprune_ids"
"""What a picture's data calls the ids between its first and last placeholder without a plan."""


class PlannedSpelling(SeenItems):
    """As many placeholders as a plan leaves; mixed into vLLM's own processors."""

    info: Any

    @cached_property
    def served(self) -> ServedRuns:
        """The plan on this model."""
        return served_runs(self.info.get_hf_config())

    @cached_property
    def placeholder(self) -> int:
        """Id of what stands for a unit."""
        return placeholder_of(self.info.get_hf_config())

    def _postprocess_hf_mm_data(
        self, mm_data: Mapping[str, Any], hf_processor_mm_kwargs: Mapping[str, Any], processed: Any
    ) -> Any:
        """What the processor made of pictures, with the ids of each."""
        processor: Any = super()
        processed = processor._postprocess_hf_mm_data(mm_data, hf_processor_mm_kwargs, processed)
        if mm_data.get("images"):
            items = self.info.parse_mm_data({"image": mm_data["images"]}, validate=False)
            whole, *_ = processor._get_prompt_updates(items, hf_processor_mm_kwargs, {})
            found = [list(whole.replacement(at).full) for at in range(len(mm_data["images"]))]
            processed[IDS] = [torch.tensor(ids[within(ids, self.placeholder)]) for ids in found]
        return processed

    def fits(self, kind: str, seen: Mapping[str, Tensor]) -> bool:
        """Whether pixels are those of the runs of placeholders."""
        runs = runs_of(seen[IDS].tolist(), self.placeholder)
        return self.served.fits(runs, seen[PIXELS[kind]].shape)

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        processor: Any = super()
        fields = processor._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
        return {**fields, IDS: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        processor: Any = super()
        updates = processor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [filled(one, self.placeholder, self.served.left) for one in updates]


class SpelledPictures:
    """Features of what a plan leaves and the text between them; mixed into vLLM's own models."""

    config: Any

    @cached_property
    def served(self) -> ServedRuns:
        """The plan on this model."""
        return served_runs(self.config)

    def embed_multimodal(self, **given: Any) -> Sequence[Tensor]:
        """Features of every picture, `[left + text, d]`."""
        model: Any = self
        ids = given.pop(IDS, ())
        with gpu_sync_allowed():
            embed = words_of(model.get_language_model())
            placeholder = placeholder_of(self.config)
            runs = [runs_of(one.tolist(), placeholder) for one in ids]
            return tuple(
                spelled(left, mine, placeholder, embed)
                for left, mine in zip(self.chosen(given, runs), ids, strict=True)
            )

    def chosen(self, given: Any, runs: Sequence[Runs]) -> list[tuple[Tensor, Tensor]]:
        """What the plan leaves of every picture, and whose places it holds."""
        features = self.whole(given)
        return [self.served.kept(*one) for one in zip(features, runs, strict=True)]

    def whole(self, given: Any) -> Sequence[Tensor]:
        """Features of every picture without a plan, `[N, d]`."""
        model: Any = super()
        found: Sequence[Tensor] = model.embed_multimodal(**given)
        return found


def served_runs(config: Any) -> ServedRuns:
    """The plan of a config whose pictures stand as runs of placeholders."""
    served = served_plan(config)
    assert isinstance(served, ServedRuns)
    return served


def placeholder_of(config: Any) -> int:
    """Id of what stands for a unit in the prompts of a config."""
    return int(getattr(config, "image_token_id", None) or config.image_token_index)
