"""What the kit found: one row for each demand and stage, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from tokenprune.errors import TokenpruneError, words
from tokenprune.errors.raised import raised

T = TypeVar("T")

Status = Literal["pass", "fail", "does not apply"]


class DoesNotApplyError(Exception):
    """A demand that can't be put to a strategy or an adapter; the message says why."""


@dataclass(frozen=True)
class Row:
    """One demand on a strategy at one stage, or on an adapter.

    Attributes:
        key: short name, the same in every version.
        at: the stage, or `model`.
        demand: what must hold.
        status: whether it does.
        note: the fault, or why the demand doesn't apply.
    """

    key: str
    at: str
    demand: str
    status: Status
    note: str = ""

    @classmethod
    def of(cls, key: str, at: str, check: Callable[[T], str], subject: T, *kinds: type) -> Row:
        """The row of a check: what it raises is a fault, too.

        Args:
            key: short name.
            at: the stage, or `model`.
            check: gives the fault in words, or nothing; the first line of its docstring is the
                demand.
            subject: what is checked.
            *kinds: classes whose own code may be to blame for what is raised.
        """
        demand = demand_of(check)
        try:
            fault = check(subject)
        except DoesNotApplyError as reason:
            return cls(key, at, demand, "does not apply", str(reason))
        except TokenpruneError as error:
            fault = error.message
        except Exception as error:  # whatever a strategy or an adapter raises
            fault = raised(error, *kinds)
        return cls(key, at, demand, "fail" if fault else "pass", fault)


def demand_of(check: Callable[..., str]) -> str:
    """What a check demands, in words."""
    return (check.__doc__ or "").partition("\n")[0]


@dataclass(frozen=True)
class Report:
    """All rows of one strategy or adapter.

    Attributes:
        name: its name.
        rows: one for each demand, of a strategy at each stage.
    """

    name: str
    rows: Sequence[Row]

    @property
    def failed(self) -> list[Row]:
        """Rows that must hold and don't."""
        return [row for row in self.rows if row.status == "fail"]

    def row(self, key: str, at: str = "model") -> Row:
        """The row of a demand on a strategy at a stage, or on an adapter."""
        return next(row for row in self.rows if (row.key, row.at) == (key, at))

    def require(self) -> None:
        """Raise if a row fails; for tests.

        Raises:
            AssertionError: every fault in a line of its own.
        """
        if self.failed:
            raise AssertionError(str(self))

    def data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rows = [asdict(row) for row in self.rows]
        return {"name": self.name, "passed": not self.failed, "rows": rows}

    def __str__(self) -> str:
        """The verdict, and every fault in a line of its own."""
        held = sum(row.status == "pass" for row in self.rows)
        verdict = f"{self.name}: {words.verdict(held, len(self.failed))}"
        return "\n".join([verdict, *(f"  {row.at}, {row.key}: {row.note}" for row in self.failed)])
