"""Interleaved rounds over every index and setting: one query at a time, and batches; one thread.

The first round is a warm-up, and says what each setting finds. Settings that it shows far from their library's frontier
are not timed again: their rows have `rounds` 0 and the time of the warm-up.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogues import Catalogue
from benchmarks.search_quality import exact, lower_bound
from benchmarks.search_seam import Ask, Built, Parameters, Vectors, words

_WARM_QUERIES = 10
"""Before each pass, outside the clock: the caches and branches of the last library are not this one's fault."""
_FAR = 1.3
"""A setting is far from the frontier where another finds as much and takes less than this times shorter."""
_BLOCK_ROWS = 4096
"""Of the matrix product that a batch is compared with."""

Answers = list[Any]


@dataclass
class Entry:
    """An index with a setting, and what was measured of it: seconds by mode, for each round."""

    rival: str
    build: Parameters
    setting: Parameters
    built: Built
    about: dict[str, Any]
    recalls: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    seconds: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Mode:
    """How queries (m, d) are asked: `size` at a time, 0 for one by one. kinds: the part of each kind."""

    name: str
    size: int
    queries: Vectors
    kinds: dict[str, slice]


def modes_of(catalogue: Catalogue, n_single: int, batches: Sequence[int]) -> list[Mode]:
    """One by one of every kind; batches of users, four of the small ones."""
    parts = {kind: queries[:n_single] for kind, queries in catalogue.queries.items()}
    ends = np.cumsum([0, *(len(part) for part in parts.values())])
    kinds = {kind: slice(ends[i], ends[i + 1]) for i, kind in enumerate(parts)}
    users = catalogue.queries["user"]
    modes = [Mode("single", 0, np.concatenate(list(parts.values())), kinds)]
    for size in batches:
        size = min(size, len(users))
        queries = users[: min(4 * size, len(users) // size * size)]
        modes.append(Mode(f"batch {size}", size, queries, {"user": slice(0, len(queries))}))
    return modes


def measure(
    entries: Sequence[Entry], catalogue: Catalogue, modes: Sequence[Mode], k: int, rounds: int
) -> list[dict[str, Any]]:
    """The raw rows: one for each entry, mode and kind of query, and the matrix product of the batches."""
    rows: list[dict[str, Any]] = []
    asked = list(entries)
    gc.collect()
    for mode in modes:
        truth = exact(catalogue.vectors, mode.queries, k)
        for entry in asked:
            seconds, answers = _one_pass(entry.built.ask(k, entry.setting), mode)
            entry.seconds[mode.name], entry.recalls[mode.name] = [seconds], truth.recalls(answers)
        near = near_frontier(asked, mode)
        products: list[float] = []
        for number in range(rounds):
            for entry in near if number % 2 == 0 else reversed(near):
                entry.seconds[mode.name].append(_one_pass(entry.built.ask(k, entry.setting), mode)[0])
            if mode.size:
                products.append(_product_seconds(catalogue.vectors, mode.queries[: mode.size]))
        for entry in asked:
            rows += _rows(entry, mode, catalogue, products)
        asked = near
    return rows


def near_frontier(entries: Sequence[Entry], mode: Mode) -> list[Entry]:
    """Those that no other setting of the same rival beats by far: in recall of every kind, and in time."""
    kept = []
    for entry in entries:
        others = (other for other in entries if other.rival == entry.rival and other is not entry)
        if "promise" in entry.setting or not any(_beats(other, entry, mode) for other in others):
            kept.append(entry)
    return kept


def _beats(one: Entry, other: Entry, mode: Mode) -> bool:
    found = (
        one.recalls[mode.name][part].mean() >= other.recalls[mode.name][part].mean() for part in mode.kinds.values()
    )
    return _median(one, mode) * _FAR < _median(other, mode) and all(found)


def _median(entry: Entry, mode: Mode) -> float:
    return float(np.median(entry.seconds[mode.name][0]))


def _one_pass(ask: Ask, mode: Mode) -> tuple[NDArray[np.float64], Answers]:
    """Seconds a query, of each query or of each batch, and all answers."""
    clock, queries = time.perf_counter, mode.queries
    answers: Answers = []
    seconds = []
    gc.disable()
    try:
        for query in queries[:_WARM_QUERIES]:
            ask.one(query)
        if not mode.size:
            for query in queries:
                started = clock()
                rows = ask.one(query)
                seconds.append(clock() - started)
                answers.append(rows)
        for start in range(0, len(queries) if mode.size else 0, mode.size or 1):
            batch = queries[start : start + mode.size]
            started = clock()
            rows = ask.many(batch)
            seconds.append((clock() - started) / len(batch))
            answers += list(rows)
    finally:
        gc.enable()
    return np.array(seconds), answers


def _product_seconds(vectors: Vectors, queries: Vectors) -> float:
    """Seconds a query of the matrix product of a batch with all vectors, without choosing any."""
    out = np.empty((len(queries), _BLOCK_ROWS), dtype=np.float32)
    started = time.perf_counter()
    for first in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[first : first + _BLOCK_ROWS]
        np.matmul(queries, block.T, out=out[:, : len(block)])
    return (time.perf_counter() - started) / len(queries)


def _rows(entry: Entry, mode: Mode, catalogue: Catalogue, products: list[float]) -> list[dict[str, Any]]:
    rows = []
    warm_up, *rounds = entry.seconds[mode.name]
    flops = 2.0 * catalogue.vectors.size
    for kind, part in mode.kinds.items():
        recalls = entry.recalls[mode.name][part]
        timed = [each if mode.size else each[part] for each in rounds or [warm_up]]
        medians = [float(np.median(each)) * 1e6 for each in timed]
        row = {
            "set": catalogue.name,
            "items": len(catalogue.vectors),
            "factors": catalogue.vectors.shape[1],
            "part": "search",
            "mode": mode.name,
            "kind": kind,
            "rival": entry.rival,
            **entry.about,
            "build": words(entry.build),
            "setting": words(entry.setting),
            "promise": entry.setting.get("promise"),
            "chosen": entry.built.chosen.get(entry.setting.get("promise")),
            "queries": len(recalls),
            "recall": float(recalls.mean()),
            "lower_95": lower_bound(recalls),
            "rounds": len(rounds),
            "us": statistics.median(medians),
            "us_least": min(medians),
            "us_most": max(medians),
            "p99_us": None if mode.size else statistics.median(float(np.quantile(each, 0.99)) * 1e6 for each in timed),
            "index_bytes": entry.built.size_bytes,
        }
        if mode.size and products:
            row["gflops"] = flops / row["us"] / 1e3
            row["sgemm_gflops"] = flops / statistics.median(products) / 1e9
        rows.append(row)
    return rows
