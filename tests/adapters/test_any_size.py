"""Plans on towers for pictures of any size by themselves, and what adapters read of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import tokenprune
from tests.adapters.any_size import SCENE, SIDES, TOWERS, WHERE, call, run, tower
from tests.adapters.variants import adapted
from tests.contract.cases import footprint
from tests.families.any_size import blocks, hidden, passes, tower_of
from tests.families.cases import CASES
from tests.families.towers import PLUGIN
from tests.packed import plan
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.interface.trace import Trace
from tokenprune.plugins.host import register_plugin

EXACT = 1e-9
DROP = {"strategy": "t-tower-drop", "keep": 0.5}
RESTORING = {"strategy": "ipcv", "layer": 2, "params": {"stabilise": 1, "neighbours": 2}}
PARTS = {
    "mistral3": {"attention_norm", "feed_forward", "attention", "ffn_norm"},
    "paddleocr_vl": {"layer_norm1", "self_attn", "layer_norm2", "mlp"},
    "gemma4": {
        *("self_attn", "mlp", "input_layernorm", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    },
}
INSIDE = {
    "mistral3": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "paddleocr_vl": {"q_proj", "k_proj", "v_proj", "out_proj"},
    "gemma4": {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm", "v_norm"},
}


def left(family: str, trace: Trace) -> Tensor:
    """`[U]` bool: units of the call that are left."""
    kept = []
    for image in trace.images:
        mine = torch.zeros(image.patches, dtype=torch.bool)
        mine[image.steps[-1].anchor] = True
        kept.append(mine)
    return torch.cat(kept)


@pytest.mark.parametrize("family", TOWERS)
def test_dropping_units_equals_hiding_them(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = tower(family, torch.float64), call(family, torch.float64)
    dense, before = run(model, given), footprint(model)
    with (
        register_plugin(PLUGIN, "any-size"),
        tokenprune.attach(model, plan(DROP)) as handle,
    ):
        short, trace = run(model, given), handle.trace
    assert footprint(model) == before
    case = CASES[family]
    shown = passes(case, case.prompts(SCENE), trace, SIDES[family])
    with hidden(model, shown, monkeypatch):
        full = run(model, given)
    stays = left(family, trace)
    assert short.shape == dense.shape
    assert 0 < int(stays.sum()) < len(stays)
    assert not short[~stays].any()
    assert float((short - full)[stays].abs().max()) < EXACT
    assert torch.equal(run(model, given), dense)


@pytest.mark.parametrize("stage", [{"strategy": "tome"}, {"strategy": "evoprune"}, RESTORING])
@pytest.mark.parametrize("family", TOWERS)
def test_keeping_all_changes_no_bit(family: str, stage: dict[str, Any]) -> None:
    model, given = tower(family), call(family)
    dense = run(model, given)
    with tokenprune.attach(model, plan({**stage, "keep": 1.0})):
        assert torch.equal(run(model, given), dense)
    with tokenprune.attach(model, plan({**stage, "keep": 0.5})) as handle:
        short = run(model, given)
        kept, whole = (
            [getattr(i, what) for i in handle.trace.images] for what in ("kept", "patches")
        )
    assert kept == whole if stage is RESTORING else kept == [count // 2 for count in whole]
    assert not torch.equal(short, dense)


@pytest.mark.parametrize("family", TOWERS)
def test_a_budget_in_units_is_each_pictures_own(family: str) -> None:
    model, given = tower(family), call(family)
    with tokenprune.attach(model, plan({"strategy": "random", "keep": 3})) as handle:
        run(model, given)
        assert [image.kept for image in handle.trace.images] == [3, 3, 3]


@pytest.mark.parametrize("family", TOWERS)
def test_a_tower_has_the_parts_that_are_read_and_no_others(family: str) -> None:
    model = tower(family)
    adapter = adapted(model)
    for block in blocks(model):
        assert {name for name, _ in block.named_children()} == PARTS[family]
        attention = block.get_submodule("attention" if family == "mistral3" else "self_attn")
        assert {name for name, _ in attention.named_children()} == INSIDE[family]
        assert not dict(block.named_parameters(recurse=False))
    spec = adapter.spec()
    assert list(spec.blocks) == blocks(model)
    assert (spec.prefix, spec.packed, spec.width) == (0, True, 32 * SIDES[family] ** 2)


@pytest.mark.parametrize("family", TOWERS)
@torch.no_grad()
def test_halves_equal_the_block(family: str) -> None:
    """On one picture without padding."""
    model, one = tower(family), call(family, scene="one")
    adapter: Any = adapted(model)
    found: list[Any] = []
    hooks = [
        block.register_forward_hook(
            lambda _, args, kwargs, out: found.append((args, kwargs, out)), with_kwargs=True
        )
        for block in blocks(model)
    ]
    model(**one)
    for hook in hooks:
        hook.remove()
    for block, ((hidden_states, *args), kwargs, expected) in zip(blocks(model), found, strict=True):
        every = torch.arange(hidden_states.shape[-2])
        cut = adapter.arguments(tuple(args), kwargs, every)
        if hidden_states.dim() == 2:
            hidden_states, expected = hidden_states[None], expected[None]
        query, key, value = adapter.heads(block, hidden_states)
        query, key = adapter.rotate(query, key, *cut)
        attended = scaled_dot_product_attention(query, key, value)
        made = adapter.feed_forward(block, adapter.join(block, hidden_states, attended))
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
        assert float((expected - hidden_states).abs().max()) > 0.05


@pytest.mark.parametrize("family", TOWERS)
def test_sizes_are_read_however_they_are_given(family: str) -> None:
    model, given = tower(family), call(family)
    adapter: Any = adapted(model)
    packing = adapter.packing((), given)
    if family != "paddleocr_vl":  # whose grids stand behind a mask
        assert adapter.packing(tuple(given.values()), {}).grids == packing.grids
    if family == "mistral3":
        listed = given["image_sizes"].tolist()
        assert adapter.packing((), {**given, "image_sizes": listed}).grids == packing.grids
        assert (
            adapter.packing((), {"pixel_values": torch.zeros(2, 3, 16, 24)}).grids
            == [(1, 2, 3)] * 2
        )


def test_what_pixtral_hands_to_its_blocks_is_cut_with_the_rows() -> None:
    """A mask, or borders where FlashAttention runs; two pictures of 4 and 3 rows."""
    adapter: Any = adapted(tower("mistral3"))
    rotary = torch.arange(7.0)[:, None], torch.arange(7.0, 14.0)[:, None]
    kept, mask = torch.tensor([0, 2, 4, 5]), torch.arange(49).view(1, 1, 7, 7)
    borders = torch.tensor([0, 4, 7], dtype=torch.int32)
    given = {"position_embeddings": rotary, "cu_seq_lens_q": borders, "cu_seq_lens_k": borders}
    (cut,), named = adapter.arguments((mask,), given, kept)
    assert cut[0, 0, 1].tolist() == [14, 16, 18, 19]
    assert [part[:, 0].tolist() for part in named["position_embeddings"]] == [
        [0, 2, 4, 5],
        [7, 9, 11, 12],
    ]
    assert named["cu_seq_lens_q"].tolist() == named["cu_seq_lens_k"].tolist() == [0, 2, 4]
    assert named["cu_seq_lens_q"].dtype == torch.int32
    (cut,), named = adapter.arguments((None,), {**given, "position_ids": mask[0, 0, :, :2]}, kept)
    assert cut is None
    assert named["position_ids"][:, 0].tolist() == [0, 14, 28, 35]


def test_gemma4_rows_follow_the_places_of_patches() -> None:
    """The patches of a picture may come in any order."""
    adapter: Any = adapted(tower("gemma4"))
    places = torch.tensor([[[x, y] for y in range(2) for x in range(4)] + [[-1, -1]] * 2])
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    packing = adapter.packing((), {"pixel_position_ids": places[:, order]})
    assert packing.grids == [(1, 1, 2)]
    shown = places[0, order][packing.rows].tolist()
    assert shown[0] == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert shown[1] == [[2, 0], [3, 0], [2, 1], [3, 1]]


def test_pictures_that_are_not_made_of_whole_units_are_refused() -> None:
    adapter: Any = adapted(tower("gemma4"))
    places = torch.tensor([[[x, y] for y in range(3) for x in range(4)]])
    with pytest.raises(UnsupportedCallError, match="3 x 4 patches"):
        adapter.packing((), {"pixel_position_ids": places})
    packing = adapted(tower("mistral3")).packing((), {"pixel_values": torch.zeros(1, 3, 24, 32)})
    with pytest.raises(UnsupportedCallError, match="3 x 4 patches"):
        packing.grouped(2)
    with pytest.raises(UnsupportedCallError, match="frames of a clip"):
        packing.clips([2])


def test_the_adapter_of_other_llavas_refuses_such_a_tower() -> None:
    model = CASES["llava_pixtral"].build()
    stage = {"strategy": "random", "at": "encoder", "keep": 0.5}
    wanted = {"schema_version": 1, "stages": [stage]}
    with pytest.raises(UnsupportedModelError, match="one sequence"):
        tokenprune.attach(model, wanted, adapter="llava")
    assert not any("forward" in module.__dict__ for module in model.modules())
    tokenprune.attach(model, wanted).detach()


@pytest.mark.parametrize("family", TOWERS)
def test_what_halves_can_not_give_is_refused(family: str) -> None:
    case = CASES[family]
    model, given = tower_of(case.create()), call(family)
    with tokenprune.attach(model, plan({"strategy": "tome", "keep": 0.5})):
        with pytest.raises(UnsupportedCallError, match="output_attentions"):
            model(**given, output_attentions=True)
        model.config.attention_dropout = 0.1
        for block in blocks(model):
            for part in block.children():
                if hasattr(part, "dropout") or hasattr(part, "attention_dropout"):
                    setattr(part, "dropout" if family == "mistral3" else "attention_dropout", 0.1)
        model.train()
        with pytest.raises(UnsupportedCallError, match="dropout on attention weights"):
            model(**given)
    assert WHERE[family] in given
