"""From cleaned pairs in DuckDB to numpy arrays: numbering, order, baskets, prices, ids.

Everything is ordered in DuckDB, which can spill, and arrives in batches that are written into their final arrays, so
that the process holds each array once. The input is what trainer.netting leaves; tests/test_interactions.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.ids import StringTable
from trainer.cleaning import MILLIONTHS, Cleaning
from trainer.weighting import AMONG_ALL, weigh_alone, weigh_among_all

_BATCH_ROWS = 122_880


@dataclass(frozen=True)
class Entries:
    """Entries by user row, then item row; `indptr` as in trainer.interactions.Csr."""

    indptr: NDArray[np.int64]
    item_rows: NDArray[np.int32]
    values: NDArray[np.float32]
    counts: NDArray[np.int32]
    quantities: NDArray[np.float32]
    last_times: NDArray[np.float64]


def number_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """From `pairs` to `user_rows`, `item_rows` (code, row) and `entries`, in which rows stand for codes.

    Codes follow the bytes of the ids, and so break ties.
    """
    # Without this, DuckDB 2.0 can hand ordered results to Arrow out of order (seen with Connection.execute).
    connection.execute("SET preserve_insertion_order = true")
    connection.execute(
        """
        CREATE OR REPLACE TABLE user_rows AS
        SELECT user_code, (row_number() OVER (ORDER BY user_code) - 1)::INTEGER AS user_row
        FROM (SELECT DISTINCT user_code FROM pairs)"""
    )
    connection.execute(
        """
        CREATE OR REPLACE TABLE item_rows AS
        SELECT item_code, (row_number() OVER (ORDER BY n_users DESC, item_code) - 1)::INTEGER AS item_row
        FROM (SELECT item_code, count(*) AS n_users FROM pairs GROUP BY item_code)"""
    )
    connection.execute(
        """
        CREATE OR REPLACE TABLE entries AS
        SELECT user_row, item_row, n_rows, net::DOUBLE AS net, weight_sum::DOUBLE AS weight_sum,
               (CASE WHEN weight_sum > 0 THEN heaviest ELSE lightest END)::DOUBLE AS strongest, last_seconds
        FROM pairs JOIN user_rows USING (user_code) JOIN item_rows USING (item_code)"""
    )
    connection.execute("DROP TABLE pairs")


def read_entries(connection: duckdb.DuckDBPyConnection, cleaning: Cleaning) -> Entries:
    """The entries in their order, weighed as `cleaning` says."""
    n_entries, n_users = _count(connection, "entries"), _count(connection, "user_rows")
    among_all = cleaning.weighting in AMONG_ALL
    values: NDArray[Any] = np.empty(n_entries, dtype=np.float64 if among_all else np.float32)
    out = Entries(
        indptr=np.zeros(n_users + 1, dtype=np.int64),
        item_rows=np.empty(n_entries, dtype=np.int32),
        values=values,
        counts=np.empty(n_entries, dtype=np.int32),
        quantities=np.empty(n_entries, dtype=np.float32),
        last_times=np.empty(n_entries, dtype=np.float64),
    )
    start = 0
    for batch in _batches(connection, "SELECT * FROM entries ORDER BY user_row, item_row"):
        here = slice(start, start + batch.num_rows)
        np.add.at(out.indptr, _column(batch, "user_row") + 1, 1)
        out.item_rows[here] = _column(batch, "item_row")
        sums, strongest = _column(batch, "weight_sum") / MILLIONTHS, _column(batch, "strongest") / MILLIONTHS
        out.values[here] = weigh_alone(sums, strongest, cleaning.weighting)
        out.counts[here] = _column(batch, "n_rows")
        out.quantities[here] = _column(batch, "net") / MILLIONTHS
        out.last_times[here] = _column(batch, "last_seconds")
        start = here.stop
    np.cumsum(out.indptr, out=out.indptr)
    if not among_all:
        return out
    rules = (cleaning.weighting, cleaning.saturation, cleaning.length_normalization)
    weights = weigh_among_all(out.values.astype(np.float64, copy=False), out.indptr, out.item_rows, *rules)
    return replace(out, values=weights.astype(np.float32))


def read_baskets(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], NDArray[np.int32]] | None:
    """The arrays of trainer.interactions.Baskets, in its order of fields; None where no event names a basket."""
    if not connection.execute("SELECT 1 FROM events WHERE basket IS NOT NULL LIMIT 1").fetchone():
        return None
    connection.execute(
        """
        CREATE OR REPLACE TABLE basket_items AS
        SELECT basket, user_row, item_row, max(seconds) AS newest
        FROM events JOIN user_rows USING (user_code) JOIN item_rows USING (item_code)
                    JOIN entries USING (user_row, item_row)
        WHERE basket IS NOT NULL AND n_quantity > 0 AND weight_sum > 0
        GROUP BY basket, user_row, item_row"""
    )
    connection.execute(
        """
        CREATE OR REPLACE TABLE basket_rows AS
        SELECT basket, user_row, n_items, newest, row_number() OVER (ORDER BY basket, user_row) - 1 AS basket_row
        FROM (SELECT basket, user_row, count(*) AS n_items, max(newest) AS newest
              FROM basket_items GROUP BY basket, user_row)
        WHERE n_items > 1"""
    )
    n_baskets = _count(connection, "basket_rows")
    indptr = np.zeros(n_baskets + 1, dtype=np.int64)
    user_rows, seconds = np.empty(n_baskets, dtype=np.int32), np.empty(n_baskets, dtype=np.float64)
    for batch in _batches(connection, "SELECT basket_row, n_items, user_row, newest FROM basket_rows"):
        rows = _column(batch, "basket_row")
        indptr[rows + 1] = _column(batch, "n_items")
        user_rows[rows], seconds[rows] = _column(batch, "user_row"), _column(batch, "newest")
    np.cumsum(indptr, out=indptr)
    item_rows, places = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=np.int32)
    start = 0
    ordered = """
        SELECT item_row, dense_rank() OVER in_basket - 1 AS place
        FROM basket_items JOIN basket_rows USING (basket, user_row)
        WINDOW in_basket AS (PARTITION BY basket_row ORDER BY basket_items.newest NULLS FIRST)
        ORDER BY basket_row, item_row"""
    for batch in _batches(connection, ordered):
        here = slice(start, start + batch.num_rows)
        item_rows[here], places[here] = _column(batch, "item_row"), _column(batch, "place")
        start = here.stop
    connection.execute("DROP TABLE basket_items")
    connection.execute("DROP TABLE basket_rows")
    return indptr, item_rows, user_rows, seconds, places


def read_prices(connection: duckdb.DuckDBPyConnection) -> NDArray[np.float32] | None:
    """Each item's median price above zero over its kept rows, NaN where unknown; None where no event has a price."""
    if not connection.execute("SELECT 1 FROM events WHERE price IS NOT NULL LIMIT 1").fetchone():
        return None
    prices = np.full(_count(connection, "item_rows"), np.nan, dtype=np.float32)
    medians = """
        SELECT item_row, median(price) AS price
        FROM events JOIN user_rows USING (user_code) JOIN item_rows USING (item_code)
                    SEMI JOIN entries USING (user_row, item_row)
        WHERE price > 0 AND n_quantity > 0 GROUP BY item_row"""
    for batch in _batches(connection, medians):
        prices[_column(batch, "item_row")] = _column(batch, "price")
    return prices


def read_ids(connection: duckdb.DuckDBPyConnection, role: Literal["user", "item"]) -> StringTable:
    """The ids of users or items by row."""
    joined = f"{role}s JOIN {role}_rows ON {role}s.code = {role}_rows.{role}_code"
    return string_table(connection.sql(f"SELECT id FROM {joined} ORDER BY {role}_row").to_arrow_table()["id"])


def string_table(column: pa.ChunkedArray) -> StringTable:
    """Arrow text as a StringTable, without a Python object for each string; NULL becomes the empty string."""
    if not len(column):
        return StringTable.of([])
    array = pa.concat_arrays(column.cast(pa.large_string()).fill_null("").chunks)
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)
    return StringTable(data[offsets[0] : offsets[-1]].copy(), offsets - offsets[0])


def _batches(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[pa.RecordBatch]:
    yield from connection.sql(sql).to_arrow_reader(_BATCH_ROWS)


def _column(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    """A column as numpy; NULL in a floating column becomes NaN."""
    column: NDArray[Any] = batch.column(name).to_numpy(zero_copy_only=False)
    return column


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
