"""Thinkers of models that also hear and speak: sound stays, and the whole model is told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenprune_adapters.lmms_eval.arguments import Arguments
from tokenprune_adapters.lmms_eval.loading import load
from torch import Tensor

import tokenprune
from tests.families import checkpoints
from tests.families.calls import case_of, language, logits
from tests.families.case import Case
from tests.families.cases import CASES
from tests.families.cells import FEW, OMNI, STAGES, content, pruned, run, without
from tests.families.models import apertus, gemma3n
from tests.families.models.common import FIRST_WORD
from tests.families.models.omni import Omni
from tests.families.plans import decoder, plan, staged
from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.loading import LoadedMllm, LoadOptions
from tokenprune.lab.models import load_model

WHOLE = {"qwen2_5_omni": "Qwen2_5Omni", "qwen3_omni_moe": "Qwen3OmniMoe"}
"""How the class of the whole model begins, and that of its config."""
HEARING = (*OMNI, "gemma3n", "gemma4_unified", "apertus1p5")
UNNAMED = {"apertus1p5": apertus.MARKS}
"""Ids around pictures and sound that a processor alone knows, so that they count as words."""
OLDER = not hasattr(transformers, "Qwen2_5OmniThinkerModel")


def dubbed(name: str) -> Case:
    """The family's case, whose clips bring their sound."""
    case = case_of(name)
    assert isinstance(case, Omni)
    return replace(case, dubbed=True)


def whole(name: str) -> Any:
    """The model around a thinker, which doesn't speak here."""
    config = getattr(transformers, f"{WHOLE[name]}Config")
    model_class = getattr(transformers, f"{WHOLE[name]}ForConditionalGeneration")
    thinker = CASES[name].config().to_dict()
    return model_class(config(thinker_config=thinker, enable_audio_output=False)).eval()


def states_behind(model: Any, call: dict[str, Tensor]) -> Tensor:
    """`[B, T, D]` what the LLM puts out, the tokens that its last layer sees."""
    found: list[Tensor] = []
    hook = language(model).norm.register_forward_hook(lambda *made: found.append(made[-1]))
    try:
        logits(model, call)
    finally:
        hook.remove()
    return found[0]


@pytest.mark.parametrize("scene", ["video", "mixed"])
@pytest.mark.parametrize("name", OMNI)
def test_sound_between_the_frames_of_a_clip_stays(
    name: str, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it hears takes no part in the choice, and positions are those of the whole prompt."""
    case = dubbed(name)
    model, call = case.build(torch.float64), case.inputs(scene, dtype=torch.float64)
    prompts, sound = case.prompts(scene), case.sound(call)
    visual = case.placeholders(call)
    between = sound & (visual.cumsum(1) > 0) & (visual.flip(1).cumsum(1).flip(1) > 0)
    assert bool(between.any())
    dense = run(model, call, FEW)
    for stages in STAGES:
        with tokenprune.attach(model, content(case, stages, 1.0)):
            assert torch.equal(run(model, call, 0).scores, dense.scores[:1]), stages
        wanted = content(case, stages, 0.5)
        short, decided = pruned(case, stages, model, wanted, call, prompts, FEW)
        with without(decided, monkeypatch) as lost:
            full = run(model, call, FEW)
        seen = call["attention_mask"].bool() & ~lost
        assert bool((seen & sound).eq(sound).all()), stages
        assert torch.equal(short.tokens, full.tokens), stages
        assert short.apart(full, seen) < 1e-9, stages
        assert short.apart(dense, seen) > 1e-4, stages


@pytest.mark.parametrize("name", OMNI)
def test_a_clip_with_its_sound_in_a_batch_is_the_clip_alone(name: str) -> None:
    case = dubbed(name)
    model, wanted = case.build(torch.float64), staged(name, "both", 0.5)
    call = case.inputs("video", dtype=torch.float64)
    with tokenprune.attach(model, wanted):
        batch = logits(model, call)
        for row, alone in enumerate(case.alone("video", dtype=torch.float64)):
            valid = call["attention_mask"][row].bool()
            assert float((batch[row][valid] - logits(model, alone)[0]).abs().max()) < 1e-9


@pytest.mark.parametrize("name", HEARING)
def test_sound_is_not_pruned_as_text(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one", "none")
    ids, visual = call["input_ids"][0], case.placeholders(call)[0]
    marks = [gemma3n.END] if name == "gemma3n" else []
    words = (
        ((ids >= FIRST_WORD) | torch.isin(ids, torch.tensor(UNNAMED.get(name, []))))
        & ~torch.isin(ids, torch.tensor(marks))
        & (torch.arange(len(ids)) < len(ids) - 1)
    )
    stage = {**decoder(name, 4), "keep_text": 1}
    with tokenprune.attach(model, plan(stage)):
        left = states_behind(model, call).shape[1]
    gone = int(visual.sum()) - 4 + int(words.sum()) - 1
    assert left == len(ids) - gone
    assert int(words.sum()) > 1


def test_what_a_config_names_as_sound_is_no_text_in_other_families() -> None:
    case = case_of("gemma4")
    model, call = case.create(), case.inputs("one", "none")
    sound = call["input_ids"][0, -3]
    model.config.audio_token_id = int(sound)
    with tokenprune.attach(model, plan({**decoder("gemma4", 1.0), "keep_text": 1})):
        left = states_behind(model, call).shape[1]
    words = (call["input_ids"][0, :-1] >= FIRST_WORD).sum()
    assert left == call["input_ids"].shape[1] - (int(words) - 1 - 1)


@pytest.mark.parametrize("name", HEARING)
def test_a_prompt_with_sound_alone_is_the_plain_one(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.call([(case.prompts("several")[1])], "none", torch.float32)
    assert bool(case.sound(call).any())
    assert not bool(case.placeholders(call).any())
    dense = run(model, call)
    with tokenprune.attach(model, staged(name, "both", 0.5)):
        assert torch.equal(run(model, call).scores, dense.scores)


@pytest.mark.parametrize("name", OMNI)
def test_the_whole_model_is_refused_with_its_thinker_named(name: str) -> None:
    model = whole(name)
    with pytest.raises(UnsupportedModelError, match=r"Attach to its \.thinker"):
        tokenprune.attach(model, staged(name, "pre_llm", 0.5))
    if OLDER:
        with pytest.raises(UnsupportedModelError, match=r"no language_model in this rel"):
            tokenprune.attach(model.thinker, staged(name, "pre_llm", 0.5))


@pytest.mark.parametrize("name", OMNI)
def test_the_whole_model_answers_in_words_by_its_attached_thinker(name: str) -> None:
    case = case_of(name)
    model, call = whole(name), case.inputs("one")
    model.speaker_map = {"Chelsie": {}}
    model.talker = torch.nn.Module()
    model.talker.codec_pad_token = 0
    asked = {**call, "thinker_max_new_tokens": 4, "generation_mode": "text"}
    asked |= {"thinker_eos_token_id": None, "thinker_return_dict_in_generate": True}
    asked["thinker_output_logits"] = True
    dense = model.generate(**asked)
    with tokenprune.attach(model.thinker, staged(name, "both", 0.5)) as handle:
        short = model.generate(**asked)
        assert [image.kept for image in handle.trace.images] == [2]
        alone = model.thinker.generate(
            **call,
            max_new_tokens=4,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert all(map(torch.equal, short.logits, alone.logits))
    assert not torch.equal(short.logits[0], dense.logits[0])


@pytest.mark.parametrize("name", OMNI)
def test_a_folder_with_the_whole_model_loads_as_its_thinker(name: str, tmp_path: Path) -> None:
    case = case_of(name)
    model = whole(name)
    checkpoints.save(case, tmp_path)
    model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    assert type(loaded.model).__name__ == case.model_class
    call = case.inputs("two_sizes")
    assert torch.equal(logits(loaded.model, call), logits(model.thinker, call))
    assert loaded.model.name_or_path == str(tmp_path)
    measured, *_ = load(Arguments(pretrained=str(tmp_path), device="cpu"))
    assert type(measured) is type(loaded.model)
