"""VisionZip's sequence, class token first, against one that is put together by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tokenprune
from tests.mllm import oracle
from tests.mllm.calls import NEW, SHORT, greedy, inputs, logits, model
from tests.mllm.plans import plan
from tests.models import IMAGE_TOKEN as IMG
from tests.strategies.cases import best_by_loops, cosine
from tokenprune.engine.adapters import choose_encoder

KEEP, MADE = 12, 3
OTHER = [1, 30, 31, IMG, 32]
STAGE = {
    "at": "pre_llm",
    "strategy": "visionzip",
    "keep": KEEP,
    "params": {"order": "paper", "class_token": True, "contextual": MADE / KEEP},
}


def zipped(of: Any, picture: Tensor) -> Tensor:
    """Projected tokens of a picture, `[K, D]`, from the plain tower's own outputs."""
    core = of.model
    out = core.vision_tower(picture[None], output_hidden_states=True, output_attentions=True)
    features, before = out.hidden_states[-2][0], out.hidden_states[-3]
    block: Any = choose_encoder(core.vision_tower).spec().blocks[-2]
    keys = block.self_attn.k_proj(block.layer_norm1(before))[0, 1:]
    heads = keys.unflatten(-1, (-1, block.self_attn.head_dim)).mean(1).tolist()
    score = out.attentions[-2][0].mean(0)[0, 1:].tolist()
    dominant = sorted(best_by_loops(score, KEEP - MADE - 1))
    rest = [token for token in range(len(score)) if token not in dominant]
    targets = rest[:: len(rest) // MADE][:MADE]
    members: dict[int, list[int]] = {target: [] for target in targets}
    for token in rest:
        if token not in targets:
            alike = [cosine(heads[token], heads[target]) for target in targets]
            members[targets[best_by_loops(alike, 1)[0]]].append(token)
    patches = features[1:]
    made = [
        patches[target] + (patches[joined].mean(0) if joined else 0)
        for target, joined in members.items()
    ]
    chosen = torch.stack([features[0], *patches[dominant], *made])
    projected: Tensor = core.multi_modal_projector(chosen[None])[0]
    return projected


def test_sequence_and_positions_are_those_of_its_code() -> None:
    of, prompts = model("clip", "eager"), (SHORT, OTHER)
    call = inputs(*prompts)
    with tokenprune.attach(of, plan(STAGE, positions="compact")):
        pruned, tokens = logits(of, call), greedy(of, call)
    table = of.get_input_embeddings()
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            visual = zipped(of, call["pixel_values"][row])
            words = [table(torch.tensor(token))[None] for token in prompt]
            words[prompt.index(IMG)] = visual
            embeds = torch.cat(words)
            one = oracle.Sample(embeds, torch.arange(len(embeds)), [], len(embeds))
            want, _ = oracle.run(of, one)
            assert tokens[row].tolist() == oracle.greedy(of, one, NEW)
        torch.testing.assert_close(pruned[row, -1], want[-1], atol=2e-5, rtol=1e-4)
