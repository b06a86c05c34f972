"""Events as a table of DuckDB: from files of any layout to one table with one meaning.

`stage_events` leaves a table `raw`: user_id, item_id, event, basket VARCHAR (NULL where missing), seconds, quantity,
price DOUBLE (NULL where missing, NaN where the value cannot be understood). Which of its rows are events at all is
decided in trainer.cleaning; here nothing is dropped. tests/test_events.py holds that every form gives the same table.
"""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb

from engine.errors import UsageError
from engine.ids import MAX_ID_BYTES
from trainer.errors import ColumnMissing, IdTooLong
from trainer.layouts import Layout, identifier, layouts_of, quoted, reading
from trainer.sources import find_files

DEFAULT_MEMORY_LIMIT = "2GB"
"""What DuckDB may hold before it spills to the temporary directory; benchmarks/ingest.py measures the whole process."""

_SPACES = "".join(c for c in map(chr, range(0x3001)) if c.isspace())
_UNITS = (("1e17", "1e9"), ("1e14", "1e6"), ("1e11", "1e3"))
_WHOLE_NUMBER = r"-?(0|[1-9][0-9]*)(\.0)?"
_NUMERIC_TYPES = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
)
"""How the names of DuckDB's types for numbers begin."""

Step = Callable[[str], None]


@dataclass(frozen=True)
class EventColumns:
    """How the columns are called in the files. Only user and item must be there.

    Another column may be absent under its default name, but one that the caller named must be in every file. Times are
    timestamps, ISO 8601 text (UTC where it names no zone), or unix time in seconds; numbers from 1e11 on are
    milliseconds, from 1e14 microseconds, from 1e17 nanoseconds (as seconds, 1e11 would be the year 5138). A missing
    quantity is 1.
    """

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str = "timestamp"
    event: str = "event"
    quantity: str = "quantity"
    price: str = "price"
    basket: str = "basket_id"

    def needed(self) -> list[str]:
        """User and item, and what the caller named himself."""
        named = [getattr(self, each.name) for each in fields(self)[2:] if getattr(self, each.name) != each.default]
        return [self.user, self.item, *named]


@contextmanager
def open_workspace(threads: int, memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own, which spills to a temporary directory that is gone afterwards and never asks the network."""
    if threads < 0:
        raise UsageError(f"threads is {threads}; expected 0 for all cores, or a number of threads")
    with tempfile.TemporaryDirectory(prefix="nearcart-ingest-", ignore_cleanup_errors=True) as directory:
        config: dict[str, Any] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": memory_limit,
            "temp_directory": str(Path(directory) / "spill"),
            "preserve_insertion_order": False,
            "arrow_large_buffer_size": True,
        }
        if threads:
            config["threads"] = threads
        try:
            connection = duckdb.connect(":memory:", config=config)
        except duckdb.Error as error:
            raise UsageError(f"the memory limit {memory_limit!r} was refused ({error}); expected such as 2GB") from None
        with _interrupts_kept(), connection, reading():
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")
            yield connection


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Ctrl-C ends the work at the end of this at the latest: some calls of DuckDB swallow the exception it raises."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous, interrupted = signal.getsignal(signal.SIGINT), threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception:
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupted.is_set():
        raise KeyboardInterrupt


def stage_events(
    connection: duckdb.DuckDBPyConnection,
    sources: Sequence[str],
    columns: EventColumns,
    step: Step,
    timestamp_format: str = "",
) -> None:
    """Read every file that `sources` name into the table `raw`; times in text are of `timestamp_format`, if given.

    Raises EventsUnreadable, ColumnMissing, and IdTooLong for an id over engine.ids.MAX_ID_BYTES or with a NUL byte.
    """
    if timestamp_format:
        try:
            connection.execute("SELECT try_strptime('', ?)", [timestamp_format])
        except duckdb.Error as error:
            raise UsageError(
                f"the timestamp format {timestamp_format!r} was refused ({error}); expected such as %d.%m.%Y %H:%M"
            ) from None
    files = find_files(sources, lambda file: step(f"checking {file.path}") if file.compression else None)
    connection.execute(
        "CREATE OR REPLACE TABLE raw (user_id VARCHAR, item_id VARCHAR, event VARCHAR, basket VARCHAR, "
        "seconds DOUBLE, quantity DOUBLE, price DOUBLE, loose BOOLEAN)"
    )
    layouts = layouts_of(connection, files, columns.needed())
    names = [getattr(columns, each.name) for each in fields(columns)]
    for layout in layouts:
        _check_columns(layout, columns)
    for layout in layouts:
        step(f"reading {_told(layout)}")
        with reading(layout.files):
            sql = _event_sql(layout.admitting(names), columns, timestamp_format)
            connection.execute(f"INSERT INTO raw BY NAME {sql}")
    for role in ("user", "item"):
        check_ids(connection, "raw", f"{role}_id", getattr(columns, role))
        close_holes(connection, "raw", f"{role}_id")


def check_ids(connection: duckdb.DuckDBPyConnection, table: str, column: str, name: str) -> None:
    """Raises IdTooLong where a column of ids holds one that no release can hold; `name` is what the file calls it."""
    found = connection.execute(
        f"SELECT {column}, strlen({column}) AS n_bytes, contains({column}, chr(0)) AS holds_nul FROM {table} "
        f"WHERE n_bytes > {MAX_ID_BYTES} OR holds_nul ORDER BY 1 LIMIT 1"
    ).fetchone()
    if found is None:
        return
    id_, n_bytes, holds_nul = found
    shown = repr(id_[:40]) + ("..." if len(id_) > 40 else "")
    trouble = (
        "holds a NUL byte" if holds_nul else f"has {n_bytes:,} bytes of UTF-8, more than the allowed {MAX_ID_BYTES}"
    )
    raise IdTooLong(f'column "{name}": the id {shown} {trouble}; is it the right column?')


def _check_columns(layout: Layout, columns: EventColumns) -> None:
    if layout.headerless:
        return
    for each in fields(columns):
        name = getattr(columns, each.name)
        if name in columns.needed() and name not in layout.columns:
            raise ColumnMissing(
                f'{layout.files[0].path} has no column "{name}" for the {each.name}; found: '
                f"{', '.join(layout.columns) or 'none'}; name the right one with --{each.name}-column"
            )


def _told(layout: Layout) -> str:
    count = len(layout.files)
    return str(layout.files[0].path) if count == 1 else f"{count} files ({layout.form.value})"


def _event_sql(layout: Layout, columns: EventColumns, timestamp_format: str) -> str:
    """SELECT in the names and types of `raw`."""

    def name_of(role: str) -> str | None:
        name = role if layout.headerless else getattr(columns, role)
        return name if name in layout.columns else None

    def value(role: str, sql_of: Callable[[Layout, str], str], type_: str) -> str:
        name = name_of(role)
        return f"NULL::{type_}" if name is None else sql_of(layout, name)

    def seconds(layout: Layout, name: str) -> str:
        return seconds_sql(layout, name, timestamp_format)

    return f"""
        SELECT {value("user", text_sql, "VARCHAR")} AS user_id,
               {value("item", text_sql, "VARCHAR")} AS item_id,
               {value("event", text_sql, "VARCHAR")} AS event,
               {value("basket", text_sql, "VARCHAR")} AS basket,
               {value("timestamp", seconds, "DOUBLE")} AS seconds,
               {value("quantity", number_sql, "DOUBLE")} AS quantity,
               {value("price", number_sql, "DOUBLE")} AS price,
               {str(layout.text).lower()} AS loose
        FROM {layout.from_sql()}"""


def text_sql(layout: Layout, name: str) -> str:
    """A column as text, NULL where blank; whole numbers without a fraction, whatever type holds them."""
    column, type_ = identifier(name), layout.columns[name]
    if type_ in ("FLOAT", "DOUBLE"):
        return (
            f"CASE WHEN isnan({column}) THEN NULL WHEN {column} = trunc({column}) AND abs({column}) < 1e18 "
            f"THEN {column}::HUGEINT::VARCHAR ELSE {column}::VARCHAR END"
        )
    text = f"{column}::VARCHAR"
    if type_ == "JSON":
        text = f"({column} ->> '$')"
        text = rf"CASE json_type({column}) WHEN 'DOUBLE' THEN regexp_replace({text}, '\.0$', '') ELSE {text} END"
    elif type_.startswith("DECIMAL"):
        text = rf"regexp_replace({text}, '\.0+$', '')"
    # trim is slow with so many characters: ask it only where the first one is not a printable one of ASCII.
    printable, blank = f"{text} >= '!' AND {text} < chr(127)", f"trim({text}, {quoted(_SPACES)}) = ''"
    return f"CASE WHEN {printable} THEN {text} WHEN NOT {blank} THEN {text} END"


def is_numeric(type_: str) -> bool:
    """Whether a DuckDB type is a number; a list of numbers, BIGINT[], is none."""
    return type_.startswith(_NUMERIC_TYPES) and not type_.endswith("]")


def number_sql(layout: Layout, name: str) -> str:
    """A column as DOUBLE, NULL where blank, NaN where it is not a number."""
    if is_numeric(layout.columns[name]):
        return f"{identifier(name)}::DOUBLE"
    return _parsed_number(text_sql(layout, name))


def seconds_sql(layout: Layout, name: str, timestamp_format: str = "") -> str:
    """A column as unix seconds, NULL where blank, NaN where it is not a time."""
    column, type_ = identifier(name), layout.columns[name]
    if type_.startswith(("TIMESTAMP", "DATE")):
        return f"CASE WHEN {column} IS NOT NULL THEN coalesce(epoch({column}), 'nan'::DOUBLE) END"
    if is_numeric(type_):
        return _scaled(f"{column}::DOUBLE")
    text = f"trim({text_sql(layout, name)})"
    if timestamp_format:
        moment = f"epoch(try_strptime({text}, {quoted(timestamp_format)}))"
        return f"CASE WHEN {text} IS NOT NULL THEN coalesce({moment}, 'nan'::DOUBLE) END"
    # A hyphen past the first character makes it a date.
    moment = f"coalesce(epoch(try_cast({text} AS TIMESTAMPTZ)), 'nan'::DOUBLE)"
    return f"CASE WHEN strpos({text}, '-') > 1 THEN {moment} ELSE {_scaled(_parsed_number(text))} END"


def _parsed_number(text: str) -> str:
    return f"CASE WHEN {text} IS NOT NULL THEN coalesce(try_cast({text} AS DOUBLE), 'nan'::DOUBLE) END"


def _scaled(number: str) -> str:
    """Seconds from seconds, milliseconds, microseconds or nanoseconds, told apart by size (see EventColumns)."""
    steps = " ".join(f"WHEN abs({number}) >= {bound} THEN {unit}" for bound, unit in _UNITS)
    return f"({number}) / CASE {steps} ELSE 1 END"


def close_holes(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> None:
    """17850.0 becomes 17850 where a column of text files holds whole numbers only.

    A program that keeps a column of integers with holes as floating numbers writes them so. A column in which any id is
    something else, 00123 or 1.5, is left as it is.
    """
    has_fractions = f"SELECT 1 FROM {table} WHERE loose AND ends_with({column}, '.0') LIMIT 1"
    others = f"SELECT 1 FROM {table} WHERE loose AND NOT regexp_full_match({column}, '{_WHOLE_NUMBER}') LIMIT 1"
    if connection.execute(has_fractions).fetchone() and not connection.execute(others).fetchone():
        connection.execute(
            f"UPDATE {table} SET {column} = left({column}, -2) WHERE loose AND ends_with({column}, '.0')"
        )
