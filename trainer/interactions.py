"""Interactions: what every model is fitted to, and the road from event files to it.

Ids <-> rows, entries both ways, weights, counts, times, baskets, prices, and the report of what was dropped and why.
Rows of users follow the bytes of their ids; rows of items fall with the number of their users (then by bytes), so that
popular items come first. The work is done in DuckDB: trainer.events reads, trainer.cleaning and
trainer.netting drop, trainer.assembly numbers the rows and brings the arrays; trainer.splits takes the same road in
parts.
Checked by tests/test_interactions.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from engine.ids import IdTable
from trainer.assembly import number_rows, read_baskets, read_entries, read_ids, read_prices
from trainer.cleaning import Cleaning, Report, judge
from trainer.errors import NothingLeft
from trainer.events import DEFAULT_MEMORY_LIMIT, EventColumns, Step, open_workspace, stage_events
from trainer.netting import check_times, net


@dataclass(frozen=True)
class Csr:
    """Compressed sparse rows: row r has columns indices[indptr[r]:indptr[r + 1]], rising, and their values.

    `indptr` int64 (n_rows + 1,), `indices` int32 and `values` float32 (entries,).
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    n_columns: int

    @property
    def n_rows(self) -> int:
        """Rows, empty ones included."""
        return len(self.indptr) - 1

    @property
    def n_entries(self) -> int:
        """Entries of all rows."""
        return len(self.indices)

    def row(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Columns and values of one row."""
        entries = slice(self.indptr[row], self.indptr[row + 1])
        return self.indices[entries], self.values[entries]

    def selected(self, rows: NDArray[Any]) -> Csr:
        """Some rows, in the order given."""
        sizes = np.diff(self.indptr)[rows]
        indptr = np.append(0, np.cumsum(sizes)).astype(np.int64)
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], sizes)
        return Csr(indptr, self.indices[places], self.values[places], n_columns=self.n_columns)

    def liked_by_column(self) -> NDArray[np.int32]:
        """The number of values above zero of each column, int32 (n_columns,)."""
        return np.bincount(self.indices[self.values > 0], minlength=self.n_columns).astype(np.int32)

    def transposed(self) -> Csr:
        """The same entries, by column."""
        arrays = (self.values, self.indices, self.indptr)
        turned = sparse.csr_matrix(arrays, shape=(self.n_rows, self.n_columns)).tocsc()
        indices = turned.indices.astype(np.int32, copy=False)
        return Csr(turned.indptr.astype(np.int64), indices, turned.data, n_columns=self.n_rows)


@dataclass(frozen=True)
class Baskets:
    """What was bought together: basket b holds the item rows indices[indptr[b]:indptr[b + 1]], rising, two or more.

    A basket is one basket id of one user, `user_rows` int32 (n_baskets,), and may be a session: `seconds` float64
    (n_baskets,) is its newest time, NaN where unknown, and `places` int32 (entries of baskets,) the order in which its
    items came: how many distinct older times its items have, each item counting by its newest one, which is 0 for the
    oldest and for all where times are equal or unknown. An item without a time is older than those that have one.
    Entries with a negative value do not count. Ordered by basket id, then user.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    user_rows: NDArray[np.int32]
    seconds: NDArray[np.float64]
    places: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.indptr) - 1


@dataclass(frozen=True)
class Interactions:
    """Who had to do with what, how much and when.

    `by_user` and `by_item` hold the same entries; `counts` (rows behind an entry, returns aside), `quantities` (net of
    returns) and `last_times` (unix seconds, NaN where unknown) stand in the order of `by_user`. `baskets` is None where
    no event names one, `prices` (each item's median price above zero, NaN where unknown) None where no event has one.
    A negative value w is negative feedback: weight |w| with target 0.
    """

    user_ids: IdTable
    item_ids: IdTable
    by_user: Csr
    by_item: Csr
    counts: NDArray[np.int32]
    quantities: NDArray[np.float32]
    last_times: NDArray[np.float64]
    baskets: Baskets | None
    prices: NDArray[np.float32] | None
    report: Report

    @property
    def n_users(self) -> int:
        """Users with at least one entry."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Items with at least one entry."""
        return len(self.item_ids)

    def popularity(self) -> NDArray[np.int32]:
        """The number of users who like each item, int32 (n_items,): entries of negative feedback do not count."""
        return self.by_user.liked_by_column()

    def ages(self) -> NDArray[np.int32]:
        """How many distinct newer times the user of each entry has, int32 (entries,): 0 is the newest.

        An entry without a time is older than all of the user's that have one.
        """
        return dense_ranks(self.by_user.indptr, np.where(np.isnan(self.last_times), np.inf, -self.last_times))

    def arrays(self) -> list[NDArray[Any]]:
        """What makes a training what it is: ids and entries by user."""
        entries = self.by_user
        of_ids = [*self.user_ids.arrays().values(), *self.item_ids.arrays().values()]
        return [entries.indptr, entries.indices, entries.values, *of_ids]

    @property
    def n_entries(self) -> int:
        """Pairs of user and item."""
        return self.by_user.n_entries


def dense_ranks(indptr: NDArray[np.int64], keys: NDArray[Any]) -> NDArray[np.int32]:
    """How many distinct smaller keys the row of each entry has, int32 (entries,).

    `keys` (entries,) are not NaN; entries indptr[r] to indptr[r + 1] make row r.
    """
    sizes = np.diff(indptr)
    rows = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    order = np.lexsort((keys, rows))
    ordered = keys[order]
    is_new = np.ones(len(keys), dtype=np.bool_)
    is_new[1:] = (ordered[1:] != ordered[:-1]) | (rows[1:] != rows[:-1])
    steps = np.cumsum(is_new)
    ranks = np.empty(len(keys), dtype=np.int32)
    ranks[order] = steps - np.repeat(steps[indptr[:-1][sizes > 0]], sizes[sizes > 0])
    return ranks


def entries_by_column(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], n_columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Of each column the rows that hold it, rising, and where in each: indptr int64 (n_columns + 1,), rows and places.

    Place p of row r is entry indptr[r] + p; rows and places are int32 (entries,).
    """
    places = (np.arange(len(indices)) - np.repeat(indptr[:-1], np.diff(indptr))).astype(np.int32)
    turned = sparse.csr_matrix((places, indices, indptr), shape=(len(indptr) - 1, n_columns)).tocsc()
    return turned.indptr.astype(np.int64), turned.indices.astype(np.int32, copy=False), turned.data


def read_interactions(
    sources: Sequence[str],
    columns: EventColumns = EventColumns(),  # noqa: B008 - frozen
    *,
    cleaning: Cleaning = Cleaning(),  # noqa: B008 - frozen
    threads: int = 0,
    memory_limit: str = DEFAULT_MEMORY_LIMIT,
    timestamp_format: str = "",
    on_step: Step | None = None,
) -> Interactions:
    """Read events from files, globs and directories; drop, net and weigh them by `cleaning`; number users and items.

    Parquet, CSV and JSON lines, the latter two also .gz or .zst; headerless tab-separated "user item rating [time]"
    (the rating only says that there was something); and "a user a line, then its items". `threads` 0 takes all cores;
    the result is the same for any number and any order of rows. `memory_limit` bounds DuckDB, which spills beyond it
    to a temporary directory. `timestamp_format` is that of times that are text but not ISO 8601, in
    the directives of strptime, such as "%d.%m.%Y %H:%M". `on_step` is told what happens, in words.

    Raises EventsUnreadable, ColumnMissing, IdTooLong, NothingLeft, UsageError, EventsError where memory or disk run
    out.
    """
    step = on_step or (lambda text: None)
    with open_workspace(threads, memory_limit) as connection:
        stage_events(connection, sources, columns, step, timestamp_format)
        step("cleaning")
        report = judge(connection, cleaning).then(net(connection, cleaning))
        refuse_nothing(connection, report, sources, cleaning)
        step("numbering users and items")
        return assemble(connection, cleaning, report)


def refuse_nothing(
    connection: duckdb.DuckDBPyConnection, report: Report, sources: Sequence[str], cleaning: Cleaning
) -> None:
    """Raises NothingLeft after cleaning; UsageError for a half-life where no event has a time."""
    if not report.rows_kept or report.is_unclear:
        found = "most rows hold values that cannot be understood" if report.rows_kept else "no events are left"
        raise NothingLeft(
            f"{', '.join(map(str, sources))}: {found}. The report says why; is a column mapped to a wrong name? "
            f"Times may need --timestamp-format, and numbers a decimal point\n{report.table()}"
        )
    if cleaning.half_life_days is not None:
        check_times(connection, "a half-life")


def assemble(connection: duckdb.DuckDBPyConnection, cleaning: Cleaning, report: Report) -> Interactions:
    """What `events` and `pairs` say, which trainer.netting leaves; `pairs` is gone afterwards."""
    number_rows(connection)
    entries = read_entries(connection, cleaning)
    baskets = read_baskets(connection)
    prices = read_prices(connection)
    user_ids = IdTable.over(read_ids(connection, "user"))
    item_ids = IdTable.over(read_ids(connection, "item"))
    by_user = Csr(entries.indptr, entries.item_rows, entries.values, n_columns=len(item_ids))
    return Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        by_user=by_user,
        by_item=by_user.transposed(),
        counts=entries.counts,
        quantities=entries.quantities,
        last_times=entries.last_times,
        baskets=None if baskets is None else Baskets(*baskets),
        prices=prices,
        report=report,
    )
