"""What do parts beside vectors cost? Learning them, a cart in process, and a cart over the wire beside a user.

Three measurements, each with its rows:

- learning: counts, neighbours and regression of 1.5 million lines of made baskets (100,000 items, popularity
  1/rank^0.8, lines that go together), in seconds on all cores, with the peak of the process;
- in process: carts of 10 items against a sparse memory of 100,000 items with 100 neighbours each, alone and beside
  vectors of 128 factors: microseconds from the rows of the cart to the best 20, one at a time, on one thread;
- served: a blend of the bundled shop, asked over gRPC on the loopback interface for users and for carts of ten in turn,
  so that both see the same machine: milliseconds of a call, and their ratio.

    python -m benchmarks.part_costs [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.raw_rows import write_rows
from engine.client import Client
from engine.encoders import BagEncoder, RidgeEncoder
from engine.evidence import Evidence
from engine.index import Index
from engine.kinds import ByKind
from engine.recommender import DenseMemory, Recommender
from engine.release import Release
from engine.repository import Repository
from engine.sparse_memory import SparseMemory
from engine.sparse_part import SparsePart
from trainer.contexts import Contexts
from trainer.cooccurrence import UNORDERED, count
from trainer.item_neighbours import NeighbourSettings, item_neighbours
from trainer.item_regression import RegressionSettings, item_regression
from trainer.options import TrainOptions
from trainer.shop import bundled_shop
from trainer.threads import Threads
from trainer.training import train_release

_BASKET = 10
_FACTORS = 128
_NEIGHBOURS = 100
_STOP_SECONDS = 30
_ROUND = 250
"""Carts that one recommender answers before the next one does."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small: for correctness only")
    parser.add_argument("--json", type=Path, help="append raw rows here")
    arguments = parser.parse_args()
    rows = [
        *learning(20_000 if arguments.quick else 1_500_000, 2_000 if arguments.quick else 100_000),
        *in_process(2_000 if arguments.quick else 100_000, 100 if arguments.quick else 3_000),
        *served(50 if arguments.quick else 3_000, quick=arguments.quick),
    ]
    for row in rows:
        print(
            "  ".join(
                f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            )
        )
    write_rows(arguments.json, rows)


def made_baskets(n_lines: int, n_items: int) -> Contexts:
    """Baskets of ten lines: half of a basket's items come from one neighbourhood of fifty."""
    generator = np.random.default_rng(0)
    shares = np.cumsum(np.arange(1, n_items + 1) ** -0.8)
    n = n_lines // _BASKET
    anywhere = np.searchsorted(shares, generator.random((n, _BASKET)) * shares[-1])
    near = anywhere[:, :1] // 50 * 50 + generator.integers(0, 50, (n, _BASKET // 2))
    anywhere[:, : _BASKET // 2] = np.minimum(near, n_items - 1)
    baskets = [np.unique(basket).astype(np.int32) for basket in anywhere]
    indptr = np.cumsum([0, *map(len, baskets)]).astype(np.int64)
    indices = np.concatenate(baskets)
    nowhere = np.full(n, np.nan)
    return Contexts(indptr, indices, np.zeros(len(indices), np.int32), nowhere, np.ones(n, np.float32), n_items)


def learning(n_lines: int, n_items: int) -> Iterator[dict[str, Any]]:
    contexts = made_baskets(n_lines, n_items)
    with Threads(0) as pool:
        steps: dict[str, Callable[[], object]] = {
            "counts": lambda: count(contexts, UNORDERED, pool, lambda block, rows: None),
            "neighbours": lambda: item_neighbours(contexts, NeighbourSettings(neighbours=_NEIGHBOURS), pool),
            "regression": lambda: item_regression(contexts, RegressionSettings(neighbours=_NEIGHBOURS), pool),
        }
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            yield {
                "measured": "learning",
                "step": name,
                "lines": int(contexts.indptr[-1]),
                "items": n_items,
                "threads": pool.count,
                "seconds": seconds,
                "peak_mib": peak,
            }


def in_process(n_items: int, n_carts: int) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(1)
    contexts = made_baskets(20 * n_items, n_items)
    with Threads(0) as pool:
        rows = item_neighbours(contexts, NeighbourSettings(neighbours=_NEIGHBOURS), pool)
    memory = SparseMemory(rows.indptr, rows.indices, rows.values)
    part = SparsePart("neighbours", ByKind(1, 1), BagEncoder(ByKind(0, 0), 200), memory)
    available = np.ones(n_items, dtype=np.bool_)
    vectors = (generator.standard_normal((n_items, _FACTORS)) * np.geomspace(1, 0.05, _FACTORS) * 0.1).astype(
        np.float32
    )
    vectors *= generator.lognormal(sigma=0.6, size=(n_items, 1)).astype(np.float32)
    encoder = RidgeEncoder(vectors, np.square(vectors, dtype=np.float64).sum(axis=0).astype(np.float32), 0.1, 0.01, 1.0)
    dense = DenseMemory("als", ByKind(1, 1), encoder, vectors[:1], Index.in_memory(vectors))
    recommenders = {
        "sparse": Recommender(None, [part], available),
        "vectors": Recommender(dense, [], available),
        "vectors and sparse": Recommender(dense, [part], available),
    }
    carts = [
        np.unique(np.searchsorted(np.cumsum(np.arange(1, n_items + 1) ** -0.8), each)).astype(np.int32)
        for each in generator.random((n_carts, _BASKET)) * np.sum(np.arange(1, n_items + 1) ** -0.8)
    ]
    seconds: dict[str, list[float]] = {name: [] for name in recommenders}
    for first in range(0, n_carts, _ROUND):  # some carts through each in turn, as a server would ask one of them
        for name, recommender in recommenders.items():
            for cart in carts[first : first + _ROUND]:
                started = time.perf_counter()
                query = recommender.query(Evidence.of_rows(cart), "cart")
                recommender.search([query], 20, [cart], None)
                seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        yield {
            "measured": "in process",
            "parts": name,
            "items": n_items,
            "neighbours": _NEIGHBOURS,
            **_told(taken, 1e6, "us"),
        }


def served(n_calls: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    shop = bundled_shop()
    with tempfile.TemporaryDirectory(prefix="nearcart-parts-") as directory:
        options = TrainOptions(
            events=(str(shop.events),),
            releases=Path(directory),
            model="blend",
            factors=16 if quick else 128,
            epochs=2 if quick else 8,
            validation_cases=50 if quick else 2000,
            non_product_pattern=shop.cleaning.non_product_pattern,
            quiet=True,
            **{f"{role}_column": name for role, name in vars(shop.columns).items()},
        )
        release = Release(Repository(Path(directory)).path(train_release(options)))
        users, items = (_ids(release, side) for side in ("users", "items"))
        parts = [part["name"] for part in release.manifest["parts"]]
        generator = np.random.default_rng(2)
        seconds: dict[str, list[float]] = {"user": [], "cart": []}
        with _serving(Path(directory)) as address, Client(address) as client:
            for turn in range(-20, n_calls):
                user = users[int(generator.integers(len(users)))]
                cart = [items[row] for row in generator.choice(min(1000, len(items)), _BASKET, replace=False).tolist()]
                for name, ask in (
                    ("user", lambda: client.recommend_for_user(user)),  # noqa: B023 - asked at once
                    ("cart", lambda: client.recommend_for_cart(cart)),  # noqa: B023
                ):
                    started = time.perf_counter()
                    ask()
                    if turn >= 0:
                        seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        yield {"measured": "served", "call": name, "parts": "+".join(parts), **_told(taken, 1e3, "ms")}
    yield {
        "measured": "served",
        "call": "cart beside user",
        "ratio_of_medians": float(np.median(seconds["cart"]) / np.median(seconds["user"])),
    }


def _told(seconds: Sequence[float], scale: float, unit: str) -> dict[str, Any]:
    values = np.array(seconds) * scale
    median, p99 = np.percentile(values, (50, 99))
    return {"n": len(values), f"median_{unit}": float(median), f"p99_{unit}": float(p99)}


def _ids(release: Release, side: str) -> list[str]:
    n = release.manifest["sizes"][side]
    arrays = release.table(f"{side}/ids", n)
    text, offsets = arrays["data"].tobytes(), arrays["offsets"]
    return [text[offsets[row] : offsets[row + 1]].decode() for row in range(n)]


@contextmanager
def _serving(releases: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "engine.cli", "serve", "--releases", str(releases), "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()
            server.communicate(timeout=_STOP_SECONDS)


if __name__ == "__main__":
    main()
