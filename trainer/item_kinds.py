"""Of which kind a column of the items file is: told by its name, its type or its values, or asked for.

The five kinds are engine.attributes'. Columns stand as text in the table `raw` (trainer.items), lists as JSON. Checked
by tests/test_items.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from engine.attributes import BOOLEAN, DATE, LIST, NUMBER, TEXT
from trainer.errors import ItemsError
from trainer.events import is_numeric
from trainer.layouts import Layout
from trainer.sources import Form

_YES = "('true', 't', 'yes', 'y', '1')"
_NO = "('false', 'f', 'no', 'n', '0')"
_PLAIN_NUMBER = r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][-+]?[0-9]+)?"
_ISO_DATE = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|[-+]\d{2}(:?\d{2})?))?)?"
_TEXTS = "CASE WHEN json_valid({0}) THEN from_json({0}, '[\"VARCHAR\"]') END"
_MOMENT = "epoch(try_cast(trim({0}) AS TIMESTAMPTZ))"
PARSED = {
    TEXT: "{0}",
    LIST: f"list_filter({_TEXTS}, lambda text: trim(text) <> '')",
    NUMBER: "CASE WHEN {0} IS NOT NULL THEN coalesce(try_cast({0} AS DOUBLE), 'nan'::DOUBLE) END",
    BOOLEAN: f"CASE WHEN lower(trim({{0}})) IN {_YES} THEN true WHEN lower(trim({{0}})) IN {_NO} THEN false END",
    DATE: f"coalesce({_MOMENT}, 'nan'::DOUBLE)",
}
"""A value of each kind from its text, in SQL."""


@dataclass(frozen=True)
class ItemColumns:
    """How the columns are called in the items file; only the item must be there, every further one is an attribute."""

    item: str = "item_id"
    title: str = "title"
    category: str = "category"
    price: str = "price"
    available: str = "available"


def kind_of_column(
    connection: duckdb.DuckDBPyConnection, layouts: Sequence[Layout], name: str, column: str, columns: ItemColumns
) -> str:
    """The kind of an attribute: by the column's name, by its type in Parquet, else by all values."""
    standard = {columns.title: TEXT, columns.price: NUMBER, columns.available: BOOLEAN}
    if name in standard:
        return standard[name]
    if all(layout.form is Form.PARQUET for layout in layouts):
        kind = _kind_of_types({layout.columns[name] for layout in layouts if name in layout.columns})
    else:
        kind = _kind_of_values(connection, column)
    return TEXT if name == columns.category and kind != LIST else kind


def _kind_of_types(types: set[str]) -> str:
    if all(is_numeric(type_) for type_ in types):
        return NUMBER
    if all(type_.startswith(("TIMESTAMP", "DATE")) and not type_.endswith("]") for type_ in types):
        return DATE
    if all(type_.endswith("]") for type_ in types):
        return LIST
    return BOOLEAN if types == {"BOOLEAN"} else TEXT


def _kind_of_values(connection: duckdb.DuckDBPyConnection, column: str) -> str:
    tests = _tests(column)
    counts = "".join(f", count(*) FILTER ({test})" for test in tests.values())
    known, *passing = connection.execute(f"SELECT count({column}){counts} FROM raw").fetchall()[0]
    return next((kind for kind, n in zip(tests, passing, strict=True) if n == known > 0), TEXT)


def _tests(column: str) -> dict[str, str]:
    """Whether a value in text is of a kind, in SQL. 00123 is a code, not a number: a column that holds one is text."""
    return {
        NUMBER: f"regexp_full_match({column}, '{_PLAIN_NUMBER}') AND try_cast({column} AS DOUBLE) IS NOT NULL",
        BOOLEAN: f"lower({column}) IN ('true', 'false')",
        DATE: f"regexp_full_match(trim({column}), '{_ISO_DATE}') AND {_MOMENT.format(column)} IS NOT NULL",
        LIST: f"starts_with({column}, '[') AND {_TEXTS.format(column)} IS NOT NULL",
    }


def required_kind(connection: duckdb.DuckDBPyConnection, name: str, column: str, found: str, wanted: str) -> str:
    """The kind that an attribute must have, where all values are of it. Raises ItemsError."""
    if found == wanted or (wanted == TEXT and found != LIST):
        return wanted
    fits = "false" if wanted == TEXT else _tests(column)[wanted]
    odd = connection.execute(f"SELECT {column} FROM raw WHERE {column} IS NOT NULL AND ({fits}) IS NOT TRUE LIMIT 1")
    row = odd.fetchone()
    if row is not None:
        raise ItemsError(
            f'the column "{name}" holds {row[0][:40]!r}; expected the kind {wanted}, of which this attribute is in '
            "the release: write it so, or leave the column away"
        )
    return wanted
