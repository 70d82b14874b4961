"""Summaries of synthetic measurements, whose right values are known."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tokenprune.lab.compare.record import row_data
from tokenprune.lab.data.question import Question
from tokenprune.lab.judge import Judge, Result, Samples
from tokenprune.lab.judge.measured import runs_of, samples_of
from tokenprune.lab.judge.warnings import gathered, notes, warnings_of
from tokenprune.lab.measure.checks import expected_tokens, failed_checks
from tokenprune.lab.measure.entries import Entry, strategy_entry
from tokenprune.lab.measure.measurement import Beside, Measured, Measurement
from tokenprune.lab.measure.statistics import Interval
from tokenprune.lab.measure.task import Task
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host

N, BATCH = 40, 4


class Canned(Task):
    kind = "mllm"

    def inputs(self, batch: Any) -> Any:
        return batch

    def call(self, inputs: Any) -> Tensor:
        return torch.zeros(1)

    def read(self, inputs: Any, output: Tensor) -> list[str]:
        return []


def entry(name: str, keep: int, at: Any = "pre_llm", **more: Any) -> Entry:
    return strategy_entry(host().strategies[name], keep, at, **more)


def row(given: Entry | None, wrong: int, wall: float, kept: int = 8) -> Measured:
    """Wrong on the first `wrong` questions; `wall` seconds a batch."""
    answers = {i: "no" if i < wrong else "Yes." for i in range(N)}
    batches = N // BATCH
    seconds = {"encode": 0.5 * wall * batches, "select": 0.1 * wall * batches, "decode": 0.0}
    tokens = {"patches": 36.0, "pre_llm": float(kept)}
    beside = Beside([2.0] * batches, [2.0] * batches, {"encode": batches, "select": 0.2 * batches})
    return Measured(
        given, answers, [wall] * batches, seconds, tokens, flops=wall * 1000, beside=beside
    )


def results(*rows: Measured) -> tuple[Result, list[Result]]:
    questions = [Question(None, "yes", kind="ab"[i % 2], image_id=i) for i in range(N)]
    task = Canned(torch.nn.Linear(1, 1), questions, BATCH)
    idle = row(Entry("dense", load_plan({"schema_version": 1})), 4, 2.0)
    measured = Measurement(row(None, 4, 2.0), idle, list(rows))
    dense, *others = Judge(samples_of(task, measured), runs_of(task, measured), seed=0).results()
    return dense, others


def test_numbers_of_a_row() -> None:
    dense, (fopru,) = results(row(entry("fopru", 8), 10, 1.0))
    assert dense.accuracy.value == pytest.approx(36 / 40)
    assert dense.total == Interval(1.0, 1.0, 1.0)
    assert dense.difference == Interval(0.0, 0.0, 0.0)
    assert fopru.accuracy.value == pytest.approx(30 / 40)
    assert fopru.retention is not None
    assert fopru.retention.value == pytest.approx(30 / 36)
    assert fopru.difference is not None
    assert fopru.difference.value == pytest.approx(-6 / 40)
    assert fopru.difference.excludes(0.0)
    assert fopru.agreement == pytest.approx(34 / 40)
    assert fopru.mcnemar == pytest.approx(2 * 0.5**6)
    assert fopru.by_type == {"a": 0.75, "b": 0.75}
    assert fopru.flops_ratio == pytest.approx(0.5)
    assert fopru.total == Interval(0.5, 0.5, 0.5)
    assert fopru.time == {
        "encode": pytest.approx(0.5),
        "select": pytest.approx(0.05),
        "decode": None,
    }
    assert fopru.seconds["encode"] == pytest.approx(0.5 * 10 / 40)
    assert fopru.title == "fopru 8"
    assert fopru.lengths is None


@pytest.mark.parametrize(("wrong", "unseen"), [(4, 3 / N), (3, 3 / N), (0, 3 / N), (5, 0.0)])
def test_a_loss_that_no_picture_shows_is_not_excluded(wrong: int, unseen: float) -> None:
    dense, (fopru,) = results(row(entry("fopru", 8), wrong, 1.0))
    assert fopru.images == N
    assert fopru.unseen == pytest.approx(unseen)
    assert fopru.difference is not None
    assert (fopru.difference.low < 0) == (wrong == 5)
    assert dense.unseen == pytest.approx(3 / N)


def test_a_row_of_the_record() -> None:
    given = row(entry("fopru", 8, compact=True), 10, 3.0)
    given.lengths = [4, 1, 2]
    _, (fopru,) = results(given)
    data = row_data(fopru, answers=True)
    assert (data["name"], data["keep"], data["budget"], data["positions"]) == (
        *("fopru", "8", "8"),
        "compact",
    )
    assert load_plan(yaml.safe_load(data["plan"])) == fopru.run.plan
    assert data["lengths"] == {"least": 1, "middle": 2, "most": 4}
    assert data["flops"] == 3000
    assert "slower than the dense model" in data["marks"]
    assert len(data["answers"]) == N
    assert "answers" not in row_data(fopru)


def test_random_is_looked_up_at_the_same_budget_and_positions() -> None:
    rows = [
        row(entry("fopru", 8), 12, 1.0),
        row(entry("random", 8), 8, 1.0),
        row(entry("fopru", 4), 12, 1.0, kept=4),
        row(entry("fopru", 8, compact=True, also=True), 12, 1.0),
        row(entry("random", 8, compact=True, also=True), 20, 1.0),
    ]
    _, (below, random, lonely, above, _) = results(*rows)
    assert below.versus_random is not None
    assert below.versus_random.value == pytest.approx(-4 / 40)
    assert "worse than keeping random tokens" in below.warnings
    assert random.versus_random is None
    assert lonely.versus_random is None
    assert above.versus_random is not None
    assert above.versus_random.value == pytest.approx(8 / 40)
    assert not any("random" in warning for warning in above.warnings)


def test_random_at_the_nearest_number_of_tokens_stands_in_where_places_differ() -> None:
    late = row(entry("fastv", 4, "decoder"), 12, 1.0, kept=9)
    others = [row(entry("random", keep), keep, 1.0, kept=keep) for keep in (7, 8, 9, 10)]
    again = row(entry("random", 9, seed=3), 11, 1.0, kept=9)
    for one in (late, *others, again):
        one.tokens["llm_average"] = one.tokens["pre_llm"] - (0.25 if one is late else 0.0)
    _, (judged, *_) = results(late, *others, again)
    assert judged.versus_random is not None
    assert judged.versus_random.value == pytest.approx((28 - (31 + 29) / 2) / 40)
    assert judged.seeds == 2
    late.tokens["llm_average"] = 11.0
    assert results(late, *others, again)[1][0].versus_random is None


@pytest.mark.parametrize(
    ("versus", "total", "says"),
    [
        (None, Interval(0.9, 0.8, 1.1), []),
        (Interval(0.0, -0.1, 0.1), Interval(1.0, 1.0, 1.0), []),
        (
            Interval(-0.1, -0.2, 0.0),
            Interval(0.5, 0.4, 0.6),
            ["worse than keeping random tokens, though the interval includes 0"],
        ),
        (None, Interval(1.2, 1.1, 1.3), ["slower than the dense model"]),
        (
            None,
            Interval(1.2, 0.9, 1.3),
            ["slower than the dense model, though the interval includes 1"],
        ),
    ],
)
def test_warnings(versus: Interval | None, total: Interval, says: list[str]) -> None:
    _, (result,) = results(row(entry("fopru", 8), 10, 1.0))
    run = replace(result.run, wall=[total.value] * 6, dense_wall=[1.0] * 6)
    told = warnings_of(run, Interval(0.5, 0.46, 0.54), versus, total, 40)
    assert list(told) == says


@pytest.mark.parametrize(
    ("wall", "says"),
    [
        ([0.6] * 7, []),
        ([0.6, 9.0], []),
        ([0.6] * 6 + [0.9], []),
        ([0.6] * 6 + [9.0], ["time / dense is 1.80 over all batches and 0.60 in the middle one"]),
        ([9.0] * 4 + [0.6] * 3, ["time / dense is 5.40 over all batches and 9.00 in the middle"]),
    ],
)
def test_a_time_that_a_few_batches_decide_is_said(wall: list[float], says: list[str]) -> None:
    _, (result,) = results(row(entry("fopru", 8), 10, 1.0))
    run = replace(result.run, wall=wall, dense_wall=[1.0] * len(wall))
    share = sum(wall) / len(wall)
    total = Interval(share, min(share, 0.9), share)
    told = warnings_of(run, Interval(0.5, 0.46, 0.54), None, total, 40)
    uneven = [one for one in told if "slower" not in one]
    assert len(uneven) == len(says)
    assert all(one.startswith(said) for one, said in zip(uneven, says, strict=True))


@pytest.mark.parametrize(("rows", "lines"), [(5, 5), (6, 1)])
def test_times_of_many_rows_that_a_few_batches_decide_are_one_line(rows: int, lines: int) -> None:
    """On a busy machine that is nearly every row, each with numbers of its own."""
    _, (result,) = results(row(entry("fopru", 8), 10, 1.0))
    uneven = []
    for number in range(rows):
        run = replace(result.run, wall=[0.6] * 6 + [9.0 + number], dense_wall=[1.0] * 7)
        share = sum(run.wall) / 7
        total = Interval(share, 0.9, share)
        told = warnings_of(run, Interval(0.5, 0.46, 0.54), None, total, 40)
        uneven.append(replace(result, run=run, warnings=told))
    said = [line for line in gathered(uneven) if "in the middle one" in line[1]]
    said += [line for line in gathered(uneven) if "off that of the middle one" in line[1]]
    assert len(said) == lines
    assert len({*notes(uneven)}) == lines
    assert (said[0][0] == "every row") is (lines == 1)


def test_a_few_batches_and_pictures_are_sure_of_nothing() -> None:
    """All resamples of one batch are this batch."""
    _, (result,) = results(row(entry("fopru", 8), 10, 1.0))
    worse, slower = Interval(-1.0, -1.0, -1.0), Interval(1.2, 1.2, 1.2)
    for batches, times in ((1, "1 batch"), (5, "5 batches")):
        run = replace(result.run, wall=[1.2] * batches, dense_wall=[1.0] * batches)
        told = warnings_of(run, Interval(0.5, 0.46, 0.54), worse, slower, 5)
        assert list(told) == [
            "worse than keeping random tokens, though answers to 5 pictures have no 95 % interval",
            f"slower than the dense model, though times of {times} have no 95 % interval",
        ]
    for batches in (1, 5, 6):
        run = replace(result.run, wall=[1.2] * batches, dense_wall=[1.0] * batches)
        (found,) = Judge(Samples(range(N), [""] * N), [run]).results()
        assert found.total.value == pytest.approx(1.2)
        assert found.total.bounded is (batches == 6)


@pytest.mark.parametrize(
    ("share", "images", "says"),
    [
        (
            1.0,
            40,
            "all answers are right, so the interval is empty; with these 40 pictures up to 8%",
        ),
        (
            0.0,
            40,
            "all answers are wrong, so the interval is empty; with these 40 pictures up to 8%",
        ),
        (0.0, 1, "all answers are wrong, so the interval is empty; with this picture up to 100%"),
        (
            1.0,
            24,
            "all answers are right, so the interval is empty; with these 24 pictures up to 13%",
        ),
        (0.5, 40, "50% of the answers are right of every picture, so the interval is empty"),
        (0.5, 1, "50% of the answers are right of the only picture, so the interval is empty"),
    ],
)
def test_why_an_interval_is_empty(share: float, images: int, says: str) -> None:
    _, (result,) = results(row(entry("fopru", 8), 10, 1.0))
    accuracy = Interval(share, share, share)
    (told,) = warnings_of(result.run, accuracy, None, Interval(0.5, 0.5, 0.5), images)
    assert told.startswith(says)


def checked(*rows: Measured, idle_wrong: int = 4) -> list[str]:
    idle = row(Entry("dense", load_plan({"schema_version": 1})), idle_wrong, 2.0)
    return failed_checks(Measurement(row(None, 4, 2.0), idle, list(rows)), host().strategies)


def test_counts_that_miss_the_plan_fail() -> None:
    assert checked(row(entry("fopru", 8), 4, 1.0, kept=8)) == []
    (failure,) = checked(row(entry("fopru", 8), 4, 1.0, kept=9))
    assert failure == "fopru 8: pre_llm measured 9.0, the plan says 8."


def test_an_idle_attachment_that_changes_answers_fails() -> None:
    (failure,) = checked(idle_wrong=5)
    assert "answers differently" in failure


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([("pre_llm", "fopru", 8, None)], {"pre_llm": 8}),
        ([("pre_llm", "fopru", 0.3, None)], {"pre_llm": 10}),
        ([("encoder", "tome", 20, None), ("decoder", "fastv", 0.5, 2)],
         {"encoder": 20, "decoder[2]": 10}),
        ([("encoder", "ipcv", 9, None), ("pre_llm", "fopru", 0.5, None)],
         {"encoder_inside": 9, "pre_llm": 18}),
        ([("decoder", "fastv", {"average": 20}, 2)], {}),
        ([], {}),
    ],
)  # fmt: skip
def test_expected_counts(stages: list[Any], expected: dict[str, int]) -> None:
    data = [
        {"at": at, "strategy": name, "keep": keep} | ({} if layer is None else {"layer": layer})
        for at, name, keep, layer in stages
    ]
    plan = load_plan({"schema_version": 1, "stages": data})
    assert expected_tokens(Entry("x", plan), 36, host().strategies) == expected


def test_a_layer_that_the_plan_leaves_open_is_the_one_measured() -> None:
    stages = [
        {"at": "decoder", "strategy": "fastv", "keep": 20, "layer": 2},
        {"at": "decoder", "strategy": "vscan", "keep": 9},
    ]
    plan = load_plan({"schema_version": 1, "stages": stages})
    measured = {"decoder[12]": 9.0, "llm": 36.0, "decoder[2]": 20.0}
    found = expected_tokens(Entry("x", plan), 36, host().strategies, measured)
    assert found == {"decoder[2]": 20, "decoder[12]": 9}
    none = expected_tokens(Entry("x", plan), 36, host().strategies, {"llm": 36.0})
    assert none["decoder[None]"] == 9  # measured nowhere, which is a failure


def test_of_a_strategy_of_several_layers_the_last_one_counts() -> None:
    measured = {"decoder[1]": 17.0, "decoder[2]": 8.0, "decoder[3]": 4.0, "llm": 36.0}
    for keep, expected in ((4, {"decoder[3]": 4}), (0.125, {}), (None, {})):
        stage = {"at": "decoder", "strategy": "pyramiddrop", "keep": keep}
        plan = load_plan({"schema_version": 1, "stages": [stage]})
        assert expected_tokens(Entry("x", plan), 36, host().strategies, measured) == expected
    ceiling = {"at": "decoder", "strategy": "feather", "keep": 9}  # it may leave fewer
    plan = load_plan({"schema_version": 1, "stages": [ceiling]})
    assert expected_tokens(Entry("x", plan), 36, host().strategies, measured) == {}
    entry = strategy_entry(host().strategies["pyramiddrop"], 4, "decoder", layers=32)
    assert entry.plan.stages[0].layer is None
    assert entry.meaning == "tokens from the last of its LLM layers on; more before it"


def test_ratios_of_a_video_are_rounded_over_all_of_its_frames() -> None:
    stages = [
        {"at": "encoder", "strategy": "tome", "keep": 0.7},
        {"at": "pre_llm", "strategy": "random", "keep": 0.3},
        {"at": "decoder", "strategy": "fastv", "keep": 0.5, "layer": 2},
    ]
    plan = load_plan({"schema_version": 1, "images": "frames", "stages": stages})
    # 8 frames: 25 each; 60 of 200; 30 of 60
    measured = {"encoder": 25.0, "pre_llm": 7.5, "decoder[2]": 3.75}
    found = expected_tokens(Entry("x", plan), 36, host().strategies, measured)
    assert found == {"encoder": 25, "pre_llm": 7.5, "decoder[2]": 3.75}
    alone = load_plan({"schema_version": 1, "images": "frames", "stages": stages[1:2]})
    counted = Measured(Entry("x", alone), tokens={"patches": 35.0, "pre_llm": 31 / 3})
    checked = Measurement(Measured(None), Measured(None), [counted])
    assert failed_checks(checked, host().strategies) == []  # 31 of 3 frames of 35
    counted.tokens["pre_llm"] = 28 / 3
    assert len(failed_checks(checked, host().strategies)) == 1
