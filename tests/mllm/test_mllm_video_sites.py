"""What strategies see of a video, how it is put together again, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.mllm import oracle
from tests.mllm.calls import IMG, inputs, logits, model, split
from tests.mllm.plans import drawn, pick, plan, tome
from tests.mllm.strategies import Spy
from tests.mllm.video_cases import ONE, PROMPTS, THREE, TWO, VISTOG_STAGE, video_plan
from tests.mllm.video_strategies import VIDEO_PLUGIN, Across
from tokenprune.engine.adapters import choose_adapter
from tokenprune.errors import PlanError, ReductionError, UnsupportedCallError, UnsupportedModelError
from tokenprune.plugins.host import register_plugin


@pytest.fixture(autouse=True, scope="module")
def _spanning_strategies() -> Iterator[None]:
    with register_plugin(VIDEO_PLUGIN, "video-tests"):
        yield


def test_before_the_llm_a_strategy_sees_the_whole_video() -> None:
    of, call = model(), inputs(THREE, ONE, TWO, THREE)
    stage = {"at": "pre_llm", "strategy": "t-spy", "keep": 2}
    with tokenprune.attach(of, video_plan(stage)) as handle:
        logits(of, call)
        logits(of, split(call)[0])
    shown = {tokens.grid[0]: tokens for tokens in Spy.seen[:3]}
    assert sorted(shown) == [1, 2, 3]
    for frames, tokens in shown.items():
        assert tokens.grid == (frames, 6, 6)
        assert tokens.hidden.shape[:2] == (2 if frames == 3 else 1, 36 * frames)
        assert torch.equal(tokens.index[0], torch.arange(36 * frames))
        assert tokens.position[0, :, 0].tolist() == [t for t in range(frames) for _ in range(36)]
    torch.testing.assert_close(shown[3].hidden[:1], Spy.seen[3].hidden)
    assert handle.trace.images[0].kept == 6


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_frames_may_become_ragged_and_even_empty(kind: str, compact: bool) -> None:
    kept = (0, 3, 17, 35, 36, 70)  # four of the first frame, two of the second, none of the third
    of, call = model(kind), inputs(THREE)
    positions = "compact" if compact else "original"
    stage = {**pick(*kept), "keep": 2}
    with tokenprune.attach(of, video_plan(stage, positions=positions)) as handle:
        pruned = logits(of, call)[0]
    assert handle.meter.tokens["llm"] == 2
    with torch.no_grad():
        per_frame = [kept[:4], tuple(n - 36 for n in kept[4:]), ()]
        one = oracle.sample(of, call["input_ids"][0].tolist(), call["pixel_values"], per_frame)
        want, place = oracle.run(of, one, compact=compact)
    torch.testing.assert_close(pruned[place], want, atol=2e-5, rtol=1e-4)


def test_a_video_keeps_at_least_one_token() -> None:
    stage = {"at": "pre_llm", "strategy": "t-exit", "keep": 0.5}
    with (
        tokenprune.attach(model(), video_plan(stage)),
        pytest.raises(ReductionError, match="left no token"),
    ):
        logits(model(), inputs(THREE))


def test_an_encoder_site_that_spans_frames_sees_all_of_them() -> None:
    Across.seen.clear()
    of, call = model(), inputs(*PROMPTS)
    spans = {"at": "encoder", "strategy": "t-across", "layer": 1, "keep": 30}
    spy = {"at": "pre_llm", "strategy": "t-spy", "keep": 2}
    with tokenprune.attach(of, video_plan(spans, spy)) as handle:
        logits(of, call)
    for tokens in Across.seen:
        frames = tokens.grid[0]
        assert tokens.hidden.shape == (1, 36 * frames, models.WIDTH)
        assert tokens.prefix is not None
        assert tokens.prefix.shape == (1, frames, models.WIDTH)
        for name in ("attention_received", "previous_hidden"):
            assert tokens.signals[name].shape[:2] == (1, 36 * frames)
        # attention stays within frames: of a row's weight, only the class token's share is missing
        shares = tokens.signals["attention_received"].unflatten(1, (frames, 36))
        assert ((shares.sum(-1) > 0.8) & (shares.sum(-1) < 1)).all()
        assert torch.equal(tokens.position[0, :, 0], torch.arange(36 * frames) // 36)
    assert [tokens.grid[0] for tokens in Across.seen] == [1, 2, 3]
    for image in handle.trace.images:
        frames, step = image.grid[0], image.steps[0]
        assert step.site == tokenprune.interface.sites.Site("encoder", 1, 3)
        gone = [t * 36 + n for t in range(frames) for n in range(30, 36)]
        stays = [n for n in range(36 * frames) if n not in gone]
        assert step.anchor.tolist() == stays
        for patch in gone:
            assert int(step.assignment[patch]) == min(patch // 36 + 1, frames - 1) * 30
    for tokens in Spy.seen:  # what rides along was split into frames and joined again
        frames = tokens.grid[0]
        stays = [t * 36 + n for t in range(frames) for n in range(30)]
        assert tokens.index[0].tolist() == stays
        assert tokens.riders["t-number"][0].tolist() == stays
        wanted = [1.0] * (30 * frames)
        for t in range(frames):
            wanted[min(t + 1, frames - 1) * 30] += 6
        assert tokens.size[0].tolist() == wanted


def test_what_entered_the_block_before_follows_a_cut_across_frames() -> None:
    Across.seen.clear()
    of, call = model("clip"), inputs(THREE, TWO)
    entered: list[Tensor] = []
    stages = [
        {"at": "encoder", "strategy": "t-across", "layer": 1, "keep": 30},
        {"at": "encoder", "strategy": "t-across", "layer": 2, "keep": 24},
    ]
    block = choose_adapter(of.model.vision_tower, None).spec().blocks[1].layer_norm1
    hook = block.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    try:
        with tokenprune.attach(of, video_plan(*stages)):
            logits(of, call)
    finally:
        hook.remove()
    frames = {3: entered[0][:3, 1:], 2: entered[0][3:, 1:]}
    for tokens in Across.seen[2:]:
        want = frames[tokens.grid[0]].flatten(0, 1)[tokens.index[0]]
        assert torch.equal(tokens.signals["previous_hidden"][0], want)


def test_an_encoder_site_that_spans_frames_hands_on_means_across_them() -> None:
    """The next block gets what a merge by hand of the block's own halves gives."""
    Across.seen.clear()
    of, call = model("siglip"), inputs(THREE)
    entered: list[Tensor] = []
    stages = [
        {"at": "encoder", "strategy": "t-across", "layer": 1, "keep": 30},
        {"at": "encoder", "strategy": "uniform", "layer": 2, "keep": 30},
    ]
    block = of.model.vision_tower.encoder.layers[1].layer_norm2
    hook = block.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    try:
        with tokenprune.attach(of, video_plan(*stages)):
            logits(of, call)
    finally:
        hook.remove()
    states = Across.seen[0].hidden[0].unflatten(0, (3, 36))
    for t in range(3):
        want = states[t, :30].clone()
        givers = [u for u in range(3) if min(u + 1, 2) == t]
        if givers:
            given = torch.cat([states[u, 30:] for u in givers])
            want[0] = torch.cat((want[:1], given)).mean(dim=0)
        torch.testing.assert_close(entered[0][t], want)


def test_frames_left_differently_many_tokens_are_refused() -> None:
    of = model()
    stage = {"at": "encoder", "strategy": "t-lopsided", "layer": 1, "keep": 30}
    with tokenprune.attach(of, video_plan(stage)):
        logits(of, inputs(ONE))  # one frame can't be lopsided
        with pytest.raises(ReductionError, match="differently many tokens") as caught:
            logits(of, inputs(TWO))
    assert "encoder[1]" in caught.value.where
    with tokenprune.attach(of, plan(stage)):
        logits(of, inputs(TWO))  # separate images are seen one by one


def test_temporal_merging_reaches_the_frames_beside_and_no_further() -> None:
    of, call = model(), inputs([1, *[IMG] * 5, 9])
    call["pixel_values"] = call["pixel_values"][:1] + 0.3 * call["pixel_values"]
    stage = {"at": "encoder", "strategy": "evoprune", "layer": 1, "keep": 20}
    with tokenprune.attach(of, video_plan({**stage, "params": {"temporal": True}})) as handle:
        logits(of, call)
    step = handle.trace.images[0].steps[0]
    reach = step.anchor[step.assignment] // 36 - torch.arange(180) // 36
    assert reach.abs().max() == 1
    assert (step.anchor // 36).bincount().tolist() == [20] * 5


def test_an_encoder_alone_has_no_videos() -> None:
    with pytest.raises(PlanError, match="no prompt says") as caught:
        tokenprune.attach(models.clip_vision(), video_plan(tome()))
    assert caught.value.where == "images"


def test_a_class_token_between_the_frames_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="class token"):
        tokenprune.attach(model("clip-full"), video_plan(drawn()))


def test_companions_behind_what_sees_videos_are_refused() -> None:
    stages = [drawn(18), VISTOG_STAGE]
    with pytest.raises(PlanError, match="frame by itself"):
        tokenprune.attach(model(), video_plan(*stages))
    tokenprune.attach(model(), video_plan(VISTOG_STAGE, drawn(3))).detach()


def test_the_tower_alone_is_refused() -> None:
    of, call = model(), inputs(TWO)
    with (
        tokenprune.attach(of, video_plan(tome())),
        pytest.raises(UnsupportedCallError, match="no prompt says"),
    ):
        of.model.get_image_features(call["pixel_values"])


@pytest.mark.parametrize("images", [1, 3])
def test_placeholders_of_other_than_whole_frames_are_refused(images: int) -> None:
    of, call = model(), inputs(TWO)
    call["pixel_values"] = models.pixels(images)
    with (
        tokenprune.attach(of, video_plan(tome())),
        pytest.raises(UnsupportedCallError, match="can't be matched row by row"),
    ):
        logits(of, call)


def test_half_a_frame_a_row_is_refused() -> None:
    of, call = model(), inputs(TWO, ONE)
    ids, mask = call["input_ids"], call["attention_mask"]
    ids[0, ids[0] == IMG] = torch.tensor([IMG] * 54 + [9] * 18)
    ids[1, :18], mask[1, :18] = IMG, 1  # 54 in each row are three images in all
    with (
        tokenprune.attach(of, video_plan(tome())),
        pytest.raises(UnsupportedCallError, match="can't be matched row by row"),
    ):
        logits(of, call)
