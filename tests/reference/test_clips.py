"""Clips: what they show, what is asked, and that the answers need more than one frame."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from tokenprune.reference import (
    CLIP_TYPES,
    FRAMES,
    ClipScene,
    Textures,
    ask_clip,
    heldout_clips,
    iter_heldout_clips,
    render_clip,
    sample_clip,
)
from tokenprune.reference.clip import WAYS
from tokenprune.reference.clip_heldout import CLIP_HELDOUT_SEED
from tokenprune.reference.questions import NUMBERS
from tokenprune.reference.scene import CANVAS
from training.reference_model.forward import logits, patchify, tower_forward
from training.reference_model.model import PATCHES
from training.reference_model.vocab import BOS, IMAGE
from training.video_model.data import ASKING, DataPlan, draw_clip, make_batch, visits, whole_index
from training.video_model.export import build_processor
from training.video_model.forward import QUESTION_START, answer_clips
from training.video_model.model import build_model
from training.video_model.vocab import WORD_ID


@pytest.fixture(scope="module")
def clips() -> list[ClipScene]:
    rng = np.random.default_rng(3)
    return [sample_clip(rng) for _ in range(300)]


def test_objects_stay_on_the_canvas_and_apart(clips: list[ClipScene]) -> None:
    for clip in clips:
        for frame in range(FRAMES):
            items = clip.scene(frame).items
            for place, item in enumerate(items):
                assert 0 < item.x < CANVAS
                assert 0 < item.y < CANVAS
                for other in items[:place]:
                    assert np.hypot(item.x - other.x, item.y - other.y) > item.size / 2


def test_answers_are_what_the_frames_show(clips: list[ClipScene]) -> None:
    rng = np.random.default_rng(0)
    for clip in clips:
        seen = {
            m.item.kind: [(t, m.at(t)) for t in range(FRAMES) if m.shown[t]] for m in clip.movers
        }
        for question in ask_clip(clip, rng):
            words = question.text.split()
            if question.kind == "motion":
                path = [item for _, item in seen[words[4]]]
                dx, dy = path[-1].x - path[0].x, path[-1].y - path[0].y
                way = WAYS[question.answer]
                assert (way == (0, 0)) == (dx == dy == 0)
                assert abs(dx) <= abs(dy) if way[1] else dx * way[0] >= abs(dy) * abs(way[0])
            elif question.text == "how many objects appear ?":
                assert question.answer == NUMBERS[len(clip.movers)]
            elif question.text.startswith("what comes"):
                order = sorted(seen, key=lambda kind: seen[kind][0][0])
                place = {"first": 0, "last": len(order) - 1}.get(words[2])
                if place is None:
                    step = 1 if words[2] == "after" else -1
                    place = order.index(words[4]) + step
                assert question.answer == order[place]
            else:
                times = [t for t, _ in seen[words[4]]]
                runs = sum(t - 1 not in times for t in times)
                assert question.answer == NUMBERS[runs]


def test_no_single_frame_shows_all_that_comes_in_turn(clips: list[ClipScene]) -> None:
    for clip in clips:
        if clip.staggered and len(clip.movers) > 1:
            most = max(len(clip.scene(frame).items) for frame in range(FRAMES))
            assert most < len(clip.movers)


def test_no_answer_is_right_by_habit(clips: list[ClipScene]) -> None:
    rng = np.random.default_rng(1)
    asked: dict[str, Counter[str]] = {kind: Counter() for kind in CLIP_TYPES}
    for clip in clips:
        for question in ask_clip(clip, rng):
            asked[question.kind][question.answer] += 1
    for answers in asked.values():
        assert max(answers.values()) < 0.45 * answers.total()


def test_the_background_stays_and_objects_cover_their_patches(clips: list[ClipScene]) -> None:
    textures = Textures(0, count=2)
    drawn = render_clip(clips[0], np.random.default_rng(0), textures)
    assert drawn.frames.shape == (FRAMES, CANVAS, CANVAS, 3)
    empty = drawn.cover.max(axis=(0, 1)) == 0
    patches = drawn.frames.reshape(FRAMES, 14, 8, 14, 8, 3).mean((2, 4)).reshape(FRAMES, 196, 3)
    still = np.abs(patches[1:] - patches[0])[:, empty].max()
    assert still < 4
    visible = np.array([m.shown for m in clips[0].movers]).T
    assert ((drawn.cover.max(axis=2) > 0) == visible).all()


def test_held_out_clips_do_not_change() -> None:
    few, more = heldout_clips(4), heldout_clips(9)
    assert [(s.question, s.answer) for s in few] == [(s.question, s.answer) for s in more[:4]]
    assert few[0].frames[3].tobytes() == more[0].frames[3].tobytes()
    assert len(few[0].frames) == FRAMES
    code = (
        "from tokenprune.reference import heldout_clips as h;"
        "s = h(5)[4]; print(s.question, s.answer, sum(s.frames[2].tobytes()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    sample = more[4]
    pixels = sum(sample.frames[2].tobytes())
    assert ran.stdout.split() == [*sample.question.split(), sample.answer, str(pixels)]


def test_visits_count_how_often_an_object_has_come() -> None:
    rng = np.random.default_rng(5)
    clip = next(c for c in iter(lambda: sample_clip(rng), None) if len(c.movers[0].enters) == 3)
    owner = torch.zeros(FRAMES, 4, dtype=torch.long)
    owner[:, 3] = -1
    visit, entry = visits(clip, owner)
    come = 0
    for frame in range(FRAMES):
        fresh = frame in clip.movers[0].enters
        come += fresh
        assert visit[frame].tolist() == [come, come, come, 0]
        assert entry[frame].tolist() == [fresh, fresh, fresh, False]


def test_redrawing_gives_more_clips_whose_objects_return() -> None:
    rng = np.random.default_rng(6)
    plain, often = (
        sum(not draw_clip(rng, redraw).staggered for _ in range(200)) for redraw in (0.0, 0.8)
    )
    assert often > plain + 30


def test_training_draws_other_clips_than_the_held_out_ones() -> None:
    held = {repr(sample.clip) for sample in iter_heldout_clips(50)}
    for seed in (0, 1, CLIP_HELDOUT_SEED):
        for number in range(30):
            rng = np.random.default_rng([seed, 11, number])
            rng.integers(2**31)
            assert repr(sample_clip(rng)) not in held


@torch.no_grad()
def test_the_forward_over_clips_equals_that_of_transformers() -> None:
    model = build_model(0).eval()
    w = dict(model.named_parameters())
    batch = make_batch(
        {name: p.bfloat16() for name, p in w.items()},
        np.random.default_rng(0),
        Textures(0, count=2),
        DataPlan(clips=1, questions=2),
    )
    sample = heldout_clips(1)[0]
    processor = build_processor()
    shown = processor.image_processor(images=list(sample.frames), return_tensors="pt")
    pixels = shown["pixel_values"]
    seen = tower_forward(w, patchify(pixels), whole_index(FRAMES), last_block=False)
    index = seen.index.view(1, FRAMES, PATCHES)
    ours = answer_clips(w, seen.patches.view(1, FRAMES, PATCHES, -1), index, batch.words, False)
    frames = [[WORD_ID[str(t)], *[IMAGE] * PATCHES] for t in range(FRAMES)]
    prefix = [BOS, *(token for frame in frames for token in frame)]
    assert len(prefix) == QUESTION_START
    for number in range(2):
        ids = torch.tensor([[*prefix, *batch.words[0, number].tolist()]])
        wanted = model(input_ids=ids, pixel_values=pixels).logits[:, QUESTION_START:]
        torch.testing.assert_close(logits(w, ours[:, number]), wanted, rtol=0, atol=2e-3)


def test_the_template_numbers_frames() -> None:
    parts = [{"type": "image"}] * 3
    turn = [{"role": "user", "content": [*parts, {"type": "text", "text": "how many ?"}]}]
    text = build_processor().apply_chat_template(turn)
    assert text == "0 <image> 1 <image> 2 <image> how many ?"
    alone = [{"role": "user", "content": [parts[0], {"type": "text", "text": "how many ?"}]}]
    assert build_processor().apply_chat_template(alone) == "<image> how many ?"


def test_every_word_is_known() -> None:
    for sample in iter_heldout_clips(40):
        ids, at = ASKING.encode(sample.question, sample.answer)
        assert ids[at] == WORD_ID["?"]
        assert ids[at + 1] == WORD_ID[sample.answer]
