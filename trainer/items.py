"""The items file: what a shop knows of its items, aligned to the rows of the catalogue.

The catalogue is the items that occur in the events; items that only the file knows are counted, not added. Titles can
also come from a column of the events (trainer.titles). Checked by tests/test_items.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.attributes import BOOLEAN, DATE, LIST, NUMBER, TEXT, Attribute, Dates, Lists
from engine.ids import IdTable, StringTable
from trainer.assembly import string_table
from trainer.errors import EventsError, ItemsError
from trainer.events import (
    DEFAULT_MEMORY_LIMIT,
    EventColumns,
    check_ids,
    close_holes,
    open_workspace,
    text_sql,
)
from trainer.item_kinds import PARSED, ItemColumns, kind_of_column, required_kind
from trainer.layouts import Layout, identifier, layouts_of, reading
from trainer.sources import find_files
from trainer.titles import read_titles, texts_by_row

NO_KINDS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ItemsReport:
    """What became of the rows of the items file, and how much of the catalogue it covers.

    rows_read = rows_used + without_id + superseded (a later row names the item again) + not_in_catalogue (no events).
    """

    rows_read: int = 0
    rows_used: int = 0
    without_id: int = 0
    superseded: int = 0
    not_in_catalogue: int = 0
    items_without_row: int = 0
    prices_unclear: int = 0

    def table(self) -> str:
        """The report as aligned lines for the terminal."""
        lines = {
            "rows of the items file": self.rows_read,
            "  without an item id": -self.without_id,
            "  superseded by a later row": -self.superseded,
            "  items without events, not added": -self.not_in_catalogue,
            "rows used": self.rows_used,
            "items of the catalogue without a row": self.items_without_row,
            "prices that are no numbers": self.prices_unclear,
        }
        return "\n".join(f"{text:<36}  {rows:>11,}" for text, rows in lines.items())

    def as_dict(self) -> dict[str, int]:
        """The report for the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Items:
    """`available` bool (n_items,), True where nothing is known; `attributes` by name, each aligned to the item rows.

    The five kinds and what stands where a value is missing: engine.attributes. "title" is text, "category" is text or
    lists of texts and "price" is a number wherever they are there.
    """

    attributes: dict[str, Attribute]
    available: NDArray[np.bool_]
    report: ItemsReport


def read_catalogue(
    items_file: Path | None,
    events: Sequence[str],
    columns: EventColumns,
    title_column: str | None,
    item_ids: IdTable,
    *,
    threads: int = 0,
    memory_limit: str = DEFAULT_MEMORY_LIMIT,
    kinds: Mapping[str, str] = NO_KINDS,
) -> Items:
    """The items file where there is one, with titles from the events where a column is named for them.

    A title of the items file wins over one from the events. `kinds` as in read_items. Raises ItemsError, and what
    reading events raises.
    """
    if items_file is None:
        items = Items({}, np.ones(len(item_ids), dtype=np.bool_), ItemsReport(items_without_row=len(item_ids)))
    else:
        items = read_items(str(items_file), item_ids, kinds=kinds)
    if title_column is None:
        return items
    own = items.attributes.get("title")
    titles = read_titles(events, columns, title_column, item_ids, threads=threads, memory_limit=memory_limit)
    if isinstance(own, StringTable):
        titles = StringTable.of(own[row] or titles[row] for row in range(len(item_ids)))
    return replace(items, attributes={**items.attributes, "title": titles})


def read_items(
    path: str,
    item_ids: IdTable,
    columns: ItemColumns = ItemColumns(),  # noqa: B008 - frozen
    *,
    kinds: Mapping[str, str] = NO_KINDS,
) -> Items:
    """Read the items file: Parquet, CSV or JSON lines, the latter two also .gz or .zst; or a glob or directory of them.

    `kinds` says of which kind a column must be; the others are told by their values. Raises ItemsError for a file that
    cannot be read, without item column, with an `available` that is not yes or no, or with values of another kind.
    """
    try:
        with open_workspace(0, DEFAULT_MEMORY_LIMIT) as connection:
            connection.execute("SET preserve_insertion_order = true")
            layouts = layouts_of(connection, find_files([path]), [columns.item], events=False)
            found = _stage(connection, layouts, columns)
            for i, (name, wanted) in enumerate((name, kinds.get(name)) for name in tuple(found)):
                if wanted is not None:
                    found[name] = required_kind(connection, name, f"a{i}", found[name], wanted)
            return _aligned(connection, found, item_ids, columns)
    except EventsError as error:
        raise ItemsError(f"the items file: {error}") from None


def _stage(connection: duckdb.DuckDBPyConnection, layouts: Sequence[Layout], columns: ItemColumns) -> dict[str, str]:
    """All files in order as text in `raw` (item_id, loose, a0, a1, ...); returns each attribute's kind by its name."""
    for layout in layouts:
        if columns.item not in layout.columns:
            found = ", ".join(layout.columns)
            raise ItemsError(f'{layout.files[0].path} has no column "{columns.item}" for the item; found: {found}')
    names = list(dict.fromkeys(name for layout in layouts for name in layout.columns if name != columns.item))
    attributes = "".join(f", a{position} VARCHAR" for position in range(len(names)))
    connection.execute(f"CREATE TABLE raw (item_id VARCHAR, loose BOOLEAN{attributes})")
    for layout in layouts:
        texts = "".join(f", {_text_sql(layout, name) if name in layout.columns else 'NULL'}" for name in names)
        selected = f"{text_sql(layout, columns.item)}, {str(layout.text).lower()}{texts}"
        with reading(layout.files):
            connection.execute(f"INSERT INTO raw SELECT {selected} FROM {layout.from_sql()}")
    check_ids(connection, "raw", "item_id", columns.item)
    close_holes(connection, "raw", "item_id")
    return {name: kind_of_column(connection, layouts, name, f"a{i}", columns) for i, name in enumerate(names)}


def _text_sql(layout: Layout, name: str) -> str:
    """A column as text, lists as JSON, as which JSON files have them."""
    if layout.columns[name].endswith("]"):
        return f"to_json({identifier(name)})::VARCHAR"
    return text_sql(layout, name)


def _aligned(
    connection: duckdb.DuckDBPyConnection, kinds: dict[str, str], item_ids: IdTable, columns: ItemColumns
) -> Items:
    values = "".join(f", {PARSED[kind].format(f'a{i}')} AS v{i}" for i, kind in enumerate(kinds.values()))
    if columns.available in kinds:
        _check_flags(connection, f"a{list(kinds).index(columns.available)}", PARSED[BOOLEAN], columns.available)
    read, without_id = connection.execute("SELECT count(*), count(*) FILTER (item_id IS NULL) FROM raw").fetchall()[0]
    table = connection.sql(
        f"SELECT item_id{values} FROM raw WHERE item_id IS NOT NULL "
        "QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY rowid DESC) = 1"
    ).to_arrow_table()
    rows = item_ids.rows_of(string_table(table["item_id"]))
    standard = {getattr(columns, role): role for role in ("title", "category", "price", "available")}
    attributes: dict[str, Attribute] = {}
    for i, (name, kind) in enumerate(kinds.items()):
        missing = name == columns.available
        attributes[standard.get(name, name)] = _by_row(table[f"v{i}"], kind, rows, len(item_ids), missing)
    available = attributes.pop("available", np.ones(len(item_ids), dtype=np.bool_))
    used = int((rows >= 0).sum())
    unclear = f"v{list(kinds).index(columns.price)}" if columns.price in kinds else None
    report = ItemsReport(
        rows_read=read,
        rows_used=used,
        without_id=without_id,
        superseded=read - without_id - len(rows),
        not_in_catalogue=len(rows) - used,
        items_without_row=len(item_ids) - used,
        prices_unclear=0 if unclear is None else int(np.isnan(table[unclear].drop_null().to_numpy()).sum()),
    )
    return Items(attributes, np.asarray(available, dtype=np.bool_), report)


def _check_flags(connection: duckdb.DuckDBPyConnection, column: str, parsed: str, name: str) -> None:
    odd = connection.execute(
        f"SELECT {column} FROM raw WHERE {column} IS NOT NULL AND ({parsed.format(column)}) IS NULL LIMIT 1"
    ).fetchone()
    if odd:
        raise ItemsError(
            f'the column "{name}" holds {odd[0][:40]!r}; expected true or false, yes or no, 1 or 0, or nothing'
        )


def _by_row(column: pa.ChunkedArray, kind: str, rows: NDArray[np.int32], n_items: int, missing: bool) -> Attribute:
    if kind == TEXT:
        return texts_by_row(column, rows, n_items)
    if kind == LIST:
        return _lists_by_row(column, rows, n_items)
    known = rows >= 0
    if kind in (NUMBER, DATE):
        numbers = np.full(n_items, np.nan)
        numbers[rows[known]] = column.to_numpy()[known]
        return Dates(numbers) if kind == DATE else numbers
    flags = np.full(n_items, missing)
    flags[rows[known]] = column.fill_null(missing).to_numpy()[known]
    return flags


def _lists_by_row(column: pa.ChunkedArray, rows: NDArray[np.int32], n_items: int) -> Lists:
    """The lists of texts of an Arrow column at the rows they belong to (-1 for none), empty where there is none."""
    positions = np.full(n_items, -1, dtype=np.int64)
    positions[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    lists = column.combine_chunks().take(pa.array(positions, mask=positions < 0))
    lengths = np.array(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)
    starts = np.zeros(n_items + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return Lists(starts, string_table(pa.chunked_array([lists.flatten()])))
