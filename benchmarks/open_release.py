"""How long does it take to open a release of a hundred million users, and to answer the first of them?

    python -m benchmarks.open_release [--users 100000000] [--runs 5] [--quick] [--json FILE]

Makes and publishes a release of that many users: one entry of history each, vectors of 2 factors, 1,000 items. What
grows with the users is their ids, histories and vectors; the factors are few to spare the disk (5.2 GB at the default).
Opens it in fresh processes, with its files in the page cache, and after the kernel was asked to drop them. Importing is
not counted. As the measure of what is avoided, each process also makes a dict of a million of the ids. One raw row per
process; `--quick` checks that it works and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.raw_rows import write_rows
from engine.calibration import add_measured_index
from engine.canaries import add_canaries
from engine.encoders import RidgeEncoder
from engine.histories import Histories
from engine.ids import IdTable, StringTable
from engine.index import Index
from engine.kinds import ByKind
from engine.measurement import cart_queries
from engine.plan import IndexPlan
from engine.recommender import DenseMemory, Recommender
from engine.repository import Repository

_FACTORS, _ITEMS, _DIGITS = 2, 1_000, 9
_ENCODER = {"unobserved_weight": 0.1, "regularization": 0.01, "regularization_exponent": 1.0}

_CHILD = """
import json, sys, time
from pathlib import Path
from engine.queries import UserQuery
from engine.retrieval import Snapshot
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
directory, n_users = Path(sys.argv[1]), int(sys.argv[2])
ids = [f"{row:09}" for row in (n_users // 3, 2 * n_users // 3, n_users - 1)]
before, times = resident(), [time.perf_counter()]
snapshot = Snapshot.open(directory)
times.append(time.perf_counter())
opened = resident()
for user_id in ids:
    answer = snapshot.recommend_for_users([UserQuery(user_id, strict=True)])[0]
    times.append(time.perf_counter())
    assert len(answer.item_ids) == 20 and answer.source.value == "personal"
million = [f"{row:09}" for row in range(min(n_users, 1_000_000))]
started = time.perf_counter()
table = {user_id: row for row, user_id in enumerate(million)}
print(json.dumps({
    "open_seconds": times[1] - times[0],
    "answer_seconds": [after - before for before, after in zip(times[1:], times[2:])],
    "open_resident_bytes": opened - before,
    "dict_seconds_per_million_ids": (time.perf_counter() - started) * 1e6 / len(table),
}))
"""


def main() -> None:
    arguments = _arguments()
    n_users, runs = (20_000, 2) if arguments.quick else (arguments.users, arguments.runs)
    with tempfile.TemporaryDirectory(prefix="nearcart-benchmark-") as folder:
        started = time.perf_counter()
        directory = _publish(Repository(Path(folder)), n_users)
        size_bytes = sum(path.stat().st_size for path in _files(directory))
        print(
            f"published {n_users:,} users, {size_bytes / 1e9:.2f} GB, in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        rows = []
        for run in range(runs):
            for cache in ("warm", "dropped"):
                if cache == "dropped":
                    _drop_from_cache(directory)
                measured = _measured(directory, n_users)
                rows.append({"run": run, "page_cache": cache, "users": n_users, "size_bytes": size_bytes, **measured})
    for cache in ("warm", "dropped"):
        _print_summary(cache, [row for row in rows if row["page_cache"] == cache])
    if arguments.json:
        write_rows(arguments.json, rows)


def _publish(repository: Repository, n_users: int) -> Path:
    """A release whose user n is called by n's nine digits, has seen item n mod 1,000, and has a vector of its own."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(_ITEMS, _FACTORS))
    vectors = (vectors @ np.linalg.eigh(vectors.T @ vectors)[1]).astype(np.float32)
    spectrum = np.square(vectors, dtype=np.float64).sum(axis=0).astype(np.float32)
    available = np.ones(_ITEMS, dtype=bool)
    carts = (np.arange(0, 41, 2, dtype=np.int64), np.arange(40, dtype=np.int32))
    encoder = RidgeEncoder(vectors, spectrum, **_ENCODER)
    queries = {"cart": cart_queries(encoder, carts)}
    popularity = np.full(_ITEMS, n_users // _ITEMS, dtype=np.int32)
    with repository.draft() as draft:
        draft.add_arrays("users/ids", IdTable.over(_numbers(n_users)).arrays())
        starts, rows = np.arange(n_users + 1, dtype=np.int64), np.arange(n_users, dtype=np.int32) % _ITEMS
        histories = Histories(starts, rows, np.ones(n_users, dtype=np.float32))
        histories.store(draft)
        draft.add_arrays("items/ids", IdTable.over(_numbers(_ITEMS)).arrays())
        draft.add_array("items/popularity", popularity)
        draft.add_array("items/popular_rows", np.arange(_ITEMS, dtype=np.int32))
        draft.add_array("items/available", available)
        draft.add_array("parts/0/item_vectors", vectors)
        draft.add_array("parts/0/spectrum", spectrum)
        user_vectors = generator.standard_normal((n_users, _FACTORS), dtype=np.float32)
        draft.add_array("parts/0/user_vectors", user_vectors)
        draft.add_array("canaries/carts.indptr", carts[0])
        draft.add_array("canaries/carts.indices", carts[1])
        index = add_measured_index(draft, IndexPlan(), vectors, available, queries, 0.99)
        exact = Index(draft, vectors, IndexPlan(), available)
        dense = DenseMemory("als", ByKind(1, 1), encoder, user_vectors, exact)
        add_canaries(draft, Recommender(dense, [], available), histories, carts)
        part = {
            "name": "als",
            "weight": 1.0,
            "encoder": {"kind": "ridge", **_ENCODER},
            "memory": {"kind": "dense", "factors": _FACTORS},
        }
        sizes = {"users": n_users, "items": _ITEMS, "entries": n_users}
        fields = {"sizes": sizes, "parts": [part], "index": index, "attributes": []}
        return repository.path(repository.publish(draft, fields, promote=True))


def _numbers(n: int) -> StringTable:
    """The ids "000000000", "000000001" and so on, without a Python string each."""
    digits = np.empty((n, _DIGITS), dtype=np.uint8)
    rest = np.arange(n, dtype=np.int32)
    for place in reversed(range(_DIGITS)):
        digits[:, place] = rest % 10 + ord("0")
        rest //= 10
    return StringTable(digits.ravel(), np.arange(n + 1, dtype=np.int64) * _DIGITS)


def _measured(directory: Path, n_users: int) -> dict[str, Any]:
    command = [sys.executable, "-c", _CHILD, str(directory), str(n_users)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        raise SystemExit(f"opening {directory} failed:\n{child.stderr}")
    return dict(json.loads(child.stdout))


def _drop_from_cache(directory: Path) -> None:
    for path in _files(directory):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _print_summary(cache: str, rows: list[dict[str, Any]]) -> None:
    columns: dict[str, NDArray[np.float64]] = {
        "open": np.array([row["open_seconds"] for row in rows]),
        "first answer": np.array([row["answer_seconds"][0] for row in rows]),
        "third answer": np.array([row["answer_seconds"][2] for row in rows]),
    }
    for name, seconds in columns.items():
        print(
            f"page cache {cache:8} {name:13} median {np.median(seconds) * 1e3:8.2f} ms, "
            f"{seconds.min() * 1e3:.2f} to {seconds.max() * 1e3:.2f} ({len(seconds)} processes)"
        )
    grown = statistics.median(row["open_resident_bytes"] for row in rows)
    avoided = statistics.median(row["dict_seconds_per_million_ids"] for row in rows) * rows[0]["users"] / 1e6
    print(
        f"page cache {cache:8} memory grew by {grown / 2**20:.1f} MiB; a dict of the ids alone: about {avoided:,.1f} s"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000_000, help="users of the release (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="processes of each kind (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="20,000 users: checks that the benchmark runs")
    parser.add_argument("--json", type=Path, help="write the raw rows to this file, one JSON object a line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
