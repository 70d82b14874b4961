"""Time to first token of random LLaVA and Qwen2.5-VL models in the shape of their 7B versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

import tokenprune
from benchmarks.models import Inputs, language, llava, llava_call, qwen, qwen_call
from benchmarks.timing import alternating
from benchmarks.towers import qwen_vision, sizes
from tokenprune.errors import TokenpruneError
from tokenprune.lab.bench.compiling import compilations, room, shared_copy

WORDS = 32
#: By name the place of a strategy. Half of the tokens are left: in tiny towers as well, EvoPrune's
#: schedule reaches that.
STAGES = {"evoprune": "encoder", "fopru": "pre_llm", "divprune": "pre_llm"}


def _language(tiny: bool) -> dict[str, Any]:
    return language(64, 128, 2, 4) if tiny else language(4096, 11008, 32, 32, vocabulary=32064)


def _llava(tiny: bool) -> Any:
    vision = sizes(48, 8, 64, 4, 4, 128) if tiny else sizes(336, 14, 1024, 24, 16, 4096)
    return llava(vision, _language(tiny))


def _qwen(tiny: bool) -> Any:
    text, (depth, width) = _language(tiny), (4, 64) if tiny else (32, 1280)
    vision = qwen_vision(depth, width, text["hidden_size"])
    return qwen(vision, text, (2, 3, 3) if tiny else (16, 24, 24))


def _llava_call(tiny: bool, images: int) -> Inputs:
    pixels, patches = (48, 36) if tiny else (336, 576)
    return llava_call(pixels, patches, images, WORDS)


def _qwen_call(tiny: bool, images: int) -> Inputs:
    units = 4 if tiny else 12
    return qwen_call([(units, units)] * images, WORDS)


FAMILIES: dict[str, tuple[Callable[[bool], Any], Callable[[bool, int], Inputs]]] = {
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
    calls: dict[int, Inputs]
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


def _first_token(model: Any, given: Inputs) -> Callable[[], object]:
    return lambda: model.generate(**given, max_new_tokens=1, do_sample=False)
