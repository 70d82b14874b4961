"""Cells of the matrix of families: plans, runs of them, and the plain runs that they equal."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tokenprune_adapters.transformers.families import Family
from torch import Tensor

import tokenprune
from tests.adapters.packed_oracle import hidden_units, removed
from tests.families import any_size
from tests.families.calls import STEPS, generated, language
from tests.families.case import Case
from tests.families.cases import CASES
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import LAYER, decoder, layers, plan
from tests.families.scenes import SCENES, Prompt
from tests.families.towers import Drop, hidden_in
from tokenprune.interface.trace import ImageTrace, Trace
from tokenprune.plugins.host import host

STAGES = ("encoder", "pre_llm", "decoder", "late", "all")
"""What acts: one of the three, those behind the tower together, or all three."""
LINEAR = ("qwen3_5", "qwen3_5_moe", "qwen4_exp", "glm5_next", "lfm2_vl")
LINEAR += ("minicpmv4_6", "minicpmv4_7", "minicpm_ocr", "lfm3_vl", "nemotron_h_omni")
"""Families with linear attention or convolutions, where a removed token isn't like a hidden one."""
GLM = ("glm4v", "glm46v", "glm4v_moe", "glm_ocr")
"""Families whose tower gets the frames of a clip as pictures."""
UNFOLLOWED = {
    "gemma3n": "it is convolutional",
    "apertus1p5": "convolutions read",
    "molmo2": "each call says which patches",
    "gemma4_unified": "there is none",
    "fast_vlm": "it is convolutional",
    "got_ocr2": "convolutions behind",
    "granite_docling": "a connector inside",
    "granite_docling-fine": "a connector inside",
    "granite4_vision": "learned queries",
    "idefics2": "learned queries",
    "aria": "learned queries",
    "deepseek_ocr2": "learned queries",
    "step3p7": "convolutions behind its blocks",
    "lfm3_vl": "its attention stands between convolutions",
    "nemotron_h_omni": "tokens of a summary",
}
"""Families through whose tower no tokens are followed, and why."""
OMNI = ("qwen2_5_omni", "qwen3_omni_moe")
"""Families that hear, too."""
_QWEN = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen4_exp",
)
PACKED = (*_QWEN, "exaone4_5", *OMNI, *GLM, "glm5_next", "hyperclovax_vision_v2")
PACKED += ("cohere_compass", "dots3_note", "cosmos3_omni")
"""Families whose tower packs its pictures into one row."""
ANY_SIZE = ("mistral3", "llava_pixtral", "paddleocr_vl", "gemma4", "lfm2_vl", "video_llama_3")
ANY_SIZE += ("ernie4_5_vl_moe", "minicpmv4_6", "minicpmv4_7", "kimi_k25", "lighton_ocr")
ANY_SIZE += ("mistral_large4", "minimax_m3_vl", "hunyuan_vl", "minicpm_ocr")
ANY_SIZE += ("muse_glimmer", "muse_spark", "hy_v4_vl", "cosmos3_edge")
"""Families whose tower takes pictures of any size, one behind the other or padded."""
_BARE = ("llava-siglip", "llava_onevision", "paligemma", "gemma3", "idefics3", "smolvlm", "ovis2")
_BARE += ("aya_vision", "cohere2_vision", "janus", "deepseek_vl_hybrid")
PREFIX = {**dict.fromkeys(_BARE, 0), "llama4": -1}
"""Class tokens of a family's tower, one in most; -1 for one behind the patches."""
TOWERS = ("visual", "vision_model", "vision_tower")
"""What cores call towers that pack their pictures into one row."""
GRIDS = ("image_grid_thw", "video_grid_thw")

Pass = tuple[dict[int, Tensor], Tensor]
"""By block the units that are hidden in a pass through a packed tower, and its grids."""
PADDINGS = ("left", "none")
VARIED = ("one", "several")
"""Scenes of variants, whose family has all of them."""
WHOLE = ("several", "left")
"""Scene and padding of the cells in which every family has each kind of stage by itself."""
FEW = 1
"""Steps behind a prompt in other cells: steps behind a step are looked at in that one."""
EVERY = "TOKENPRUNE_TEST_EVERY_CELL"
"""Set in the environment, every family meets all combinations."""


def family(case: Case) -> str:
    """The family of a case, which may be a variant."""
    return case.name.partition("-")[0]


def tower_way(case: Case) -> str:
    """How the engine follows a family's tower."""
    towers = {"packed": PACKED, "any size": ANY_SIZE, "unfollowed": UNFOLLOWED}
    return next((kind for kind, names in towers.items() if family(case) in names), "pieces")


def llm_way(case: Case) -> str:
    """What a family's LLM is like to the engine."""
    row = getattr(host().mllms[family(case)], "family", Family({}))
    return f"linear {case.name in LINEAR}, axes {row.apart}, own masks {row.masks}"


@functools.cache
def _first(way: Callable[[Case], str]) -> frozenset[str]:
    names: dict[str, str] = {}
    for case in sorted(CASES.values(), key=lambda case: len(case.scenes), reverse=True):
        names.setdefault(way(case), case.name)
    return frozenset(names.values())


def thorough(case: Case, way: Callable[[Case], str]) -> bool:
    """Whether a family meets all combinations of what is alike for all families of a way.

    The first one of each way does, among those with the most scenes: combinations of others run
    the same lines. What is their own are a scene's places, and how tower and LLM are called,
    which cells of all stages together show.
    """
    return EVERY in os.environ or case.name in _first(way)


def paddings(case: Case, scene: str) -> tuple[str, ...]:
    """Kinds of padding that a family meets in a scene: a prompt by itself has none."""
    if thorough(case, llm_way):
        return PADDINGS
    return ("none",) if scene == SCENES[0] else ("left",)


def apart(case: Case, scene: str, padding: str) -> bool:
    """Whether each kind of stage acts by itself, beside all together.

    Scenes meet stages in the tower; padding meets them in the LLM's states, positions and masks.
    """
    in_scenes = thorough(case, tower_way) and padding == paddings(case, scene)[0]
    padded = thorough(case, llm_way) and scene == WHOLE[0]
    return EVERY in os.environ or in_scenes or padded


def shown(case: Case) -> tuple[str, ...]:
    """Scenes that a family meets.

    What `two_sizes` has, a padded batch with a picture of each size, `several` has too, beside a
    row of two pictures and one of none. So one family of each way meets it, and in the others what
    goes wrong there goes wrong in `several`. Variants have the scenes of their family.
    """
    if "-" in case.name:
        return VARIED
    if thorough(case, tower_way) or thorough(case, llm_way):
        return case.scenes
    return tuple(one for one in case.scenes if one != "two_sizes")


def steps_of(case: Case, scene: str, padding: str, stages: str) -> int:
    """Steps behind the prompt of a cell: more in one cell of a family, in which all stages act.

    Steps see where each layer's keys ended, and all stages together leave every kind of end. So of
    stages that act by themselves, one family of each way through an LLM has a step.
    """
    if stages not in ("late", "all"):
        return FEW if thorough(case, llm_way) else 0
    return STEPS if (scene, padding) == WHOLE else FEW


def class_tokens(case: Case) -> int:
    """Class tokens of the tower of a case."""
    return PREFIX.get(case.name, PREFIX.get(family(case), 1))


def content(case: Case, stages: str, keep: float) -> dict[str, Any]:
    """The plan of a cell: drops, by known scores in towers that see pieces."""
    inside = "random" if family(case) in PACKED else "t-tower-drop"
    early = {"strategy": "random", "at": "pre_llm", "keep": keep}
    parts = {
        "encoder": [{"strategy": inside, "at": "encoder", "keep": keep}],
        "pre_llm": [early],
        "decoder": [decoder(case.name, keep)],
    }
    chosen = {"late": ("pre_llm", "decoder"), "all": ("encoder", "pre_llm", "decoder")}
    return plan(*(stage for name in chosen.get(stages, (stages,)) for stage in parts[name]))


@dataclass(frozen=True)
class Run:
    """A prompt and what was generated behind it.

    Attributes:
        states: `[B, n, D]` what the LLM put out for the prompt, or for its end.
        tokens: `[B, S]` new tokens.
        scores: `[S, B, V]` the logits that they were chosen by.
    """

    states: Tensor
    tokens: Tensor
    scores: Tensor

    def apart(self, other: Run, seen: Tensor) -> float:
        """How far two runs are from each other in places `[B, T]` that are seen, and in steps.

        Steps that only one of them took don't count.
        """
        count = min(self.states.shape[1], other.states.shape[1])
        states = (self.states[:, -count:] - other.states[:, -count:])[seen[:, -count:]]
        pairs = zip(self.scores, other.scores, strict=False)
        scores = max(float((mine - its).abs().max()) for mine, its in pairs)
        return max(float(states.abs().max()), scores)


def run(model: Any, call: dict[str, Tensor], steps: int = STEPS) -> Run:
    """Prefill and some steps, greedy."""
    states: list[Tensor] = []
    hook = language(model).register_forward_hook(
        lambda module, args, out: states.append(out.last_hidden_state)
    )
    try:
        tokens, scores = generated(model, call, steps)
    finally:
        hook.remove()
    return Run(states[0], tokens, scores)


@dataclass(frozen=True)
class Pruned:
    """What was decided in a call with a plan; the plain run that it equals is made of that.

    Attributes:
        case: the family.
        stages: what acted, see `STAGES`.
        model: its model.
        call: what it was called with.
        prompts: of the call.
        trace: of the call.
    """

    case: Case
    stages: str
    model: Any
    call: dict[str, Tensor]
    prompts: list[Prompt]
    trace: Trace

    @property
    def inside(self) -> bool:
        """Whether a stage acted inside the tower."""
        return self.stages in ("encoder", "all")


def pruned(
    case: Case,
    stages: str,
    model: Any,
    wanted: dict[str, Any],
    call: dict[str, Tensor],
    prompts: list[Prompt],
    steps: int = STEPS,
) -> tuple[Run, Pruned]:
    """Prefill and steps with a plan, and what was decided in them."""
    with tokenprune.attach(model, wanted) as handle:
        made = run(model, call, steps)
        return made, Pruned(case, stages, model, call, prompts, handle.trace)


def cuts(one: Pruned) -> list[tuple[int, Tensor]]:
    """From which layer of the LLM on which places `[B, T]` are gone."""
    late = LAYER.get(one.case.name, 2)
    steps = {"decoder": {-1: late}, "late": {-2: 0, -1: late}, "all": {-2: 0, -1: late}}
    found, ids = steps.get(one.stages, {-1: 0}), one.call["input_ids"]
    return [
        (layer, gone(one.case, one.trace, ids, one.prompts, step)) for step, layer in found.items()
    ]


@contextmanager
def cut_at(model: Any, found: Sequence[tuple[int, Tensor]]) -> Iterator[None]:
    """The plain model, with what is gone hidden from the layers on that `cuts` tells."""
    with ExitStack() as stack:
        for layer, places in found:
            stack.enter_context(hidden_from(layers(model), layer, places))
        yield


@contextmanager
def tower_without(one: Pruned, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plain model, with what a drop inside its tower removed hidden there.

    Args:
        one: the call with the plan.
        patch: for the attention that the blocks of towers with pieces call.
    """
    case, model = one.case, one.model
    with ExitStack() as stack:
        if family(case) in PACKED:
            units = packed_passes(model, one.call, one.trace.images)
            stack.enter_context(hidden_units(packed_tower(model), *units))
        elif family(case) in ANY_SIZE:
            seen = any_size.passes(case, one.prompts, one.trace)
            stack.enter_context(any_size.hidden(any_size.tower_of(model), seen, patch))
        else:
            stack.enter_context(hidden_in(model, list(Drop.gone), class_tokens(case), patch))
        yield


def packed_tower(model: Any) -> Any:
    """The tower of a model that packs its pictures into one row."""
    core = model.model
    return next(getattr(core, name) for name in TOWERS if hasattr(core, name))


def packed_passes(model: Any, call: dict[str, Tensor], images: Sequence[ImageTrace]) -> list[Pass]:
    """What to hide in every pass through a packed tower; pictures come in front of clips."""
    found, start = list[Pass](), 0
    for grids in GRIDS:
        if grids in call:
            mine = images[start : start + len(call[grids])]
            found.append((removed(mine, len(packed_tower(model).blocks) + 1), call[grids]))
            start += len(mine)
    return found


@contextmanager
def without(one: Pruned, patch: pytest.MonkeyPatch) -> Iterator[Tensor]:
    """The plain model over everything, what a plan of drops removed hidden; `[B, T]` all of it."""
    found = cuts(one)
    with ExitStack() as stack:
        if one.inside:
            stack.enter_context(tower_without(one, patch))
        stack.enter_context(cut_at(one.model, found))
        yield found[-1][1]
