"""Training and test, cut from one set of events.

`read_split` reads files once and cuts events. Training learns nothing of the test: rows are numbered, weights computed,
ages measured and support counted in each part by itself. trainer.choices decides at random; tests/test_splits.py.
What early stopping holds out is cut by trainer.early_stopping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa

from engine.errors import UsageError
from trainer.assembly import number_rows, read_entries, read_ids
from trainer.choices import HISTORY, TEST, TRAIN, Pool, SplitRule, choose, parse_split
from trainer.cleaning import Cleaning, Report, judge
from trainer.errors import NothingLeft
from trainer.events import DEFAULT_MEMORY_LIMIT, EventColumns, Step, open_workspace, stage_events
from trainer.interactions import Interactions, assemble, refuse_nothing
from trainer.netting import check_times, net, newest_seconds

_NAMES = {TRAIN: "train", HISTORY: "history", TEST: "test"}
_NEEDS = {
    "random": "users with enough items that the share makes one, and one more",
    "last": "users with two items or more, whose times are known",
    "time": "events in the last part of the time, and events before",
    "basket": "users with two baskets or more, whose times are known",
    "users": "users with five items or more, and others",
}


@dataclass(frozen=True)
class Split:
    """Parts with rows, ids and weights of their own.

    `history` is None unless users are held out: then it is what is known of the users of `test`, who are not in
    `train`, and holds only items that training saw. `report` is of everything read; each part's own report is of the
    rows that fell to it.
    """

    train: Interactions
    history: Interactions | None
    test: Interactions
    report: Report


def read_split(
    sources: Sequence[str],
    columns: EventColumns = EventColumns(),  # noqa: B008 - frozen
    split: str = "random:0.2",
    *,
    cleaning: Cleaning = Cleaning(),  # noqa: B008 - frozen
    seed: int = 42,
    threads: int = 0,
    memory_limit: str = DEFAULT_MEMORY_LIMIT,
    timestamp_format: str = "",
    on_step: Step | None = None,
    within: str = "",
) -> Split:
    """Read events as trainer.interactions.read_interactions does, and cut them into training and test.

    `random:0.2`: each user's random 20% of items are the test; one stays in training. `last`: each user's item of the
    newest time, of equal ones the greater id, where he has another. `time:28d`: the events of the 28 days (also h, w)
    before the newest event, which may be of items that the user had before; events without a time are training.
    `basket`: the newest basket of each user with two or more, and returns since. `users:0.1`: a random 10% of the users
    with five items or more are not in training; a random 20% of each one's items are the test, the others `history`.
    `within` is another split, of which the training alone is cut: what it holds out is in no part.

    Returns do not make anything the newest. Least numbers of items and users hold for training alone. Raises what
    read_interactions raises; UsageError for an unknown split, or one by time or basket where events have none;
    NothingLeft where a part is empty.
    """
    rules = [parse_split(each) for each in (within, split) if each]
    rule = rules[-1]
    step = on_step or (lambda text: None)
    unsupported = replace(cleaning, min_user_items=1, min_item_users=1)
    with open_workspace(threads, memory_limit) as connection:
        stage_events(connection, sources, columns, step, timestamp_format)
        step("cleaning")
        judged = judge(connection, cleaning)
        refuse_nothing(connection, judged.then(net(connection, unsupported)), sources, cleaning)
        for number, each in enumerate(rules, start=1):
            step(f"splitting ({each.text})")
            _mark(connection, each, seed, unsupported)
            connection.execute("DROP TABLE events")
            if number < len(rules):
                _keep_training(connection, each, unsupported)
        step("numbering users and items")
        train = _read_part(connection, TRAIN, rule, cleaning)
        connection.execute("CREATE OR REPLACE TABLE known_items AS SELECT item_code FROM item_rows")
        history = _read_part(connection, HISTORY, rule, unsupported) if rule.kind == "users" else None
        test = _read_part(connection, TEST, rule, unsupported)
    parts = [part.report for part in (train, history, test) if part is not None]
    return Split(train, history, test, judged.then(Report.total(parts)))


def _keep_training(connection: duckdb.DuckDBPyConnection, rule: SplitRule, cleaning: Cleaning) -> None:
    """From `marked` to `events` and `pairs` of the training alone."""
    connection.execute(f"CREATE TABLE events AS SELECT * EXCLUDE (part) FROM marked WHERE part = {TRAIN}")
    connection.execute("DROP TABLE marked")
    report = net(connection, cleaning)
    if not report.rows_kept:
        raise _nothing(rule, TRAIN, report)


def _mark(connection: duckdb.DuckDBPyConnection, rule: SplitRule, seed: int, cleaning: Cleaning) -> None:
    """From `events` and `pairs` to `marked`: events and the part of each."""
    if rule.kind in ("last", "time", "basket"):
        check_times(connection, f"the split {rule.text!r}")
    if rule.kind == "time":
        newest = newest_seconds(connection) or 0.0
        part = f"CASE WHEN seconds >= {newest - rule.amount!r} THEN {TEST} ELSE {TRAIN} END"
        connection.execute(f"CREATE OR REPLACE TABLE marked AS SELECT *, {part} AS part FROM events")
    elif rule.kind == "basket":
        _mark_last_baskets(connection, rule)
    else:
        _mark_chosen(connection, rule, seed, cleaning)


def _mark_last_baskets(connection: duckdb.DuckDBPyConnection, rule: SplitRule) -> None:
    if not connection.execute("SELECT 1 FROM events WHERE basket IS NOT NULL LIMIT 1").fetchone():
        raise UsageError(
            f"the split {rule.text!r} needs baskets, and no event names one; name the column with --basket-column"
        )
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE marked AS
        WITH baskets AS (
            SELECT user_code, basket, max(seconds) AS newest FROM events
            WHERE basket IS NOT NULL AND n_quantity > 0 GROUP BY user_code, basket
        ), last_baskets AS (
            SELECT user_code, basket AS last_basket, newest FROM baskets
            QUALIFY count(*) OVER (PARTITION BY user_code) > 1 AND newest IS NOT NULL
                AND row_number() OVER (PARTITION BY user_code ORDER BY newest DESC NULLS LAST, basket DESC) = 1
        )
        SELECT events.*, CASE WHEN basket = last_basket OR (n_quantity < 0 AND seconds >= newest)
                              THEN {TEST} ELSE {TRAIN} END AS part
        FROM events LEFT JOIN last_baskets USING (user_code)"""
    )


def _mark_chosen(connection: duckdb.DuckDBPyConnection, rule: SplitRule, seed: int, cleaning: Cleaning) -> None:
    """Pairs are chosen; events follow their pair. Those that no pair is left of are training, where it has the user."""
    number_rows(connection)
    entries = read_entries(connection, replace(cleaning, weighting="count"))
    ids = read_ids(connection, "user"), read_ids(connection, "item")
    pool = Pool(entries.indptr, entries.item_rows, entries.values > 0, entries.last_times, *ids)
    parts = choose(pool, rule, seed)
    held_out = np.flatnonzero(parts != TRAIN)
    chosen = {"user_row": pool.user_rows()[held_out], "item_row": pool.item_rows[held_out], "part": parts[held_out]}
    connection.register("chosen", pa.table(chosen))
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE marked AS
        WITH pair_parts AS (
            SELECT user_code, item_code, part
            FROM chosen JOIN user_rows USING (user_row) JOIN item_rows USING (item_row)
        ), user_parts AS (SELECT DISTINCT user_code, part AS user_part FROM pair_parts WHERE part = {HISTORY})
        SELECT events.*, coalesce(part, user_part, {TRAIN}) AS part
        FROM events LEFT JOIN pair_parts USING (user_code, item_code) LEFT JOIN user_parts USING (user_code)"""
    )
    connection.unregister("chosen")


def _read_part(connection: duckdb.DuckDBPyConnection, part: int, rule: SplitRule, cleaning: Cleaning) -> Interactions:
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(f"CREATE OR REPLACE VIEW events AS SELECT * EXCLUDE (part) FROM marked WHERE part = {part}")
    report = net(connection, cleaning, known_items=part == HISTORY)
    if not report.rows_kept:
        raise _nothing(rule, part, report)
    return assemble(connection, cleaning, report)


def _nothing(rule: SplitRule, part: int, report: Report) -> NothingLeft:
    found = f". Of the rows that fell to it:\n{report.table()}" if report.rows_read else ""
    return NothingLeft(f"the split {rule.text!r} leaves nothing in {_NAMES[part]}; it needs {_NEEDS[rule.kind]}{found}")
