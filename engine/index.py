"""The search index: one door, which always answers in full, exactly scored and in one order.

Every index holds the table of engine.pruned_search, whose answers are exact: it takes what is filtered, large batches,
and whatever an approximate search cannot vouch for. A plan may put an approximate search before it: over codes of few
bits, or a FAISS index. Kept honest by tests/test_index.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.faiss_search import FaissSearch, build_faiss, check_faiss_plan
from engine.plan import AUTO, IndexPlan
from engine.pruned_search import PrunedSearch
from engine.pruned_table import PrunedTable, build_table
from engine.quantized_search import QuantizedSearch
from engine.quantized_table import QuantizedTable, build_quantized, require_quantizable
from engine.recall import recall_of
from engine.release import INDEX_FILE, Draft
from engine.scoring import Found, best_of_rows
from engine.stacked import Slices, Stacked
from engine.stored_arrays import Files, reader
from engine.vector_table import Vectors, table_of

TABLE = "index"
"""The directory of a release that holds the arrays of a PrunedTable."""
QUANTIZED_TABLE = "quantized"
"""That of a QuantizedTable, where the plan is one."""
APPROXIMATE_FILES = (f"{QUANTIZED_TABLE}/", INDEX_FILE)
"""What a release has of them, one at most; a rebuilt index replaces it."""
_SCAN_SHARE = 8
"""Where fewer than n / 8 rows are allowed they are scored one by one: pruning has no high score to compare with."""
_NOTHING: Found = (np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))


def check_plan(plan: IndexPlan, factors: int) -> None:
    """Raises IndexUnsupported for a plan that cannot be built, before hours go into vectors."""
    if plan.is_exact or plan.bits or plan.factory == AUTO:
        plan.require_own_parameters()
    else:
        check_faiss_plan(plan, factors)
    if plan.bits:
        require_quantizable(plan.bits, factors)


def add_table(draft: Draft, vectors: Vectors) -> None:
    """Build what every index of vectors (n, d) holds into a draft, unless it is there. Raises PublishFailed."""
    if draft.has(f"{TABLE}/{PrunedTable.names()[0]}"):
        return
    build_table(vectors).store(draft, TABLE)


def add_index(draft: Draft, vectors: Vectors, plan: IndexPlan) -> None:
    """Build the index of vectors (n, d) into a draft. Raises IndexUnsupported, PublishFailed."""
    check_plan(plan, vectors.shape[1])
    add_table(draft, vectors)
    if plan.bits:
        build_quantized(vectors, _table(draft, vectors), plan.bits).store(draft, QUANTIZED_TABLE)
    elif not plan.is_exact:
        draft.add_file(INDEX_FILE, lambda path: build_faiss(vectors, plan, path))


def discard_approximate(draft: Draft) -> None:
    """Take back from a draft what answers approximately; the exact table stays."""
    for name in APPROXIMATE_FILES:
        draft.discard(name)


class Index:
    """An opened index over vectors (n, d), with the rows that may be shown. Searches are thread-safe.

    `pruned` is its exact search, which does not know what may be shown.
    """

    def __init__(
        self, files: Files, vectors: Vectors, plan: IndexPlan, available: NDArray[np.bool_] | None = None
    ) -> None:
        """Open what lies in `files`. Raises ReleaseCorrupt, IndexUnsupported."""
        hidden = available is not None and not available.all()
        self._available = available if hidden else None
        self._vectors = table_of(vectors)
        self._matrix_queries = plan.matrix_queries
        table = _table(files, vectors)
        self.pruned = PrunedSearch(vectors, table)
        self._quantized: QuantizedSearch | None = None
        self._fast: Callable[[NDArray[np.float32], int, NDArray[np.int32]], Found | None] | None = None
        if plan.bits:
            codes = QuantizedTable.read(reader(files, QUANTIZED_TABLE), len(vectors), vectors.shape[1], plan.bits)
            self._quantized = QuantizedSearch(vectors, table, codes, plan, self._available)
            self._fast = self._quantized.search
        elif not plan.is_exact:
            self._fast = FaissSearch(files.verified_path(INDEX_FILE), vectors, plan, self._available).search
        self.is_exact = self._fast is None
        self.n_available = int(available.sum()) if available is not None else len(vectors)

    @classmethod
    def in_memory(cls, vectors: Vectors, available: NDArray[np.bool_] | None = None) -> Index:
        """Exact search over vectors that lie in no files; its table is made now."""
        return cls(_NoFiles(), vectors, IndexPlan(), available)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]],
        allowed: NDArray[np.bool_] | None = None,
    ) -> list[Found]:
        """The k best rows that are available, allowed (bool (n,), None for all) and not excluded (int32, ascending).

        For each of queries float32 (m, d): rows and exact scores, falling, ties to the smaller row, as many as there
        are up to k. Which they are is exact, but for few queries without a filter where the plan is approximate: there
        it is the plan's recall.
        """
        if self._fast is None or allowed is not None or len(queries) >= self._matrix_queries:
            return self.exact(queries, k, excluded, allowed)
        if k == 0:
            return [_NOTHING for _ in queries]
        answers = []
        for query, rows in zip(queries, excluded, strict=True):
            found = self._fast(query, k, rows)
            answers.append(self.exact(query[np.newaxis], k, [rows])[0] if found is None else found)
        return answers

    def each(self, queries: NDArray[np.float32], k: int, excluded: Slices) -> Stacked:
        """As `search` without a filter, with nothing of Python between one query and the next. k is at least 1."""
        if self._quantized is not None and len(queries) < self._matrix_queries:
            found = self._quantized.each(queries, k, excluded)
            again = np.flatnonzero(found.sizes < 0)
            for i in again.tolist():
                found[i] = self.exact(queries[i : i + 1], k, [excluded[i]])[0]
            return found
        if self._fast is None and len(queries) < self._matrix_queries:
            return self.pruned.each(queries, k, excluded, self._available)
        return Stacked.of(self.search(queries, k, [excluded[i] for i in range(len(queries))]), k)

    def exact(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]],
        allowed: NDArray[np.bool_] | None = None,
    ) -> list[Found]:
        """As `search`, and exact whatever the plan."""
        shown = self._available if allowed is None else self._shown(allowed)
        if k == 0:
            return [_NOTHING for _ in queries]
        if allowed is not None and shown is not None and np.count_nonzero(shown) * _SCAN_SHARE < len(shown):
            rows = np.flatnonzero(shown).astype(np.int32)
            return [
                best_of_rows(self._vectors, np.setdiff1d(rows, out, assume_unique=True), query, k)
                for query, out in zip(queries, excluded, strict=True)
            ]
        if len(queries) < self._matrix_queries:
            return [self.pruned.one(query, k, out, shown) for query, out in zip(queries, excluded, strict=True)]
        return self.pruned.many(np.ascontiguousarray(queries), k, excluded, shown)

    def best_of(self, query: NDArray[np.float32], k: int, rows: NDArray[np.int32]) -> Found:
        """The k best available of the given rows."""
        if self._available is not None:
            rows = rows[self._available[rows]]
        return best_of_rows(self._vectors, np.sort(rows), query, k)

    def scan(
        self,
        query: NDArray[np.float32],
        k: int,
        excluded: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found:
        """As `exact` for query float32 (d,), by scoring every row: slow, and right whatever became of the index."""
        shown = np.ones(len(self._vectors), dtype=np.bool_) if allowed is None else allowed.copy()
        if self._available is not None:
            shown &= self._available
        shown[excluded] = False
        return best_of_rows(self._vectors, np.flatnonzero(shown).astype(np.int32), query, k)

    def _shown(self, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return allowed if self._available is None else self._available & allowed


class _NoFiles:
    def has(self, name: str) -> bool:
        return False

    def array(self, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        raise ReleaseCorrupt(f"there is no array {name!r}: nothing is stored")

    def verified_path(self, name: str) -> Path:
        raise ReleaseCorrupt(f"there is no file {name!r}: nothing is stored")


def recalls(
    index: Index,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int32]],
    best: Sequence[Found] | None = None,
) -> NDArray[np.float64]:
    """Recall@k of each query, asked alone, against exact search, by score: a tie at the k-th place counts as found.

    best: what exact search found, if that is known.
    """
    best = index.exact(queries, k, excluded) if best is None else best
    found = np.empty(len(queries))
    for i, (query, rows, (_, exact)) in enumerate(zip(queries, excluded, best, strict=True)):
        found[i] = recall_of(index.search(query[np.newaxis], k, [rows])[0][1], exact)
    return found


def _table(files: Files, vectors: Vectors) -> PrunedTable:
    """The table in `files`; releases of version 1 have none, and it is built in memory."""
    if not any(files.has(f"{TABLE}/{name}") for name in PrunedTable.names()):
        return build_table(vectors)
    table = PrunedTable.read(reader(files, TABLE), *vectors.shape)
    if len(table.order) and not (table.order.min() >= 0 and table.order.max() < len(vectors)):
        raise ReleaseCorrupt(f"the index names rows outside the {len(vectors):,} of the release")
    return table
