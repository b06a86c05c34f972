"""The search index: FAISS behind one door, which always answers in full, exactly scored and in one order.

FAISS proposes candidates; `engine.scoring` computes the scores that are returned. Where FAISS proposes too few (graphs
and inverted lists under exclusions do), or where an exact index cannot vouch for the last place within float32
rounding, the allowed rows are scanned. Nothing else in the project imports FAISS. Kept honest by tests/test_index.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexUnsupported, ReleaseCorrupt
from engine.scoring import best_of_rows, score_rows

EXACT = "Flat"
_SLACK = 16
"""Candidates asked for beyond those needed, so that near-ties at the last place seldom force a scan."""
_SCAN_SHARE = 64
"""Beyond n / 64 candidates the allowed rows are scanned: keeping them costs FAISS more. One thread of a 2-core EPYC, in
milliseconds, proposal against scan: 4,000 x 128 .12 / .05; 400,000 x 64 with n / 64 candidates 9.4 / 5.5, with n / 16
29 / 6.5; 70,000 x 128 with n / 32 3.3 / 2.8."""
_MAX_CANDIDATES = 1 << 22
"""Candidates of one call to FAISS, for all its queries together: 48 MiB."""

Found = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class IndexPlan:
    """How to search: a FAISS factory string, and search parameters as FAISS spells them ("efSearch=128")."""

    factory: str = EXACT
    search_parameters: str = ""


def use_one_thread() -> None:
    """One OpenMP thread for the calling thread: serving threads run beside each other, not inside one query."""
    faiss.omp_set_num_threads(1)


def build_index(vectors: NDArray[np.float32], plan: IndexPlan, path: Path) -> None:
    """Build the index of vectors float32 (n, d) and write it to path. Raises IndexUnsupported, OSError."""
    vectors = np.ascontiguousarray(vectors)
    index = _empty_index(plan, vectors.shape[1])
    try:
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
    except (RuntimeError, AssertionError) as error:
        raise _unsupported(plan, f"over {vectors.shape[0]:,} vectors of {vectors.shape[1]} factors", error) from error
    _write(index, path)


def check_plan(plan: IndexPlan, factors: int) -> None:
    """Raises IndexUnsupported where FAISS knows no such index or search parameters, before hours go into vectors."""
    _empty_index(plan, factors)


class Index:
    """An opened index over vectors float32 (n, d), with the rows that may be shown.

    Searches are thread-safe. `path` must have been verified by its checksum: FAISS accepts damaged files silently.
    """

    def __init__(
        self, path: Path, vectors: NDArray[np.float32], plan: IndexPlan, available: NDArray[np.bool_] | None = None
    ) -> None:
        try:
            self._faiss: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            _set_parameters(self._faiss, plan)
        except RuntimeError as error:
            raise ReleaseCorrupt(f"{path}: FAISS cannot read the index: {_reason(error)}") from error
        if (self._faiss.ntotal, self._faiss.d) != vectors.shape:
            raise ReleaseCorrupt(
                f"{path} holds {self._faiss.ntotal:,} vectors of {self._faiss.d} factors, "
                f"but the release has {vectors.shape[0]:,} of {vectors.shape[1]}"
            )
        self._vectors = vectors
        self._is_exact = plan.factory == EXACT
        hidden = available is not None and not available.all()
        self._available = available if hidden else None
        self._inner: Any = faiss.downcast_index(self._faiss)
        bitmap = np.packbits(self._available, bitorder="little") if self._available is not None else None
        self._selector = None if bitmap is None else faiss.IDSelectorBitmap(bitmap)
        try:
            self._propose(vectors[:1], 1)
        except RuntimeError as error:
            hint = "; it cannot leave out unavailable items" if self._selector is not None else ""
            raise IndexUnsupported(
                f"the index {plan.factory!r} with search parameters {plan.search_parameters!r} cannot be searched: "
                f"{_reason(error)}{hint}. Name another factory string, such as {EXACT!r} (exact) or 'HNSW32'"
            ) from error
        self.n_available = int(available.sum()) if available is not None else len(vectors)
        # The error of one float32 inner product is below d * 2^-24 * |q| * |y| (Higham 2002, section 3.1), whatever the
        # order of summation, plus 2^-150 for each product that is too small to be a normal float; two computations of
        # it differ by at most twice that. Norms in float64: squares of float32 overflow and vanish.
        squares = (np.einsum("nd,nd->n", block, block, dtype=np.float64).max() for block in _blocks(vectors))
        self._rounding = 2.0 * vectors.shape[1] * 2.0**-24 * float(np.sqrt(max(squares, default=0.0)))
        self._underflow = 2.0 * vectors.shape[1] * 2.0**-150

    def search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int32]]) -> list[Found]:
        """The k best available rows that are not excluded, for each of queries float32 (m, d).

        Returns rows and exact scores, falling, ties to the smaller row, min(k, allowed) of them: always for an exact
        index; for an approximate one in number, while which rows they are is its recall.
        """
        n = len(self._vectors)
        fetch = [k + len(rows) + _SLACK for rows in excluded]
        proposing = [i for i in range(len(queries)) if fetch[i] * _SCAN_SHARE <= n]
        found: list[Found | None] = [None] * len(queries)
        # What an approximate index finds depends on how much it is asked for, and by how many at once: its queries go
        # one by one, so that a batch equals its singles. An exact one answers the same however it is asked.
        for batch in _batches(proposing, fetch) if self._is_exact else [[i] for i in proposing]:
            proposed = self._propose(queries[batch], max(fetch[i] for i in batch))
            for i, scores, rows in zip(batch, *proposed, strict=True):
                found[i] = self._rank(queries[i], k, excluded[i], scores, rows)
        return [
            self.scan(query, k, rows) if each is None else each
            for query, rows, each in zip(queries, excluded, found, strict=True)
        ]

    def scan(self, query: NDArray[np.float32], k: int, excluded: NDArray[np.int32]) -> Found:
        """As `search` for one query, by scoring every allowed row: exact whatever the index."""
        allowed = np.ones(len(self._vectors), dtype=bool) if self._available is None else self._available.copy()
        allowed[excluded] = False
        return best_of_rows(self._vectors, np.flatnonzero(allowed).astype(np.int32), query, k)

    def best_of(self, query: NDArray[np.float32], k: int, rows: NDArray[np.int32]) -> Found:
        """The k best available of the given rows."""
        if self._available is not None:
            rows = rows[self._available[rows]]
        return best_of_rows(self._vectors, np.sort(rows), query, k)

    def _propose(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k candidates of each query that FAISS finds among the available rows."""
        inner, parameters = self._inner, None
        if isinstance(inner, faiss.IndexHNSW):
            # A search that keeps fewer than k candidates proposes fewer: exclusions would then cost recall unseen.
            parameters = faiss.SearchParametersHNSW(sel=self._selector, efSearch=max(inner.hnsw.efSearch, k))
        elif self._selector is not None and isinstance(inner, faiss.IndexIVF):
            parameters = faiss.SearchParametersIVF(sel=self._selector, nprobe=inner.nprobe)
        elif self._selector is not None:
            parameters = faiss.SearchParameters(sel=self._selector)
        scores, rows = self._faiss.search(queries, k, params=parameters)
        return scores, rows

    def _rank(
        self,
        query: NDArray[np.float32],
        k: int,
        excluded: NDArray[np.int32],
        proposed_scores: NDArray[np.float32],
        proposed: NDArray[np.int64],
    ) -> Found | None:
        """Score and order what FAISS proposed; None where the proposal cannot vouch for the answer."""
        complete = bool(proposed[-1] >= 0)
        rows = proposed[proposed >= 0].astype(np.int32)
        if len(excluded):
            rows = rows[~np.isin(rows, excluded)]
        if len(rows) < k and len(rows) < self._n_allowed(excluded):
            return None
        scores = np.empty(len(rows), dtype=np.float32)
        score_rows(self._vectors, rows, query, scores)
        order = np.lexsort((rows, -scores))[:k]
        if self._is_exact and complete and len(order):
            # A row that was not proposed scores at most this much.
            norm = float(np.linalg.norm(query.astype(np.float64)))
            unseen = float(proposed_scores[-1]) + self._rounding * norm + self._underflow
            if unseen >= scores[order[-1]]:
                return None
        return rows[order], scores[order]

    def _n_allowed(self, excluded: NDArray[np.int32]) -> int:
        shown = np.unique(excluded) if self._available is None else np.unique(excluded[self._available[excluded]])
        return self.n_available - len(shown)


def measure_recall(
    index: Index, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int32]]
) -> NDArray[np.float64]:
    """Recall@k of each query against exact search, by score: a tie at the k-th place counts as found."""
    answers = index.search(queries, k, excluded)
    recalls = np.empty(len(queries))
    for i, (query, rows, (_, scores)) in enumerate(zip(queries, excluded, answers, strict=True)):
        exact = index.scan(query, k, rows)[1]
        recalls[i] = np.count_nonzero(scores >= exact[-1]) / len(exact) if len(exact) else 1.0
    return recalls


def _write(index: Any, path: Path) -> None:
    """Write through Python's file: FAISS's own does not notice when the last block finds no room on the disk."""
    failures: list[OSError] = []
    with path.open("wb") as file:

        def write(data: bytes) -> None:
            try:
                if not failures:
                    file.write(data)
            except OSError as error:  # FAISS would lose it
                failures.append(error)

        faiss.write_index(index, faiss.PyCallbackIOWriter(write))
        if failures:
            raise failures[0]


def _batches(queries: list[int], fetch: list[int]) -> list[list[int]]:
    """Queries that want about as many candidates together, so that one long exclusion does not cost all of them."""
    batches: list[list[int]] = []
    for i in sorted(queries, key=lambda query: fetch[query]):
        batch = batches[-1] if batches else []
        if not batch or fetch[i] > 2 * fetch[batch[0]] or fetch[i] * (len(batch) + 1) > _MAX_CANDIDATES:
            batch = []
            batches.append(batch)
        batch.append(i)
    return batches


def _empty_index(plan: IndexPlan, factors: int) -> Any:
    if re.search(r"HNSW[01](?![0-9])", plan.factory):
        raise _unsupported(plan, f"of {factors} factors", ValueError("a graph needs 2 links a vector or more"))
    try:
        index = faiss.index_factory(factors, plan.factory, faiss.METRIC_INNER_PRODUCT)
        _set_parameters(index, plan)
    except (RuntimeError, AssertionError) as error:
        raise _unsupported(plan, f"of {factors} factors", error) from error
    return index


def _unsupported(plan: IndexPlan, over: str, error: Exception) -> IndexUnsupported:
    return IndexUnsupported(
        f"FAISS could not build the index {plan.factory!r} with search parameters {plan.search_parameters!r} {over}: "
        f"{_reason(error)}. Name another factory string, such as {EXACT!r} (exact) or 'HNSW32'"
    )


def _set_parameters(index: Any, plan: IndexPlan) -> None:
    if plan.search_parameters:
        faiss.ParameterSpace().set_index_parameters(index, plan.search_parameters)


def _blocks(vectors: NDArray[np.float32], size: int = 65_536) -> list[NDArray[np.float32]]:
    return [vectors[start : start + size] for start in range(0, len(vectors), size)]


def _reason(error: BaseException) -> str:
    """What a FAISS message says after the C++ function and source position that it begins with."""
    return re.split(r" at \S+:\d+: ", str(error).strip())[-1] or type(error).__name__
