"""Thinkers of Qwen2.5- and Qwen3-Omni in engines: pictures as of Qwen-VL, sound beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.families.cases import CASES
from tests.families.models.common import built
from tests.families.processors import RECIPES
from tests.families.tokenizer import tokenizer
from tests.vllm.checkpoints import wider
from tests.vllm.conftest import Engines, attached, request
from tests.vllm.test_families import BLOCK, CHUNKED, GRIDS, asked, plan

pytest.importorskip("vllm", reason="engines run in vLLM's own environment, see .ci/vllm")

SIBLINGS = {"qwen2_5_omni": "qwen2_5_vl", "qwen3_omni_moe": "qwen3_vl_moe"}
"""What hears, and what sees and thinks with the same weights."""
ARCHITECTURES = {
    "qwen2_5_omni": "Qwen2_5OmniModel",
    "qwen3_omni_moe": "Qwen3OmniMoeForConditionalGeneration",
}
"""As released checkpoints say."""
SOUND = "<|audio_bos|><|AUDIO|><|audio_eos|>"
FEW = plan(
    GRIDS, {"strategy": "random", "keep": 0.8}, {"strategy": "divprune", "keep": {"per_tile": 4}}
)
INSIDE = plan(
    GRIDS,
    {"at": "encoder", "strategy": "evoprune", "keep": 0.6},
    {"strategy": "fopru", "keep": 0.5},
)
PLACES = {"visual": "model.visual.", "model": "model.language_model.", "lm_head": "lm_head."}
"""What the sibling calls the parts of the thinker that it has."""
MERGERS = {".ln_q.": ".norm.", ".mlp.0.": ".linear_fc1.", ".mlp.2.": ".linear_fc2."}
"""What a Qwen3-VL calls the parts of a merger of Qwen3-Omni."""


def save(name: str, sibling: Path, folder: Path) -> str:
    """A checkpoint of a model that hears and speaks, without a voice, and gives its folder.

    What it sees and thinks with has the weights of a Qwen-VL, whose config gets the one number
    that differs: `attach` knows the thinkers of later releases of transformers than vLLM runs with.
    """
    import transformers
    from safetensors.torch import load_file, save_file

    case, recipe = CASES[name], RECIPES[name]
    own = wider(case.config())
    own.text_config.tie_word_embeddings, own.text_config.mlp_only_layers = False, []
    told = json.loads((sibling / "config.json").read_text())
    told["text_config"]["rms_norm_eps"] = own.text_config.rms_norm_eps
    (sibling / "config.json").write_text(json.dumps(told))
    thinker = built(getattr(transformers, case.model_class), own, torch.float32, "sdpa")
    seeing = transformers.AutoModelForImageTextToText.from_pretrained(sibling).state_dict()
    weights = {key: of(seeing, key, mine) for key, mine in thinker.state_dict().items()}
    thinker.load_state_dict(weights)
    thinker.save_pretrained(folder)
    found = load_file(folder / "model.safetensors")
    spoken = {f"thinker.{key}": one for key, one in found.items()}
    save_file(spoken, folder / "model.safetensors", {"format": "pt"})
    kind = getattr(transformers, case.model_class.partition("Thinker")[0] + "Config")
    config = kind(thinker_config=own.to_dict())
    config.architectures = [ARCHITECTURES[name]]
    config.save_pretrained(folder)
    processor = recipe.processor(case, tokenizer(recipe.special, recipe.named))
    processor.image_processor = transformers.AutoImageProcessor.from_pretrained(sibling)
    processor.save_pretrained(folder)
    return str(folder)


def of(seeing: dict[str, torch.Tensor], name: str, own: torch.Tensor) -> torch.Tensor:
    """A weight of the thinker, taken from a Qwen-VL unless it is for sound."""
    part, _, rest = name.partition(".")
    if part not in PLACES:
        return own
    for number, letter in enumerate("qkv"):
        if f".attn.{letter}." in rest:
            joined = seeing[PLACES[part] + rest.replace(f".{letter}.", ".qkv.")]
            return joined.chunk(3)[number]
    if PLACES[part] + rest not in seeing:
        rest = rest.replace("merger_list", "deepstack_merger_list")
        for mine, theirs in MERGERS.items():
            rest = rest.replace(mine, theirs)
    return seeing[PLACES[part] + rest]


def spoken(name: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt for the sibling as the thinker has it."""
    text = prompt["text"].replace(RECIPES[SIBLINGS[name]].picture, RECIPES[name].picture)
    return {**prompt, "text": text}


def sounded(name: str) -> list[dict[str, Any]]:
    """Prompts with sound in front of pictures, behind them and between, and with nothing else."""
    one, _, two, _ = (spoken(name, prompt) for prompt in asked(SIBLINGS[name]))
    front = {**one, "text": SOUND + one["text"], "sounds": [[5, 16_000]]}
    between = {**two, "text": f"{two['text']}{SOUND}", "sounds": [[6, 9_000]]}
    return [front, between, {"text": f"{SOUND} what is said?", "sounds": [[5, 16_000]]}]


@pytest.mark.parametrize("name", SIBLINGS)
def test_ids_are_those_of_attach(
    name: str, engines: Engines, folder: Callable[[str], str], tmp_path: Path
) -> None:
    other = SIBLINGS[name]
    prompts, sibling = asked(other), shutil.copytree(folder(other), tmp_path / other)
    model = save(name, sibling, tmp_path / name)
    whole = plan(GRIDS, {"strategy": "divprune", "keep": 1.0})
    shown = [spoken(name, one) for one in prompts]
    few, inside, dense, kept = engines(
        request(FEW, shown, model, options=BLOCK, again=True),
        request(INSIDE, shown, model, options={**BLOCK, **CHUNKED}, again=True),
        request(None, sounded(name), model, options=BLOCK),
        request(whole, sounded(name), model, options={**BLOCK, **CHUNKED}, again=True),
    )
    expected = [attached(one, prompts, str(sibling)) for one in ({}, FEW, INSIDE)]
    assert few.get("ids") == few.get("again") == expected[1], few
    assert inside.get("ids") == inside.get("again") == expected[2], inside
    assert expected[0] not in expected[1:], "plans that change no answer"
    assert inside["cached"] > 0, "tokens out of the prefix cache"
    assert kept.get("ids") == kept.get("again") == dense["ids"], "sound stands where it stood"
