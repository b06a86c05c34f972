"""What stands inside a file: its columns, their types, and the SQL that reads them.

Files of one layout are read by one DuckDB table function. CSV is always read as text with a delimiter taken from the
header; nothing is sniffed, so that the same file is read the same way whatever its values are. tests/test_events.py.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from trainer.errors import EventsError, EventsUnreadable
from trainer.sources import Form, SourceFile

_DELIMITERS = ",;\t|"
_MAX_LINE_BYTES = 1 << 24
_UNUSED_DELIMITER = "\x01"
_NO_PARTITIONS = "hive_partitioning = false"
"""A directory called item_id=7 must not overwrite what the file says."""
_RATING_COLUMNS = ("user", "item", "rating", "timestamp")


@dataclass(frozen=True)
class Layout:
    """Files that one table function reads: `columns` maps names to DuckDB types ("VARCHAR" in CSV, "JSON" in JSON).

    `headerless` files are those of the public leaderboards: their columns are `user`, `item`, perhaps `rating` and
    `timestamp`, whatever the caller calls his own. `delimiter` None is the form "one user a line, then its items".
    """

    form: Form
    columns: Mapping[str, str]
    files: tuple[SourceFile, ...]
    delimiter: str | None = None
    headerless: bool = False

    @property
    def text(self) -> bool:
        """Whether values come as text, so that an integer column with holes may stand there as 17850.0."""
        return self.form in (Form.CSV, Form.TEXT)

    def admitting(self, names: Iterable[str]) -> Layout:
        """As this, but records may have these keys too: a JSON record names only what it knows."""
        if self.form not in (Form.JSON, Form.JSONL):
            return self
        known = {name.lower() for name in self.columns}  # to DuckDB, Price and price are one name
        added = [name for name in names if name.lower() not in known]
        return replace(self, columns=dict.fromkeys([*self.columns, *added], "JSON"))

    def from_sql(self) -> str:
        """The relation to select from."""
        files = "[" + ", ".join(quoted(glob_escaped(str(file.path))) for file in self.files) + "]"
        columns = ", ".join(f"{quoted(name)}: {quoted(type_)}" for name, type_ in self.columns.items())
        match self.form:
            case Form.PARQUET:
                return f"read_parquet({files}, binary_as_string = true, {_NO_PARTITIONS})"
            case Form.JSON | Form.JSONL:
                layout = "auto" if self.form is Form.JSON else "newline_delimited"
                return f"read_json({files}, format = '{layout}', columns = {{{columns}}}, {_NO_PARTITIONS})"
            case Form.CSV:
                header, quote = not self.headerless, "" if self.headerless else '"'
                return _read_csv(files, columns, self.delimiter or ",", header, quote)
            case Form.TEXT:
                lines = _read_csv(files, "'line': 'VARCHAR'", _UNUSED_DELIMITER, False, "")
                words = "list_filter(string_split(replace(line, chr(9), ' '), ' '), lambda word: word <> '')"
                words = f"SELECT {words} AS words FROM {lines}"
                return f'(SELECT words[1] AS "user", unnest(words[2:]) AS item FROM ({words}))'


def layouts_of(
    connection: duckdb.DuckDBPyConnection, files: Iterable[SourceFile], wanted: Sequence[str], events: bool = True
) -> list[Layout]:
    """The layouts of the files, those of one layout together, in a fixed order.

    `wanted` are the names of the needed columns, user and item first: they tell the delimiter, and whether a file
    without a known ending has a header. With `events` false (an items file) such a file is a CSV and nothing else,
    every record is asked for its keys, and files are kept apart, since the last row of an item counts.
    """
    if not events:
        return [_layout_of(connection, file, wanted, events) for file in files]
    grouped: dict[tuple[Any, ...], Layout] = {}
    for file in files:
        layout = _layout_of(connection, file, wanted, events)
        key = (layout.form, layout.delimiter, layout.headerless, tuple(layout.columns.items()))
        before = grouped[key].files if key in grouped else ()
        grouped[key] = replace(layout, files=(*before, file))
    return list(grouped.values())


def _layout_of(connection: duckdb.DuckDBPyConnection, file: SourceFile, wanted: Sequence[str], events: bool) -> Layout:
    if file.form is Form.PARQUET:
        return Layout(file.form, _described(connection, Layout(file.form, {}, (file,))), (file,))
    if file.form in (Form.JSON, Form.JSONL):
        return Layout(file.form, dict.fromkeys(_json_columns(connection, file, wanted, events), "JSON"), (file,))
    line = file.first_line()
    names, delimiter = _header(file, line, wanted)
    if file.form is Form.CSV or not events or all(name in names for name in wanted[:2]):
        return Layout(Form.CSV, dict.fromkeys(names, "VARCHAR"), (file,), delimiter)
    fields = line.split("\t")
    if 3 <= len(fields) <= 4 and _is_number(fields[2]):
        columns = dict.fromkeys(_RATING_COLUMNS[: len(fields)], "VARCHAR")
        return Layout(Form.CSV, columns, (file,), "\t", headerless=True)
    if not all(word.isdecimal() for word in line.split()):
        # A header that lacks a name, or prose: whose words must not become items. The names are found missing later.
        return Layout(Form.CSV, dict.fromkeys(names, "VARCHAR"), (file,), delimiter)
    return Layout(Form.TEXT, {"user": "VARCHAR", "item": "VARCHAR"}, (file,), headerless=True)


def _header(file: SourceFile, line: str, wanted: Sequence[str]) -> tuple[list[str], str]:
    """Column names and delimiter: the delimiter under which most wanted names are seen, then most names."""

    def names_by(delimiter: str) -> list[str]:
        try:
            return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
        except csv.Error:  # a quote that closes before what is no delimiter here
            return []

    best = max(_DELIMITERS, key=lambda each: (sum(n in wanted for n in names_by(each)), len(names_by(each))))
    found = names_by(best)
    if line and (not found or ('"' in "".join(found) and not any(name in wanted for name in found))):
        raise EventsUnreadable(f"{file.path}: the header {line[:60]!r} is malformed; is its quoting closed?")
    unique: list[str] = []
    for position, name in enumerate(found):
        name = name or f"column {position + 1}"
        while name.lower() in (before.lower() for before in unique):
            name += " again"
        unique.append(name)
    return unique, best


def _json_columns(
    connection: duckdb.DuckDBPyConnection, file: SourceFile, wanted: Sequence[str], sampled: bool
) -> list[str]:
    """The keys of the records: of a sample if `sampled`, and of all of them where that lacks what is wanted."""
    layout = "auto" if file.form is Form.JSON else "newline_delimited"
    path = quoted(glob_escaped(str(file.path)))
    keys: list[str] = []
    with reading([file]):
        for sample in (20_480, -1) if sampled else (-1,):
            # Without the threshold, records of many or sparse keys become one column of type MAP.
            looking = f"sample_size = {sample}, maximum_depth = 1, map_inference_threshold = -1, {_NO_PARTITIONS}"
            relation = f"read_json({path}, format = '{layout}', {looking})"
            keys = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
            if all(name in keys for name in wanted):
                break
    if keys == ["json"] and "json" not in wanted:  # how DuckDB calls a record without keys
        raise EventsUnreadable(f"{file.path} holds a record that is no JSON object; expected objects, one a line")
    return keys


def _described(connection: duckdb.DuckDBPyConnection, layout: Layout) -> dict[str, str]:
    with reading(layout.files):
        rows = connection.execute(f"DESCRIBE SELECT * FROM {layout.from_sql()}").fetchall()
    return {row[0]: row[1] for row in rows}


@contextmanager
def reading(files: Sequence[SourceFile] = ()) -> Iterator[None]:
    """Turns what DuckDB says into EventsUnreadable that names the file, or EventsError where memory or disk ran out."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except duckdb.OutOfMemoryException as error:
        raise EventsError(
            f"the events do not fit in the memory allowed for reading ({_shortened(str(error))}); allow more memory, "
            "use fewer threads, or set TMPDIR to a directory with more free space"
        ) from None
    except (duckdb.Error, UnicodeError) as error:
        message = str(error)
        named = [file for file in files if str(file.path) in message] or files
        if not named:
            raise EventsError(f"the events could not be worked on: {_shortened(message)}") from None
        where = str(named[0].path) if len(named) == 1 else f"one of {len(named)} files ({named[0].path}, ...)"
        raise EventsUnreadable(f"{where} is cut, corrupt or malformed: {_shortened(message)}") from None


def _shortened(message: str) -> str:
    """DuckDB's message up to its hints for programmers, on one line, at most 300 characters."""
    for hint in ("Possible fixes", "Possible solution", "Try setting", "LINE 1:", "  file ="):
        message = re.split(re.escape(hint), message, maxsplit=1, flags=re.IGNORECASE)[0]
    message = " ".join(message.replace("\0", "\\0").split())
    return message if len(message) <= 300 else message[:300] + "..."


def _read_csv(files: str, columns: str, delimiter: str, header: bool, quote: str) -> str:
    return (
        f"read_csv({files}, columns = {{{columns}}}, auto_detect = false, header = {str(header).lower()}, "
        f"delim = {quoted(delimiter)}, quote = {quoted(quote)}, escape = {quoted(quote)}, comment = '', nullstr = '', "
        f"strict_mode = true, max_line_size = {_MAX_LINE_BYTES}, {_NO_PARTITIONS})"
    )


def quoted(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def glob_escaped(path: str) -> str:
    """A path that DuckDB takes literally: it expands globs in every name it is given."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
