import torch
from tokenprune_example_family import DeepseekVlAdapter
from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration

import tokenprune
from tokenprune.testing import check_mllm_adapter

IMAGE, SIDE, PATCH = 90, 24, 8
PATCHES = (SIDE // PATCH) ** 2
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    vision = {**SIZES, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": PATCH}
    config = DeepseekVLConfig(
        vision_config={"model_type": "siglip_vision_model", **vision},
        text_config={"model_type": "llama", **SIZES, "num_hidden_layers": 4, "vocab_size": 99},
        image_token_id=IMAGE,
    )
    return DeepseekVLForConditionalGeneration(config).eval()


def prompt(pictures: int, words: int) -> dict[str, torch.Tensor]:
    ids = [1, *[IMAGE] * (PATCHES * pictures), *range(5, 5 + words)]
    pixels = torch.randn(pictures, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(words))
    mask = torch.ones(1, len(ids), dtype=torch.long)
    return {"input_ids": torch.tensor([ids]), "attention_mask": mask, "pixel_values": pixels}


def test_contract() -> None:
    found = check_mllm_adapter(DeepseekVlAdapter, tiny(), [prompt(1, 4), prompt(2, 7)])
    found.require()
    assert {row.status for row in found.rows} == {"pass"}


def test_every_kind_of_stage_runs() -> None:
    stages = [
        {"at": "encoder", "strategy": "tome", "keep": 6},
        {"at": "pre_llm", "strategy": "divprune", "keep": 4},
        {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.5},
    ]
    model = tiny()
    with torch.no_grad(), tokenprune.attach(model, {"stages": stages}) as handle:
        assert model(**prompt(1, 4)).logits.shape[1] == 1 + PATCHES + 4
    assert [step.kept for step in handle.trace.images[0].steps][-3:] == [6, 4, 2]
