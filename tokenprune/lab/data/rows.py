"""The one reader of rows: lines of files, objects on lines, and what may stand in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError
from tokenprune.errors.files import is_file, read_text, reason
from tokenprune.errors.words import kind_of

#: Endings of files that are tables, and what stands between their values.
TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class DataRow:
    """One row with its place.

    Attributes:
        data: its values by name.
        where: file and line, for errors.
        usage: the form that a row has, for errors.
        columns: of the table that it stands in, those without a value here too.
    """

    data: Mapping[str, Any]
    where: str
    usage: str = ""
    columns: Sequence[str] = ()

    def text(self, key: str, default: str | None = None) -> str:
        """A text; nothing else is turned into one.

        Args:
            key: its name.
            default: what a row without it has; None: it is needed.

        Raises:
            DataError: it is missing, no text, or none that can be written as UTF-8.
        """
        if self.data.get(key) is None and default is not None:
            return default
        if key not in self.data:
            raise DataError(f"there is no '{key}'.", where=self.where, remedy=self.usage)
        return _text(self.data[key], f"'{key}'", self)

    def answers(self, key: str = "answer") -> tuple[str, ...]:
        """The right answers, one or more, in order; the same one may stand several times.

        They are a text or a list of texts, or, as data sets with answers of several people have
        them, a list of objects with an `answer` each.

        Args:
            key: where they stand.

        Raises:
            DataError: there are none, or something is no text.
        """
        if key not in self.data:
            raise DataError(f"there is no '{key}'.", where=self.where, remedy=self.usage)
        given = self.data[key]
        if isinstance(given, Mapping):  # one object of lists, as `datasets` gives lists of objects
            given = given.get("answer", given)
        several = list(given) if isinstance(given, list | tuple) else [given]
        if not several:
            raise DataError(f"'{key}' names none.", where=self.where, remedy=self.usage)
        values = [one.get("answer") if isinstance(one, Mapping) else one for one in several]
        return tuple(_text(value, f"'{key}'", self) for value in values)

    def file(self, folder: Path, name: str, what: str, elsewhere: str = "") -> Path:
        """A file that the row names.

        Args:
            folder: what names are relative to.
            name: the file.
            what: what errors call it.
            elsewhere: what names another folder, for errors.

        Raises:
            DataError: there is none of that name.
        """
        path = folder / name
        if not is_file(path):
            another = f"; another folder is named by {elsewhere}" if elsewhere else ""
            shown = name if len(name) <= 200 else f"{name[:200]}..."
            raise DataError(
                f"there is no {what} '{shown}'.",
                where=self.where,
                remedy=f"Names are relative to '{folder}'{another}.",
            )
        return path


def read_rows(path: Path, what: str, usage: str) -> Iterator[DataRow]:
    """The rows of a file with one JSON object a line, or of a table; empty lines are passed over.

    Args:
        path: the file, in UTF-8, with or without a byte-order mark. Lines end with LF, CRLF or
            CR; the other line ends of Unicode are part of a text, as in JSON. A file that ends in
            `.csv` or `.tsv` is a table: its first line names the columns, in letters of any case,
            and all values are texts, or lists of texts as JSON writes them. Spaces around a value
            are passed over.
        what: what errors call its rows.
        usage: the form of a row, for errors.

    Raises:
        DataError: the file can't be read, or a line is no JSON object or doesn't fit the columns;
            names file and line.
    """
    if path.suffix.lower() in TABLES:
        yield from read_table(path, what, usage)
        return
    for number, line in enumerate(read_lines(path, what), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield DataRow(_object(line, where, usage), where, usage)


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a file of text, without their ends.

    Args:
        path: see `read_rows`.
        what: what errors call its lines.

    Raises:
        DataError: it can't be read.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        encoded = isinstance(error, UnicodeDecodeError)
        raise DataError(
            f"the {what} can't be read ({reason(error)}).",
            where=str(path)[:400],
            remedy="Save it as text in UTF-8, of a spreadsheet as CSV." if encoded else "",
        ) from error
    return text.removesuffix("\n").split("\n") if text else []


def read_table(path: Path, what: str, usage: str) -> Iterator[DataRow]:
    """The rows of a table whatever its file ends in; empty cells count as missing.

    Args:
        path: see `read_rows`.
        what: what errors call its rows.
        usage: the form of a row, for errors.

    Raises:
        DataError: see `read_rows`.
    """
    lines = [f"{line}\n" for line in read_lines(path, what)]
    separator = TABLES.get(path.suffix.lower(), ",")
    if separator == "," and lines and "," not in lines[0]:
        # as spreadsheets write where the comma stands in numbers, or what was copied out of one
        separator = next((one for one in (";", "\t") if one in lines[0]), separator)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    columns: list[str] = []
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not columns:
                columns = [name.strip().lower() for name in cells]
                if len({*columns}) < len(columns):
                    raise DataError("two columns have one name.", where=where, remedy=usage)
                first = f"The first line names the columns, here {', '.join(columns)}"
                usage = f"{first}; they are called as the keys of JSON lines. {usage}"
            elif len(cells) > len(columns):
                found = f"there are {len(cells)} values in {len(columns)} columns."
                remedy = f"Put values that hold a '{separator}' into double quotes."
                raise DataError(found, where=where, remedy=remedy)
            else:
                named = zip(columns, map(str.strip, cells), strict=False)
                if row := {name: _listed(cell, where) for name, cell in named if cell}:
                    yield DataRow(row, where, usage, columns)
    except csv.Error as error:
        raise DataError(
            f"the line is no row of a table ({error}).", where=f"{path}:{reader.line_num}"
        ) from error


def _listed(cell: str, where: str) -> str | list[str]:
    """A cell, or the list of texts that it holds: as one text, no answer would equal it.

    Raises:
        DataError: the list is one of Python's or numpy's.
    """
    try:
        found = json.loads(cell) if cell.startswith('["') else cell
    except (ValueError, RecursionError):
        found = cell
    if cell.startswith("['") and cell.endswith("']"):
        raise DataError(
            f"'{cell[:80]}' is a list in Python's form.",
            where=where,
            remedy='Write lists of texts as JSON does: ["a", "b"], within a CSV as '
            '"[""a"", ""b""]".',
        )
    texts = isinstance(found, list) and all(isinstance(one, str) for one in found)
    return found if texts else cell


def _object(line: str, where: str, usage: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except RecursionError as error:
        raise DataError("the line is nested too deeply.", where=where, remedy=usage) from error
    except ValueError as error:
        remedy = f"{usage} Tables are files that end in {' or '.join(TABLES)}."
        raise DataError(f"the line is no JSON ({error}).", where=where, remedy=remedy) from error
    if not isinstance(row, dict):
        found = f"the line is no object, but {kind_of(row)}."
        form = "Every line is an object of its own. " if isinstance(row, list) else ""
        raise DataError(found, where=where, remedy=form + usage)
    return row


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object, of which no key stands twice: the last would count, and the first be ignored."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"'{key}' stands in it twice")
        found[key] = value
    return found


def _text(value: Any, name: str, row: DataRow) -> str:
    if not isinstance(value, str):
        raise DataError(
            f"{name} has to be a text, and this is {kind_of(value)}.",
            where=row.where,
            remedy='Write texts in quotes, numbers too: "3".' if not row.usage else row.usage,
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} holds half of a surrogate pair, which is no character.", where=row.where
        ) from error
    return value
