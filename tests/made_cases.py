"""Made interactions of a few users, with times and baskets, and cases of measurement as plain values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from made_interactions import interactions_of

from engine.ids import IdTable
from trainer.interactions import Baskets

N_ITEMS = 8


def made(rows, *, n_items=N_ITEMS, items=None, users=None, baskets=None, prices=None):
    """Interactions of users' {item: value} or {item: (value, time)}; items by name where not `item n`."""
    matrix, times = np.zeros((len(rows), n_items)), np.full((len(rows), n_items), np.nan)
    for user, entries in enumerate(rows):
        for item, entry in entries.items():
            matrix[user, item], times[user, item] = entry if isinstance(entry, tuple) else (entry, np.nan)
    found = interactions_of(matrix)
    changed = {"last_times": times[np.nonzero(matrix)], "baskets": baskets, "prices": prices}
    if items is not None:
        changed["item_ids"] = IdTable.of(items)
    if users is not None:
        changed["user_ids"] = IdTable.of(users)
    return replace(found, **changed)


def baskets_of(*listed):
    """Baskets of {item row: place}, all of the first user."""
    rows = [sorted(each.items()) for each in listed]
    return Baskets(
        indptr=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        indices=np.array([item for each in rows for item, _ in each], dtype=np.int32),
        user_rows=np.zeros(len(rows), dtype=np.int32),
        seconds=np.full(len(rows), np.nan),
        places=np.array([place for each in rows for _, place in each], dtype=np.int32),
    )


def shown_of(case):
    """{item: age} of evidence whose items all weigh 1."""
    assert (np.diff(case.rows) > 0).all()
    assert (case.weights == 1).all()
    return dict(zip(case.rows.tolist(), case.ages.tolist(), strict=True))


def described(cases):
    """Everything that a Cases holds, as plain values."""
    excluded = None
    if cases.excluded is not None:
        excluded = [cases.excluded.row(number)[0].tolist() for number in range(cases.excluded.n_rows)]
    return (
        cases.kind,
        [(each.rows.tolist(), each.weights.tolist(), each.ages.tolist()) for each in cases.evidence],
        [sorted(each.tolist()) for each in cases.held_out.items],
        cases.held_out.users.tolist(),
        cases.held_out.n_relevant.tolist(),
        cases.held_out.relevant_price.tolist(),
        excluded,
        None if cases.users is None else cases.users.tolist(),
    )


def taken_of(cases):
    """What each case shows and hides, together."""
    pairs = zip(cases.evidence, cases.held_out.items, strict=True)
    return [shown_of(each).keys() | set(items.tolist()) for each, items in pairs]
