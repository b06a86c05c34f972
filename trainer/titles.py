"""Titles from a column of the events, for shops whose events carry a description and that have no items file.

Checked by tests/test_items.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.ids import IdTable, StringTable
from trainer.assembly import string_table
from trainer.errors import ColumnMissing
from trainer.events import DEFAULT_MEMORY_LIMIT, EventColumns, Step, close_holes, open_workspace, text_sql
from trainer.layouts import Layout, layouts_of, reading
from trainer.sources import find_files


def read_titles(
    sources: Sequence[str],
    columns: EventColumns,
    title_column: str,
    item_ids: IdTable,
    *,
    threads: int = 0,
    memory_limit: str = DEFAULT_MEMORY_LIMIT,
    on_step: Step | None = None,
) -> StringTable:
    """For each item of `item_ids` the most frequent text of `title_column` (of equals the smaller one), "" where none.

    Raises ColumnMissing where a file lacks a column, and what trainer.interactions.read_interactions raises for files.
    """
    if on_step:
        on_step("reading titles")
    with open_workspace(threads, memory_limit) as connection:
        connection.execute("CREATE TABLE raw (item_id VARCHAR, title VARCHAR, loose BOOLEAN)")
        for layout in layouts_of(connection, find_files(sources), [columns.item, title_column]):
            _check_columns(layout, columns.item, title_column)
            with reading(layout.files):
                connection.execute(
                    f"INSERT INTO raw SELECT {text_sql(layout, columns.item)}, trim({text_sql(layout, title_column)}), "
                    f"{str(layout.text).lower()} FROM {layout.from_sql()}"
                )
        close_holes(connection, "raw", "item_id")
        connection.execute("SET preserve_insertion_order = true")
        titles = connection.sql(
            """
            SELECT item_id, arg_min(title, (-n, title)) AS title
            FROM (SELECT item_id, title, count(*) AS n FROM raw WHERE item_id <> '' AND title <> '' GROUP BY ALL)
            GROUP BY item_id"""
        ).to_arrow_table()
    return texts_by_row(titles["title"], item_ids.rows_of(string_table(titles["item_id"])), len(item_ids))


def texts_by_row(column: pa.ChunkedArray, rows: NDArray[np.int32], n_items: int) -> StringTable:
    """The texts of an Arrow column at the rows they belong to (-1 for none), "" where there is none."""
    if not len(column):
        return StringTable.of([""] * n_items)
    positions = np.full(n_items, -1, dtype=np.int64)
    positions[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    return string_table(column.take(pa.array(positions, mask=positions < 0)))


def _check_columns(layout: Layout, item_column: str, title_column: str) -> None:
    for name, flag in ((item_column, "--item-column"), (title_column, "--title-column")):
        if name not in layout.columns:
            found = ", ".join(layout.columns)
            raise ColumnMissing(
                f'{layout.files[0].path} has no column "{name}"; found: {found}; name the right one with {flag}'
            )
