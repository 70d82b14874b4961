"""Clips on checkpoints of every family that takes videos: inputs, and every command of the lab."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tokenprune_adapters.loaders.prompts import Prompts
from typer.testing import CliRunner

from tests.families.calls import case_of
from tests.families.cases import CASES
from tests.families.cells import GLM
from tests.families.plans import plan, staged
from tests.studies.conftest import save_study
from tokenprune.cli.app import app
from tokenprune.errors import DataError
from tokenprune.interface.loading import Frames, LoadedMllm
from tokenprune.lab.clips import check_clips, on_clips
from tokenprune.lab.data.question import Question
from tokenprune.lab.drawing.show import show
from tokenprune.lab.measure.checks import failed_checks
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.run import measure
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.studies import Store, load_study, run_study
from tokenprune.lab.verify import samples_for, verify
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host

Load = Callable[[str], LoadedMllm]
Folder = Callable[[str], Path]
CLIPS = [name for name, case in CASES.items() if case.clip]
APART = ("smolvlm", "molmo2", "nemotron_h_omni", *GLM)
"""Families that take either pictures or clips in one call."""
SINGLE = ("nemotron_h_omni",)
"""Families whose processor takes clips for one prompt only."""
JOINED = (
    "llava",
    "llava-siglip",
    "vipllava",
    "internvl",
    "qianfan_ocr",
    "idefics3",
    "smolvlm",
    "aya_vision",
    "cohere2_vision",
    "llama4",
    "gemma3",
    "gemma3n",
    "fast_vlm",
    "apertus1p5",
    "paligemma",
    "ovis2",
    "got_ocr2",
    "janus",
    "deepseek_vl_hybrid",
)
"""Families whose LLM is shown the frames of a clip as pictures."""
SHOWN = ["qwen2_5_vl", "glm4v", "llava_onevision", "llava_next_video", "internvl", "gemma3"]
FRAMES = 4

#: Rows and columns of the views of a clip of four frames.
VIEWS = {
    "qwen2_5_vl": [(6, 8)] * 2,
    "glm4v": [(3, 4)] * 2,
    "llava_onevision": [(3, 3)] * 4,
    "llava_next_video": [(2, 2)] * 4,
    "internvl": [(3, 3)] * 4,
    "gemma3": [(3, 3)] * 4,
}


def frames(seed: int, count: int = FRAMES, size: tuple[int, int] = (64, 48)) -> Frames:
    shape = (count, size[1], size[0], 3)
    raw = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Frames(Image.fromarray(one) for one in raw)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """An animation of six frames."""
    first, *rest = frames(0, 6)
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    return tmp_path / "a.gif"


@pytest.mark.parametrize("name", CLIPS)
def test_clips_become_what_the_family_takes(name: str, load: Load) -> None:
    case_of(name, "video")
    loaded = load(name)
    count = 1 if name in SINGLE else 2
    inputs = loaded.prepare([frames(0), frames(1)][:count], ["what?", "how many of them?"][:count])
    alone = CASES[name].inputs("video")
    assert {key: value.dim() for key, value in inputs.items()} == {
        key: value.dim() for key, value in alone.items() if key not in CASES[name].heard
    }
    marks = CASES[name].placeholders(inputs).sum(1).tolist()
    assert marks[0] == marks[-1] > 0
    with torch.no_grad():
        out = loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(out[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert len(loaded.seen(frames(0))) == FRAMES


@pytest.mark.parametrize("name", [name for name in CLIPS if name not in APART])
def test_clips_stand_beside_pictures(name: str, load: Load) -> None:
    loaded = load(name)
    shown = [frames(0)[0], frames(1)]
    inputs = loaded.prepare(shown, ["what?", "how many?"])
    for row, one in enumerate(shown):
        alone = loaded.prepare([one], [("what?", "how many?")[row]])["input_ids"][0]
        assert inputs["input_ids"][row][-len(alone) :].tolist() == alone.tolist()
    if CASES[name].missing("video") is None:
        with torch.no_grad():
            loaded.model(**inputs)


@pytest.mark.parametrize("name", APART)
def test_one_name_for_both_is_refused(name: str, load: Load) -> None:
    """Of their pixels, or of their placeholders."""
    with pytest.raises(DataError, match="Processor makes either pictures or clips"):
        load(name).prepare([frames(0)[0], frames(1)], ["what?", "how many?"])


@pytest.mark.parametrize("mark", ["<video>", "<image>"])
def test_a_question_says_where_its_clip_stands(mark: str, folder: Folder) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder("qwen2_5_vl"))
    processor.chat_template = None
    prompts = Prompts(processor)
    assert prompts.text(f"see {mark} what?", clip=True) == "see <|video_pad|> what?"
    assert prompts.text("see what?", clip=True) == "<|video_pad|>see what?"
    assert prompts.unknown(mark) == []
    with pytest.raises(DataError, match="2 places for pictures, and there are 1"):
        prompts.batch([frames(0)], [f"{mark} or {mark}"])


def test_frames_of_several_sizes_are_refused(load: Load) -> None:
    several = Frames((frames(0)[0], frames(0, size=(32, 32))[0]))
    with pytest.raises(DataError, match="different sizes, 64 x 48 and 32 x 32"):
        load("qwen2_5_vl").prepare([several], ["what?"])


def test_times_are_those_of_the_processors_rate(load: Load) -> None:
    inputs = load("qwen2_5_vl").prepare([frames(0)], ["what?"])
    # two frames make a step in time, and without a rate of the processor's one is seen a second
    assert inputs["second_per_grid_ts"].tolist() == [2.0]
    timed = load("qwen3_vl").prepare([frames(0)], ["what?"])["input_ids"]
    # of frames at 0, 0.5, 1 and 1.5 seconds, the middles of the first and the last two
    assert [mark in load("qwen3_vl").decode(timed)[0] for mark in ("0.2 sec", "1.2 sec")] == [
        True
    ] * 2


@pytest.mark.parametrize("name", CASES)
def test_plans_run_on_clips_as_the_family_sees_them(name: str, load: Load) -> None:
    loaded, bare = load(name), load_plan({"stages": []})
    assert loaded.videos is (name in CLIPS)
    if name not in CLIPS and name not in JOINED:
        with pytest.raises(DataError, match=type(loaded.model).__name__) as caught:
            check_clips(loaded, "here")
        assert caught.value.where == "here"
        assert "takes no videos" in caught.value.message
        return
    check_clips(loaded, "here")
    assert on_clips(bare, loaded).images == ("frames" if name in JOINED else "separate")


@pytest.mark.parametrize("name", SHOWN)
def test_counts_and_answers_are_the_plans(name: str, load: Load) -> None:
    loaded = load(name)
    asked = [Question(frames(number), "a", "what?", "", number) for number in range(2)]
    given = on_clips(load_plan(staged(name, "both", 0.5)), loaded)
    found = measure(VqaTask(loaded, asked, 2, new_tokens=2), [Entry("both", given)])
    assert failed_checks(found, host().strategies) == []
    (row,) = found.plans
    assert 0 < row.tokens["llm_average"] < row.tokens["llm"] <= row.tokens["units"] / 2


@pytest.mark.parametrize("name", SHOWN)
def test_a_study_of_videos_shows_every_frame(
    name: str, folder: Folder, video: Path, tmp_path: Path
) -> None:
    path = save_study(folder(name), tmp_path)
    data = yaml.safe_load(path.read_text())
    asked = {"video": str(video), "question": "what?", "answer": "a"}
    (tmp_path / "q.jsonl").write_text(json.dumps(asked))
    data["tasks"] = [{"kind": "jsonl", "path": "q.jsonl", "frames": FRAMES}]
    data["plans"] = [{"name": "half", "plan": staged(name, "pre_llm", 0.5)}]
    path.write_text(yaml.safe_dump(data))
    study = load_study(path)
    assert not run_study(study).failed
    records, _ = Store(study.out).records()
    images = {record.identity["plan"].get("images", "separate") for record in records}
    assert images == {"frames" if name in JOINED else "separate"}
    for record in records:
        (sample,) = record.result["shown"]
        assert [tuple(frame["grid"]) for frame in sample["frames"]] == VIEWS[name]
        owners = [one for frame in sample["frames"] for one in frame["owner"]]
        left = len({one for one in owners if one >= 0})
        assert left <= len(owners) // (2 if record.identity["name"] == "half" else 1)
        assert left > 0


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_show_draws_a_clip_in_one_row(name: str, load: Load) -> None:
    content = load_plan(plan({"strategy": "random", "at": "pre_llm", "keep": 0.5}))
    sheet = show(load(name), content, [("a.gif", frames(0))], question="what?")
    one = show(load(name), content, [("a.png", frames(0)[0])], question="what?")
    assert sheet.width > 0
    assert sheet.height < 3 * one.height


def run(*given: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(given))
    return result.exit_code, " ".join(result.output.split())


def test_commands_take_clips(folder: Folder, video: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("stages: [{at: pre_llm, strategy: random, keep: 0.5}]")
    given = ["--plan", str(tmp_path / "p.yaml"), "--model", str(folder("qwen2_5_vl"))]
    out = tmp_path / "x.png"
    code, said = run("show", str(video), "--frames", "4", *given, "--out", str(out))
    assert code == 0, said
    bench = ["bench", "--model", str(folder("internvl")), "--plans", str(tmp_path / "p.yaml")]
    bench += ["--frames", "2", "--size", "48", "--rounds", "1", "--new-tokens", "1"]
    code, said = run(*bench, "--out", str(tmp_path / "bench.json"))
    assert code == 0, said
    dense, pruned = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert (dense["tokens"]["llm"], pruned["tokens"]["llm"]) == (9, 4.5)


def test_commands_refuse_clips_by_the_models_name(folder: Folder, tmp_path: Path) -> None:
    model = ["--model", str(folder("llava_next"))]
    for command in (
        ["compare", "--task", "video", "--out", str(tmp_path / "c.json")],
        ["bench", "--frames", "2", "--out", str(tmp_path / "b.json")],
    ):
        code, said = run(*command, *model)
        assert code == 2
        assert "LlavaNextForConditionalGeneration takes no videos" in said


@pytest.mark.parametrize("name", [name for name in SHOWN if name in CLIPS and name not in APART])
def test_verify_passes_on_a_clip(name: str, load: Load) -> None:
    loaded, given = load(name), load_plan(staged(name, "both", 0.5))
    samples, source = samples_for(loaded, None, (), plan=given)
    assert source.endswith("a clip of 4 frames of them")
    assert isinstance(samples[-1].image, Frames)
    found = verify(loaded, given, samples[-2:], source=source, new_tokens=2, widen=True)
    assert found.failed == []
    assert {"prefill", "decoding"} <= {row.key for row in found.rows if row.status == "pass"}


@pytest.mark.filterwarnings("ignore::tokenprune.errors.PictureWarning")
def test_verify_leaves_out_a_clip_that_cannot_be_followed(load: Load) -> None:
    inside = load_plan(plan({"strategy": "random", "at": "encoder", "keep": 0.5}))
    samples, source = samples_for(load("llava_onevision"), None, (), plan=inside)
    assert not any(isinstance(sample.image, Frames) for sample in samples)
    assert "without a clip: tokens of this video can't be followed" in source
