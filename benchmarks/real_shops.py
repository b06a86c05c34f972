"""Two real shops, cut by time, and what is asked about the weeks that were held out.

The bundled shop and completejourney (looked for in a directory of data that cannot be bundled). What is measured with
them is the business of benchmarks.defaults and benchmarks.quality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np

from trainer.cleaning import Cleaning
from trainer.evaluate import HeldOut
from trainer.events import EventColumns
from trainer.interactions import Interactions
from trainer.shop import bundled_shop

WEEKS = 4
MAX_CARTS = 2000


@dataclass(frozen=True)
class RealShop:
    """Where the events are, how their columns are called, and how they are cleaned."""

    name: str
    events: Path
    columns: EventColumns
    cleaning: Cleaning


def real_shops(data: Path, *, quick: bool) -> list[RealShop]:
    """The bundled shop; completejourney where it lies below `data`, unless it is to be quick."""
    bundled = bundled_shop()
    found = [RealShop("online-retail", bundled.events, bundled.columns, bundled.cleaning)]
    journey = data / "completejourney" / "transactions.parquet"
    if quick:
        return found
    if not journey.is_file():
        print(f"{journey} is absent: only the bundled shop is measured")
        return found
    columns = EventColumns(
        user="household_id",
        item="product_id",
        timestamp="transaction_timestamp",
        quantity="quantity",
        basket="basket_id",
    )
    return [*found, RealShop("completejourney", journey, columns, Cleaning())]


def cut(events: Path, columns: EventColumns, directory: Path) -> tuple[Path, Path]:
    """Files of the events before the last four weeks, and of these."""
    before, after = directory / "before.parquet", directory / "after.parquet"
    newest = f"(SELECT max({columns.timestamp}) - INTERVAL {WEEKS} WEEK FROM read_parquet('{events}'))"
    with duckdb.connect() as connection:
        for path, sign in ((before, "<"), (after, ">=")):
            connection.execute(
                f"COPY (SELECT * FROM read_parquet('{events}') WHERE {columns.timestamp} {sign} {newest}) TO '{path}'"
            )
    return before, after


def only_new(held_out: HeldOut, train: Interactions) -> HeldOut:
    """Held-out items that the user does not have yet; users without any are left out."""
    items = [
        np.setdiff1d(rows, train.by_user.row(user)[0])
        for user, rows in zip(held_out.users.tolist(), held_out.items, strict=True)
    ]
    kept = [i for i, rows in enumerate(items) if len(rows)]
    return replace(
        held_out,
        users=held_out.users[kept],
        items=tuple(items[i] for i in kept),
        n_relevant=np.array([len(items[i]) for i in kept]),
    )


def hidden_carts(train: Interactions, test: Interactions) -> list[tuple[int, np.ndarray, int]]:
    """(user row or -1, the cart without the hidden item, the hidden item) of test baskets."""
    assert test.baskets is not None
    rows = train.item_ids.rows_of(test.item_ids.strings)
    generator = np.random.default_rng(7)
    owners = basket_owners(train, test)
    carts = []
    for basket in range(len(test.baskets)):
        items = rows[test.baskets.indices[test.baskets.indptr[basket] : test.baskets.indptr[basket + 1]]]
        items = np.sort(items[items >= 0])
        if 3 <= len(items) <= 60:
            hidden = int(generator.integers(len(items)))
            carts.append((owners[basket], np.delete(items, hidden), int(items[hidden])))
    chosen = generator.choice(len(carts), min(MAX_CARTS, len(carts)), replace=False)
    return [carts[i] for i in np.sort(chosen)]


def basket_owners(train: Interactions, test: Interactions) -> list[int]:
    """The training row of the user whose test items hold the whole basket; -1 where that is not one user."""
    assert test.baskets is not None
    rows = train.user_ids.rows_of(test.user_ids.strings)
    owners = []
    for basket in range(len(test.baskets)):
        items = test.baskets.indices[test.baskets.indptr[basket] : test.baskets.indptr[basket + 1]]
        candidates = set(test.by_item.row(int(items[0]))[0].tolist())
        for item in items[1:].tolist():
            candidates &= set(test.by_item.row(item)[0].tolist())
            if len(candidates) == 1:
                break
        owners.append(int(rows[candidates.pop()]) if len(candidates) == 1 else -1)
    return owners
