"""From events to pairs of user and item: returns against purchases, weights that decay, support.

`net` reads the table or view `events` (trainer.cleaning) and leaves `pairs`, one row for each user and item that
remain. Quantities and weights are summed as whole millionths, so that sums are the same whatever order the threads come
in. tests/reference_events.py is the slow twin.
"""

from __future__ import annotations

import duckdb

from engine.errors import UsageError
from trainer.cleaning import DAY_SECONDS, Cleaning, Reason, Report

_NO_RETURN = "n_quantity > 0"


def net(connection: duckdb.DuckDBPyConnection, cleaning: Cleaning, *, known_items: bool = False) -> Report:
    """From `events` to `pairs`; the report is of the rows of `events`. `known_items`: only items of that table stay.

    `pairs`: user_code, item_code, n_rows, n_returns, net, weight_sum, heaviest, lightest (millionths), last_seconds.
    """
    connection.execute(_pairs_sql(_weighed_sql(connection, cleaning)))
    returns, rows = connection.execute(
        "SELECT coalesce(sum(n_returns), 0)::BIGINT, coalesce(sum(n_rows), 0)::BIGINT FROM pairs"
    ).fetchall()[0]
    dropped = {
        Reason.RETURN: returns,
        Reason.RETURNED: _drop(connection, "net <= 0"),
        Reason.CANCELLED_OUT: _drop(connection, "weight_sum = 0"),
    }
    if known_items:
        dropped[Reason.UNKNOWN_ITEM] = _drop(connection, "item_code NOT IN (SELECT item_code FROM known_items)")
    dropped |= _drop_unsupported(connection, cleaning)
    kept = rows + returns - sum(dropped.values())
    return Report.of(rows + returns, kept, {reason.value: count for reason, count in dropped.items()})


def newest_seconds(connection: duckdb.DuckDBPyConnection) -> float | None:
    """The time of the newest of `events` that is not a return; None where none has a time."""
    (newest,) = connection.execute(f"SELECT max(seconds) FROM events WHERE {_NO_RETURN}").fetchall()[0]
    return None if newest is None else float(newest)


def check_times(connection: duckdb.DuckDBPyConnection, what: str) -> None:
    """Raises UsageError where no event has a time, which `what` needs."""
    if newest_seconds(connection) is None:
        raise UsageError(f"{what} needs times, and no event has one; name the column with --timestamp-column")


def _weighed_sql(connection: duckdb.DuckDBPyConnection, cleaning: Cleaning) -> str:
    newest = None if cleaning.half_life_days is None else newest_seconds(connection)
    if cleaning.half_life_days is None or newest is None:
        return "events"
    age = f"greatest(0, {newest!r} - seconds) / {cleaning.half_life_days * DAY_SECONDS!r}"
    # At least a millionth: an event is not undone by its age.
    decayed = f"sign(n_weight) * greatest(1, round(abs(n_weight) * pow(0.5, {age})))::BIGINT"
    return f"(SELECT * REPLACE (CASE WHEN seconds IS NULL THEN n_weight ELSE {decayed} END AS n_weight) FROM events)"


def _pairs_sql(weighed: str) -> str:
    return f"""
        CREATE OR REPLACE TABLE pairs AS
        SELECT user_code, item_code,
               (count(*) FILTER ({_NO_RETURN}))::INTEGER AS n_rows,
               (count(*) FILTER (n_quantity < 0))::INTEGER AS n_returns,
               sum(n_quantity) AS net,
               coalesce(sum(n_weight) FILTER ({_NO_RETURN}), 0) AS weight_sum,
               max(n_weight) FILTER ({_NO_RETURN}) AS heaviest,
               min(n_weight) FILTER ({_NO_RETURN}) AS lightest,
               max(seconds) FILTER ({_NO_RETURN}) AS last_seconds
        FROM {weighed} GROUP BY user_code, item_code"""


def _drop_unsupported(connection: duckdb.DuckDBPyConnection, cleaning: Cleaning) -> dict[Reason, int]:
    """Users with too few items, then items with too few users, and again, since each takes from the other."""
    rules = {
        Reason.FEW_ITEMS: ("user_code", cleaning.min_user_items),
        Reason.FEW_USERS: ("item_code", cleaning.min_item_users),
    }
    dropped = dict.fromkeys(rules, 0)
    while True:
        before = sum(dropped.values())
        for reason, (code, least) in rules.items():
            if least > 1:
                few = f"SELECT {code} FROM pairs GROUP BY {code} HAVING count(*) < {least}"
                dropped[reason] += _drop(connection, f"{code} IN ({few})")
        if sum(dropped.values()) == before:
            return dropped


def _drop(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    """Drop the pairs for which a condition holds; returns the rows behind them that are not returns."""
    sql = f"SELECT coalesce(sum(n_rows), 0)::BIGINT, count(*) FROM pairs WHERE {condition}"
    rows, pairs = connection.execute(sql).fetchall()[0]
    if pairs:
        connection.execute(f"DELETE FROM pairs WHERE {condition}")
    return int(rows)
