"""Searches among some of the items, and what a cart costs: the two parts of benchmarks.recall that rivals lack.

Filters keep a share of the items: at random, or of the more or the less popular half of them. An answer is short where
it has fewer than min(k, allowed) rows. Users are asked one by one, in rounds as of benchmarks/search_rounds.py.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogues import Catalogue
from benchmarks.search_quality import exact, lower_bound
from benchmarks.search_rounds import Entry
from benchmarks.search_seam import Vectors, words
from engine.index import Index

SHARES = (1.0, 0.5, 0.1, 0.01, 0.001)
_FILTERED = {"faiss-flat": {}, "faiss-hnsw": {"ef": 128}, "hnswlib": {"ef": 128}}
"""Rivals that filter, and the setting that they are asked with; Nearcart with every promise."""
_QUERIES = 100
_CARTS = 200

Search = Callable[[Vectors], Any]


def masks(popularity: NDArray[np.floating]) -> list[tuple[str, float, NDArray[np.bool_]]]:
    """The filters of the matrix: name, share of all items, allowed bool (n,). At least one item is allowed."""
    n, generator = len(popularity), np.random.default_rng(2)
    shuffled = generator.permutation(n)
    falling = shuffled[np.argsort(-popularity[shuffled], kind="stable")]
    found = []
    halves = {"random": shuffled, "popular half": falling[: n // 2], "unpopular half": falling[n // 2 :]}
    for name, rows in halves.items():
        for share in (each for each in SHARES if each <= len(rows) / n + 0.01):
            allowed = np.zeros(n, dtype=np.bool_)
            allowed[generator.permutation(rows)[: max(1, round(share * n))]] = True
            found.append((name, share, allowed))
    return found


def measure_filters(entries: Sequence[Entry], catalogue: Catalogue, k: int, rounds: int) -> list[dict[str, Any]]:
    """One raw row for each filter and index that can filter."""
    rows = []
    queries = catalogue.queries["user"][:_QUERIES]
    asked = _filtering(entries)
    for name, share, allowed in masks(catalogue.popularity):
        truth = exact(catalogue.vectors, queries, k, allowed)
        searches = {id(entry): _search(entry, k, allowed) for entry in asked}
        times: dict[int, list[NDArray[np.float64]]] = {id(entry): [] for entry in asked}
        for number in range(rounds + 1):
            for entry in asked if number % 2 == 0 else reversed(asked):
                seconds, answers = _one_by_one(searches[id(entry)], queries)
                if number:
                    times[id(entry)].append(seconds)
                    continue
                recalls = truth.recalls(answers)
                rows.append(
                    {
                        **_about(catalogue),
                        "part": "filters",
                        "filter": name,
                        "share": share,
                        "allowed": int(allowed.sum()),
                        "rival": entry.rival,
                        **entry.about,
                        "build": words(entry.build),
                        "setting": words(entry.setting),
                        "queries": len(queries),
                        "recall": float(recalls.mean()),
                        "lower_95": lower_bound(recalls),
                        "short": sum(_size(answer, allowed) < truth.k for answer in answers),
                        "entry": id(entry),
                    }
                )
        for row in rows[-len(asked) :] if asked else []:
            timed = times[row.pop("entry")]
            row["us"] = statistics.median(float(np.median(each)) for each in timed) * 1e6
            row["p99_us"] = statistics.median(float(np.quantile(each, 0.99)) for each in timed) * 1e6
    return rows


def measure_carts(entries: Sequence[Entry], catalogue: Catalogue, k: int, rounds: int) -> list[dict[str, Any]]:
    """What it takes to encode a cart, and to answer it, beside the query of a user; for every promise of Nearcart."""
    carts = catalogue.carts[:_CARTS]
    ones = np.ones(len(carts[0]), dtype=np.float32) if carts else np.empty(0, dtype=np.float32)
    users = catalogue.queries["user"][: len(carts)]
    rows = []
    for entry in (each for each in entries if each.rival == "nearcart" and carts):
        index: Index = entry.built.opened[entry.setting["promise"]]
        none = [np.empty(0, dtype=np.int32)]

        def encode(cart: NDArray[np.int32]) -> Vectors:
            return catalogue.encoder.encode(cart, ones)

        def answer(cart: NDArray[np.int32], index: Index = index) -> object:
            # What is in a cart does not come back.
            return index.search(encode(cart)[np.newaxis], k, [cart])

        def of_user(query: Vectors, index: Index = index, none: list[NDArray[np.int32]] = none) -> object:
            return index.search(query[np.newaxis], k, none)

        times = [
            [float(np.median(_one_by_one(work, asked)[0])) * 1e6 for work, asked in works]
            for works in [((encode, carts), (answer, carts), (of_user, users))] * (rounds + 1)
        ]
        medians = [statistics.median(each[i] for each in times[1:]) for i in range(3)]
        rows.append(
            {
                **_about(catalogue),
                "part": "carts",
                "length": len(ones),
                "promise": entry.setting["promise"],
                **entry.about,
                "queries": len(carts),
                **dict(zip(("encode_us", "answer_us", "user_us"), medians, strict=True)),
            }
        )
    return rows


def _about(catalogue: Catalogue) -> dict[str, Any]:
    return {"set": catalogue.name, "items": len(catalogue.vectors), "factors": catalogue.vectors.shape[1]}


def _filtering(entries: Sequence[Entry]) -> list[Entry]:
    """Every promise of Nearcart, and of each rival its first build with the setting above."""
    found, seen = [], set()
    for entry in entries:
        if entry.built.filtered is None:
            continue
        if entry.rival == "nearcart":
            found.append(entry)
        elif entry.rival not in seen and entry.setting == _FILTERED.get(entry.rival):
            seen.add(entry.rival)
            found.append(entry)
    return found


def _search(entry: Entry, k: int, allowed: NDArray[np.bool_]) -> Search:
    assert entry.built.filtered is not None
    return entry.built.filtered(k, entry.setting, allowed)


def _one_by_one(work: Callable[[Any], Any], queries: Sequence[Any]) -> tuple[NDArray[np.float64], list[Any]]:
    clock = time.perf_counter
    seconds, answers = np.empty(len(queries)), []
    for i, query in enumerate(queries):
        started = clock()
        answers.append(work(query))
        seconds[i] = clock() - started
    return seconds, answers


def _size(answer: Any, allowed: NDArray[np.bool_]) -> int:
    """Distinct rows of an answer that are allowed."""
    rows = np.asarray(answer).astype(np.int64)
    return int(np.count_nonzero(allowed[np.unique(rows[rows >= 0])]))
