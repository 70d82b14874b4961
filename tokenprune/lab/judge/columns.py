"""The columns of results, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenprune.lab.judge.result import Result
from tokenprune.lab.measure.statistics import Interval

Value = Interval | float | str | None

#: Stages of a call in order.
STAGES = ("encode", "select", "project", "prefill", "decode")

#: What the engine counts tokens at, in words.
COUNTED = {
    "patches": "patches",
    "units": "units",
    "encoder_inside": "last block",
    "encoder": "encoder out",
    "pre_llm": "kept before the LLM",
    "llm": "LLM in",
    "llm_average": "LLM mean",
}


def counted(key: str) -> str:
    """Where tokens were counted, in words: `decoder[2]` as `LLM layer 2`."""
    stage, _, number = key.rstrip("]").partition("[")
    words = {"decoder": "LLM layer", "text": "text, LLM layer"}
    if number and stage in words:
        return f"{words[stage]} {number}"
    return COUNTED.get(key, key)


#: Of a stage that takes less of the dense time no share is shown (ours).
BRIEF = 0.01

#: What stands for a number that there isn't, such as a share of a dense accuracy of 0.
NONE = "-"


@dataclass(frozen=True)
class Form:
    """How numbers are written.

    Attributes:
        people: format for people.
        programs: format for programs.
        factor: by which numbers for people are multiplied.
        unit: of numbers for people.
        least: what people are told of smaller numbers is that they are smaller than this one.
    """

    people: str
    programs: str
    factor: float = 1.0
    unit: str = ""
    least: float | None = None

    def shown(self, value: float) -> str:
        """A number for people."""
        if math.isnan(value):
            return NONE
        if self.least is not None and value < self.least:
            return f"< {self.factor * self.least:{self.people}}"
        return f"{self.factor * value:{self.people}}"


SHARE = Form(".1f", ".4f", 100.0, "%")
POINTS = Form("+.1f", "+.4f", 100.0, "points")
RATIO = Form(".2f", ".3f")
P_VALUE = Form(".3f", ".4g", least=0.001)
TOKENS = Form(".4g", ".1f")
NUMBER = Form(".4g", ".6g")
WHOLE = Form(".0f", ".0f")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: for both.
        value: what a row states there; None for nothing.
        form: how numbers are written.
        ends: headings of an interval's two ends, for programs.
        part: of a table that is split for narrow terminals; empty for columns that terminals leave
            to files.
        brief: whether terminals leave out the ends.
        wraps: whether terminals may break the cells.
    """

    heading: str
    value: Callable[[Result], Value]
    form: Form = NUMBER
    ends: tuple[str, str] | None = None
    part: str = ""
    brief: bool = False
    wraps: bool = False

    @property
    def title(self) -> str:
        """The heading for people."""
        return f"{self.heading}, {self.form.unit}" if self.form.unit else self.heading

    @property
    def headings(self) -> list[str]:
        """The headings for programs."""
        return [self.heading, *(self.ends or ())]

    def shown(self, result: Result, *, brief: bool = False) -> str:
        """A cell for people: one number, with its interval in brackets unless `brief`."""
        value = self.value(result)
        if value is None or isinstance(value, str):
            return value or ""
        if not isinstance(value, Interval):
            return self.form.shown(value)
        middle, low, high = map(self.form.shown, (value.value, value.low, value.high))
        return f"{middle} [{low} {high}]" if value.bounded and not brief else middle

    def cells(self, result: Result | None) -> list[str]:
        """The cells for programs, one a heading; empty ones without a result."""
        return [
            one or "" if one is None or isinstance(one, str) else format(one, self.form.programs)
            for one in self.values(result)
        ]

    def values(self, result: Result | None) -> Sequence[float | str | None]:
        """The same as they were computed."""
        value = None if result is None else self.value(result)
        if isinstance(value, Interval):
            ends = (value.low, value.high) if value.bounded else (None, None)
            return [value.value, *ends][: len(self.headings)]
        return [value, None, None][: len(self.headings)]


#: What every table of results states, in order.
RESULTS = (
    Column("accuracy", lambda row: row.accuracy, SHARE, ("low", "high"), "answers", brief=True),
    Column("of dense", lambda row: row.retention, SHARE,
           ("of dense low", "of dense high"), "answers"),
    Column("vs dense", lambda row: None if row.run.dense else row.difference, POINTS,
           ("vs dense low", "vs dense high")),
    Column("vs random", lambda row: row.versus_random, POINTS,
           ("vs random low", "vs random high"), "answers", brief=True),
    Column("McNemar p", lambda row: None if row.run.dense else row.mcnemar, P_VALUE),
    Column("same answers", lambda row: None if row.run.dense else row.agreement, SHARE,
           part="answers"),
    Column("tokens", lambda row: row.run.mean_tokens, TOKENS),
    Column("FLOPs / dense", lambda row: row.flops_ratio, RATIO, part="size"),
    Column("time / dense", lambda row: row.total, RATIO, ("time low", "time high"), "time",
           brief=True),
)  # fmt: skip

#: Further columns for programs.
MORE = (
    Column("random seeds", lambda row: row.seeds, WHOLE),
    Column("samples", lambda row: len(row.run.right), WHOLE),
    Column("peak bytes", lambda row: row.run.peak_bytes, WHOLE),
    Column("FLOPs samples", lambda row: row.run.counted or None, WHOLE),
    Column("GFLOPs", lambda row: row.run.flops / 1e9, Form(".4g", ".4f")),
)


def found_columns(results: Sequence[Result]) -> list[Column]:
    """Columns that depend on the results: stages, types of questions, metrics."""
    return [
        *_columns("tokens", results, _counts),
        *_columns("seconds", results, lambda row: row.run.seconds),
        *_columns("accuracy", results, lambda row: row.by_type, order=sorted),
        *_columns("metric", results, lambda row: row.metrics),
    ]


def token_columns(results: Sequence[Result]) -> list[Column]:
    """Tokens per image by stage, for terminals."""
    if any("llm" in row.tokens for row in results):
        counts = {counted(key): key for key in ("encoder", "llm", "llm_average")}
    else:
        counts = {"patches left": "encoder"}
    found = [Column(name, _tokens(key), TOKENS, part="size") for name, key in counts.items()]
    if any(row.lengths for row in results):
        found.append(Column("tokens of an image", _lengths, part="size", wraps=True))
    return found


def stage_columns(results: Sequence[Result]) -> list[Column]:
    """Times by stage as shares of dense, where measured and not brief, for people."""
    brief = brief_stages(results)
    shown = [stage for stage in _timed(results) if stage not in brief]
    return [Column(stage, _time(stage), RATIO, part="time") for stage in shown]


def brief_stages(results: Sequence[Result]) -> list[str]:
    """Stages on which dense spends next to nothing, so that a plan's share of it is noise.

    People aren't shown them; files for programs have the seconds.
    """
    return [stage for stage in _timed(results) if all(_part(row, stage) < BRIEF for row in results)]


def _timed(results: Sequence[Result]) -> list[str]:
    return [stage for stage in STAGES if any(row.time.get(stage) is not None for row in results)]


def _part(row: Result, stage: str) -> float:
    """Of the time of the dense call beside a row, what that stage takes."""
    return row.run.dense_seconds.get(stage, 0.0) / (sum(row.run.dense_wall) or 1.0)


def all_columns(results: Sequence[Result]) -> list[Column]:
    """Every column of terminals, and those that terminals leave to files, for people."""
    at = [column.heading for column in RESULTS].index("tokens")
    answers, costs = RESULTS[:at], RESULTS[at:]
    return [*answers, *token_columns(results), *costs, *stage_columns(results)]


def _counts(row: Result) -> dict[str, float]:
    return {counted(key): number for key, number in row.tokens.items()}


def _lengths(row: Result) -> str:
    """How far the token counts of a method that sets them itself lie apart, in words."""
    if row.lengths is None:
        return ""
    least, middle, most = (f"{row.lengths[key]:.3g}" for key in ("least", "middle", "most"))
    return f"{most} each" if least == most else f"{least} to {most}, median {middle}"


def _columns(
    what: str,
    results: Sequence[Result],
    read: Callable[[Result], Mapping[str, Interval] | Mapping[str, float]],
    order: Callable[[Iterable[str]], Iterable[str]] = list,
) -> list[Column]:
    keys = order(dict.fromkeys(key for row in results for key in read(row)))

    def value(key: str) -> Callable[[Result], Value]:
        return lambda row: read(row).get(key)

    return [Column(f"{what}: {key}", value(key)) for key in keys]


def _tokens(key: str) -> Callable[[Result], Value]:
    # of the model alone, what leaves the encoder is all that the later stages see
    return lambda row: row.tokens.get(key, row.tokens.get("encoder") if row.run.dense else None)


def _time(stage: str) -> Callable[[Result], Value]:
    return lambda row: row.time.get(stage)
