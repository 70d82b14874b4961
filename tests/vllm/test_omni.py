"""Qwen2.5-Omni's thinker in real engines: pictures as of Qwen2.5-VL, and sound beside them."""

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

OMNI, SIBLING = "qwen2_5_omni", "qwen2_5_vl"
SOUND = "<|audio_bos|><|AUDIO|><|audio_eos|>"
FEW = plan(
    GRIDS, {"strategy": "random", "keep": 0.8}, {"strategy": "divprune", "keep": {"per_tile": 4}}
)
INSIDE = plan(
    GRIDS,
    {"at": "encoder", "strategy": "evoprune", "keep": 0.6},
    {"strategy": "fopru", "keep": 0.5},
)


def save(sibling: Path, folder: Path) -> str:
    """A checkpoint of a model that hears and speaks, without a voice, and gives its folder.

    What it sees and thinks with has the weights of a Qwen2.5-VL, whose config gets the one number
    that differs: `attach` knows the thinker of later releases of transformers than vLLM runs with.
    """
    import transformers
    from safetensors.torch import save_file

    own = wider(CASES[OMNI].config())
    own.text_config.tie_word_embeddings = False
    told = json.loads((sibling / "config.json").read_text())
    told["text_config"]["rms_norm_eps"] = own.text_config.rms_norm_eps
    (sibling / "config.json").write_text(json.dumps(told))
    recipe = RECIPES[OMNI]
    processor = recipe.processor(CASES[OMNI], tokenizer(recipe.special, recipe.named))
    processor.save_pretrained(folder)
    kind = transformers.Qwen2_5OmniThinkerForConditionalGeneration
    thinker = built(kind, own, torch.float32, "sdpa").state_dict()
    seeing = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(sibling).state_dict()
    weights = {f"thinker.{name}": of(seeing, name, mine) for name, mine in thinker.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = transformers.Qwen2_5OmniConfig(thinker_config=own.to_dict())
    config.architectures = ["Qwen2_5OmniModel"]
    config.save_pretrained(folder)
    return str(folder)


def of(seeing: dict[str, torch.Tensor], name: str, own: torch.Tensor) -> torch.Tensor:
    """A weight of the thinker, taken from a Qwen2.5-VL unless it is for sound."""
    part, _, rest = name.partition(".")
    place = {"visual": "model.visual.", "model": "model.language_model.", "lm_head": "lm_head."}
    if part not in place:
        return own.contiguous()
    for number, letter in enumerate("qkv"):
        if f".attn.{letter}." in rest:
            joined = seeing[place[part] + rest.replace(f".{letter}.", ".qkv.")]
            return joined.chunk(3)[number].contiguous()
    return seeing[place[part] + rest].contiguous()


def spoken(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt for Qwen2.5-VL as the thinker has it."""
    text = prompt["text"].replace(RECIPES[SIBLING].picture, RECIPES[OMNI].picture)
    return {**prompt, "text": text}


def sounded() -> list[dict[str, Any]]:
    """Prompts with sound in front of pictures, behind them and between, and with nothing else."""
    one, _, two, _ = map(spoken, asked(SIBLING))
    front = {**one, "text": SOUND + one["text"], "sounds": [[5, 16_000]]}
    between = {**two, "text": f"{two['text']}{SOUND}", "sounds": [[6, 9_000]]}
    return [front, between, {"text": f"{SOUND} what is said?", "sounds": [[5, 16_000]]}]


def test_ids_are_those_of_attach(
    engines: Engines, folder: Callable[[str], str], tmp_path: Path
) -> None:
    prompts, sibling = asked(SIBLING), shutil.copytree(folder(SIBLING), tmp_path / SIBLING)
    model = save(sibling, tmp_path / OMNI)
    whole = plan(GRIDS, {"strategy": "divprune", "keep": 1.0})
    shown = [spoken(one) for one in prompts]
    few, inside, dense, kept = engines(
        request(FEW, shown, model, options=BLOCK, again=True),
        request(INSIDE, shown, model, options={**BLOCK, **CHUNKED}, again=True),
        request(None, sounded(), model, options=BLOCK),
        request(whole, sounded(), model, options={**BLOCK, **CHUNKED}, again=True),
    )
    expected = [attached(one, prompts, str(sibling)) for one in ({}, FEW, INSIDE)]
    assert few.get("ids") == few.get("again") == expected[1], few
    assert inside["ids"] == inside["again"] == expected[2]
    assert expected[0] not in expected[1:], "plans that change no answer"
    assert inside["cached"] > 0, "tokens out of the prefix cache"
    assert kept.get("ids") == kept.get("again") == dense["ids"], "sound stands where it stood"
