"""The demo: the whole road on the bundled shop, by the same commands a user would type."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from engine.errors import ServerError
from trainer.model_options import BLEND
from trainer.options import TrainOptions
from trainer.shop import BundledShop, bundled_shop
from trainer.training import train_release

CART = ("22697", "22699")
"""Two Regency tea cups."""
USER = "12472"

_STOP_SECONDS = 30


def run_demo(releases: Path | None, limit: int) -> None:
    """Train, publish, serve, ask, stop. Raises NearcartError."""
    if releases is not None:
        _run(releases, limit)
        return
    with tempfile.TemporaryDirectory(prefix="nearcart-demo-") as directory:
        _run(Path(directory), limit)


def _run(releases: Path, limit: int) -> None:
    shop = bundled_shop()
    print(
        "The shop: Online Retail (Daqing Chen, UCI Machine Learning Repository, 2015), a year of invoices.", flush=True
    )
    train_release(
        TrainOptions(
            events=(str(shop.events),),
            releases=releases,
            model=BLEND,
            validation_cases=500,
            title_column=shop.title_column,
            non_product_pattern=shop.cleaning.non_product_pattern,
            **{f"{role}_column": name for role, name in vars(shop.columns).items()},
        )
    )
    with _serving(releases) as address:
        print(f"\nServing at {address}.", flush=True)
        bought = _titles(shop, f"CustomerID = {USER} AND Quantity > 0")
        print(f"\nCustomer {USER} bought {len(bought)} products, among them:", flush=True)
        print("".join(f"      {title}\n" for title in bought[:8]), flush=True)
        _ask(address, limit, "user", USER)
        cart = _titles(shop, f"StockCode IN {CART}")
        print("\nA cart holds:\n" + "".join(f"      {title}\n" for title in cart), flush=True)
        _ask(address, limit, "cart", *CART)
    print("\nStopped. To use your own events: nearcart train EVENTS --releases DIR, then nearcart serve.")


@contextmanager
def _serving(releases: Path) -> Iterator[str]:
    """A server in a process of its own; yields its address and ends it."""
    command = [*_NEARCART, "serve", "--releases", str(releases), "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address:
                _, errors = server.communicate(timeout=_STOP_SECONDS)
                raise ServerError(f"the server did not start:\n{errors}")
            yield address
        finally:
            server.terminate()
            try:
                server.communicate(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


def _ask(address: str, limit: int, *question: str) -> None:
    print(f"$ nearcart query {' '.join(question)} --limit {limit} --address {address}", flush=True)
    command = [*_NEARCART, "query", *question, "--limit", str(limit), "--address", address]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ServerError(f"the query failed:\n{answer.stderr}")
    print(answer.stdout, end="", flush=True)


def _titles(shop: BundledShop, condition: str) -> list[str]:
    """The names of the products that fulfil a condition, the most frequent first."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT mode(Description) FROM read_parquet(?) WHERE {condition} AND Description IS NOT NULL "
            "AND NOT regexp_full_match(StockCode, ?, 'i') GROUP BY StockCode ORDER BY count(*) DESC, StockCode",
            [str(shop.events), shop.cleaning.non_product_pattern],
        ).fetchall()
    return [str(title) for (title,) in rows]


_NEARCART = (sys.executable, "-m", "engine.cli")
