"""`pact` against loops over the steps of its page."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.pact import PACT
from tokenprune_strategies.pact.clustering import centres, nearest
from tokenprune_strategies.pact.measuring import AGREEMENT, AHEAD_KEYS, agreement
from torch import Tensor

import tokenprune
from tests import models
from tests.strategies.cases import SITES, best_by_loops, cosine, make_tokens
from tests.strategies.loops import dot, mean
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import LayerAhead, PromptText
from tokenprune.interface.strategy import Budget, placement
from tokenprune.interface.tokens import Tokens

Rows = list[list[float]]


def apart(a: list[float], b: list[float]) -> float:
    return max(0.0, 1 - cosine(a, b))


def centres_by_loops(keys: Rows, cutoff: float) -> list[int]:
    """The densest first: a centre is what no centre is near to."""
    density = [sum(math.exp(-((apart(a, b) / 2) ** 2)) for b in keys) for a in keys]
    found: list[int] = []
    for token in best_by_loops(density, len(keys)):
        if all(apart(keys[token], keys[other]) > cutoff for other in found):
            found.append(token)
    return sorted(found)


def joined(keys: Rows, centre: list[int], reach: float) -> list[int]:
    """The centre of every token by number, -1 for none."""
    slots = []
    for token, key in enumerate(keys):
        far = [apart(key, keys[other]) for other in centre]
        near = min(range(len(far)), key=lambda n: (far[n], n))
        slots.append(near if far[near] <= reach else -1)
        if token in centre:
            slots[-1] = centre.index(token)
    return slots


def by_loops(
    score: list[float], keys: Rows, params: dict[str, float], most: int
) -> tuple[list[int], list[int]]:
    """The centres, and the slot of every token."""
    good = max(1, int(len(keys) * params["important"] + 1e-9))
    kept = sorted(best_by_loops(score, good))
    centre = [kept[n] for n in centres_by_loops([keys[n] for n in kept], params["cutoff"])]
    reach = params["cutoff"] * params["recovery"]
    slots = joined(keys, centre, reach)
    if len(centre) > most:
        sizes = [float(slots.count(n)) for n in range(len(centre))]
        centre = [centre[n] for n in sorted(best_by_loops(sizes, most))]
        slots = joined(keys, centre, reach)
    return centre, slots


def groups_of_keys(count: int, seed: int) -> Tensor:
    """Keys in a few directions, more or less, `[2, count, 5]`."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(2, 4, 5, generator=generator)
    picked = torch.randint(4, (2, count), generator=generator)
    near = middle.gather(1, picked[..., None].expand(-1, -1, 5))
    return near + 0.5 * torch.randn(2, count, 5, generator=generator)


@given(
    st.integers(1, 30),
    st.integers(0, 10**6),
    st.fixed_dictionaries(
        {
            "important": st.sampled_from([0.3, 0.55, 1.0]),
            "cutoff": st.sampled_from([0.05, 0.21, 0.6]),
            "recovery": st.sampled_from([1.0, 1.5]),
        }
    ),
    st.data(),
)
@settings(deadline=None, max_examples=60)
def test_the_steps_of_the_page(
    count: int, seed: int, params: dict[str, float], data: st.DataObject
) -> None:
    keep = data.draw(st.none() | st.integers(1, count))
    keys = groups_of_keys(count, seed)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, count, 3, generator=generator)
    share = torch.rand(2, count, generator=generator)
    signals = {AGREEMENT: share, AHEAD_KEYS: keys}
    tokens = make_tokens(hidden, site=SITES["decoder"], signals=signals)
    budget = Budget(count, count if keep is None else keep, keep is not None)
    answer = PACT.from_params(**params).reduce(tokens, budget)
    if keep == count:
        assert not answer.changes
        return
    for sample, one in enumerate(answer.samples):
        rows = hidden[sample].double().tolist()
        score = [a * math.hypot(*x) for a, x in zip(share[sample].tolist(), rows, strict=True)]
        centre, slots = by_loops(score, keys[sample].double().tolist(), params, budget.keep)
        assert one.anchor is not None
        assert one.slot is not None
        assert one.anchor[0].tolist() == centre
        assert one.slot[0].tolist() == slots
        made = one.apply(hidden[sample, None], tokens.size[sample, None])[0]
        members = [
            [x for x, s in zip(rows, slots, strict=True) if s == n] for n in range(len(centre))
        ]
        torch.testing.assert_close(
            made, torch.tensor([mean(m) for m in members]), rtol=1e-4, atol=1e-5
        )


def test_sizes_weigh_nothing() -> None:
    tokens = make_tokens(
        torch.randn(1, 8, 3),
        site=SITES["decoder"],
        signals={AGREEMENT: torch.rand(1, 8), AHEAD_KEYS: torch.randn(1, 8, 5)},
    )
    strategy, budget = PACT.from_params(cutoff=0.8), Budget(8, 8, given=False)
    plain = strategy.reduce(tokens, budget).samples[0]
    sized = strategy.reduce(replace(tokens, size=torch.arange(1.0, 9.0)[None]), budget).samples[0]
    assert torch.equal(
        plain.apply(tokens.hidden, tokens.size), sized.apply(tokens.hidden, tokens.size)
    )


@pytest.mark.parametrize("keys", [torch.ones(9, 4), torch.zeros(9, 4)])
def test_keys_that_say_nothing(keys: Tensor) -> None:
    found = centres(keys, 0.2)
    assert found.tolist() == ([0] if bool(keys.any()) else [*range(9)])
    assert nearest(keys, found, 0.3).tolist() == ([0] * 9 if bool(keys.any()) else [*range(9)])


@pytest.mark.parametrize("cap", [None, 0.5])
def test_agreement_with_the_mean_query(cap: float | None) -> None:
    query, key = torch.randn(2, 4, 9, 3), torch.randn(2, 2, 9, 3)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, :2] = False
    behind = torch.zeros(2, 9, dtype=torch.bool)
    behind[0, 6:], behind[1, 8:] = True, True
    none = torch.zeros_like(valid)
    text = PromptText(torch.zeros(2, 9, 1), valid, none, behind, torch.tensor([8, 8]), none)
    found = agreement(LayerAhead(lambda rotated: (query, key), text, softcap=cap))
    for sample, slots in enumerate([[*range(6)], [*range(2, 8)]]):
        want = [0.0] * 9
        for head in range(4):
            q = mean([query[sample, head, slot].double().tolist() for slot in slots])
            rows = key[sample, head // 2].double().tolist()
            logits = [dot(q, rows[slot]) / math.sqrt(3) for slot in slots]
            if cap is not None:
                logits = [cap * math.tanh(logit / cap) for logit in logits]
            power = [math.exp(logit) for logit in logits]
            for slot, value in zip(slots, power, strict=True):
                want[slot] += value / sum(power) / 4
        assert found[sample].tolist() == pytest.approx(want, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(("layers", "layer"), [(32, 4), (28, 4), (4, 3), (1, 0)])
def test_its_layer(layers: int, layer: int) -> None:
    assert placement(PACT, "decoder").layer_of(layers) == layer


def test_what_it_reads_is_of_the_layer_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    model, picture = models.llava_clip(), models.IMAGE_TOKEN
    seen: list[Tokens] = []
    plain = PACT.reduce

    def watched(self: PACT, tokens: Tokens, budget: Budget) -> Reduction:
        seen.append(tokens)
        return plain(self, tokens, budget)

    monkeypatch.setattr(PACT, "reduce", watched)
    inputs = models.llava_inputs([[1, picture, 7, 8, 9]])
    plan = {"schema_version": 1, "stages": [{"at": "decoder", "strategy": "pact"}]}
    with torch.no_grad():
        entered = model(**inputs, output_hidden_states=True).hidden_states[3]
        with tokenprune.attach(model, plan) as handle:
            model(**inputs)
            (image,) = handle.trace.images
    assert 0 < image.kept < image.patches
    llm = model.model.language_model
    layer = llm.layers[3]
    normed = layer.input_layernorm(entered)
    heads = layer.self_attn.config.num_attention_heads
    query, key = (
        project(normed).unflatten(2, (-1, layer.self_attn.head_dim)).transpose(1, 2)
        for project in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    cos, sin = llm.rotary_emb(entered, torch.arange(entered.shape[1])[None])
    first, second = key.chunk(2, dim=-1)
    turned = key * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]
    visual = slice(1, 1 + image.patches)
    (tokens,) = seen
    want = turned[:, :, visual].transpose(1, 2).flatten(2)
    torch.testing.assert_close(tokens.signal(AHEAD_KEYS), want, rtol=1e-4, atol=1e-5)
    front = slice(0, 1 + image.patches)
    one = query[:, :, front].mean(dim=2, keepdim=True) * layer.self_attn.head_dim**-0.5
    keys = key.repeat_interleave(heads // key.shape[1], dim=1)[:, :, front]
    rows = (one @ keys.mT).softmax(-1).mean(dim=1)[:, 0, 1:]
    torch.testing.assert_close(tokens.signal(AGREEMENT), rows, rtol=1e-4, atol=1e-6)
