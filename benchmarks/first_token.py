"""Time to first token of random LLaVA and Qwen2.5-VL models in the shape of their 7B versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import tokenprune
from benchmarks.timing import alternating
from benchmarks.towers import qwen_picture, qwen_vision
from tokenprune.errors import TokenpruneError
from tokenprune.lab.bench.compiling import compilations, room, shared_copy

WORDS = 32
#: Ids of special tokens, the same in all models here; words are drawn from above them.
START, END, IMAGE = 1, 2, 5
#: By name the place of a strategy. Half of the tokens are left: in tiny towers as well, EvoPrune's
#: schedule reaches that.
STAGES = {"evoprune": "encoder", "fopru": "pre_llm", "divprune": "pre_llm"}


def _language(tiny: bool) -> dict[str, Any]:
    width, layers = (64, 2) if tiny else (4096, 32)
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width if tiny else 11008,
        "num_hidden_layers": layers,
        "num_attention_heads": 4 if tiny else 32,
        "num_key_value_heads": 4 if tiny else 32,
        "vocab_size": 128 if tiny else 32064,
        "max_position_embeddings": 8192,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": 0,
    }


def _llava(tiny: bool) -> Any:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    vision = CLIPVisionConfig(
        hidden_size=64 if tiny else 1024,
        intermediate_size=128 if tiny else 4096,
        num_hidden_layers=4 if tiny else 24,
        num_attention_heads=4 if tiny else 16,
        image_size=48 if tiny else 336,
        patch_size=8 if tiny else 14,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**_language(tiny)),
        image_token_index=IMAGE,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
    )
    return LlavaForConditionalGeneration(config)


def _qwen(tiny: bool) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    language = _language(tiny)
    sections = [2, 3, 3] if tiny else [16, 24, 24]
    rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    depth, width = (4, 64) if tiny else (32, 1280)
    config = Qwen2_5_VLConfig(
        text_config={**language, "rope_parameters": rotary},
        vision_config=qwen_vision(depth, width, language["hidden_size"]),
        image_token_id=IMAGE,
        vision_start_token_id=3,
        vision_end_token_id=4,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _llava_call(tiny: bool, images: int) -> dict[str, Tensor]:
    side, patches = (48, 36) if tiny else (336, 576)
    return _prompt([IMAGE] * patches, images) | {"pixel_values": torch.randn(images, 3, side, side)}


def _qwen_call(tiny: bool, images: int) -> dict[str, Tensor]:
    side = 112 if tiny else 336
    rows, grids = qwen_picture(side, images)
    call = _prompt([3, *[IMAGE] * (side // 28) ** 2, 4], images)
    kinds = (call["input_ids"] == IMAGE).long()
    return call | {"pixel_values": rows, "image_grid_thw": grids, "mm_token_type_ids": kinds}


def _prompt(image: list[int], images: int) -> dict[str, Tensor]:
    words = torch.randint(10, 100, (WORDS,)).tolist()
    ids = torch.tensor([[START, *image * images, *words]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


FAMILIES: dict[str, tuple[Callable[[bool], Any], Callable[[bool, int], dict[str, Tensor]]]] = {
    "llava-7b": (_llava, _llava_call),
    "qwen2.5-vl-7b": (_qwen, _qwen_call),
}


#: By family the vision tower of its model, where time is measured with compiled towers too.
TOWERS: dict[str, Callable[[Any], Any]] = {"llava-7b": lambda model: model.model.vision_tower}
SUFFIX = ", tower compiled"
COMPILED = (f"dense{SUFFIX}", f"evoprune{SUFFIX}")
RECORDED = "evoprune, tower recorded"


@dataclass
class Lineup:
    """Models of one family that share their weights, each with a strategy.

    Attributes:
        family: its name.
        models: by strategy; the first is dense.
        calls: of `generate`, by the number of images.
        attached: where plans are detached again.
        refused: rows of strategies that the family refuses.
        graphs: of compiled towers, all numbers of images together.
    """

    family: str
    models: dict[str, Any]
    calls: dict[int, dict[str, Tensor]]
    attached: ExitStack
    refused: list[dict[str, Any]] = field(default_factory=list)
    graphs: dict[str, int] = field(default_factory=dict)

    def attach(self, model: Any, name: str) -> tokenprune.Attachment:
        """Attach a strategy of `STAGES`."""
        stage = {"at": STAGES[name], "strategy": name, "keep": 0.5}
        plan = {"schema_version": 1, "stages": [stage]}
        return self.attached.enter_context(tokenprune.attach(model, plan))

    def record_tower(self, warming: int) -> None:
        """Add EvoPrune with a tower whose passes are recorded, for every number of images."""
        model = shared_copy(self.models["dense"])
        self.attach(model, "evoprune").record()
        for call in (_first_token(model, given) for given in self.calls.values()):
            for _ in range(warming):
                call()
        self.models[RECORDED] = model

    def compile_tower(self, name: str, warming: int, options: dict[str, Any]) -> None:
        """Add a model whose tower is compiled, for every number of images.

        Args:
            name: one of `COMPILED`.
            warming: calls until nothing is compiled or recorded any more.
            options: of `torch.compile`.
        """
        strategy, model = name.removesuffix(SUFFIX), shared_copy(self.models["dense"])
        if strategy != "dense":
            self.attach(model, strategy)
        calls = [_first_token(model, given) for given in self.calls.values()]
        calls[0]()  # as usual: transformers hooks into blocks at the first, which breaks a graph
        TOWERS[self.family](model).compile(**options)
        before = compilations()
        with room():
            for call in calls:
                for _ in range(warming):
                    call()
        self.models[name] = model
        self.graphs[name] = compilations() - before

    def measure(self, device: torch.device, rounds: int) -> list[dict[str, Any]]:
        """All models in turn.

        Returns:
            A row for every strategy and number of images, or what refuses the strategy.
        """
        rows = list(self.refused)
        for images, given in self.calls.items():
            calls = {name: _first_token(model, given) for name, model in self.models.items()}
            for name, value in alternating(calls, device, rounds).items():
                row = {"model": self.family, "images": images, "strategy": name}
                graphs = {"graphs": self.graphs[name]} if name in self.graphs else {}
                rows.append(row | {"seconds": value} | graphs)
        return rows


@contextmanager
def lineup(family: str, device: torch.device, tiny: bool) -> Iterator[Lineup]:
    """Dense and every strategy, with one image and with eight.

    Args:
        family: one of `FAMILIES`.
        device: where to.
        tiny: whether the model is.
    """
    build, inputs = FAMILIES[family]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            dense = build(tiny).eval()
    finally:
        torch.set_default_dtype(before)
    calls = {}
    for images in (1, 2) if tiny else (1, 8):
        calls[images] = {name: value.to(device) for name, value in inputs(tiny, images).items()}
        calls[images]["pixel_values"] = calls[images]["pixel_values"].to(dtype)
    with ExitStack() as attached:
        found = Lineup(family, {"dense": dense}, calls, attached)
        for name in STAGES:
            model = shared_copy(dense)
            try:
                found.attach(model, name)
            except TokenpruneError as refusal:
                row = {"model": family, "strategy": name, "refused": str(refusal)}
                found.refused.append(row)
            else:
                found.models[name] = model
        yield found


def _first_token(model: Any, given: dict[str, Tensor]) -> Callable[[], object]:
    return lambda: model.generate(**given, max_new_tokens=1, do_sample=False)
