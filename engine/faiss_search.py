"""Search by FAISS: it proposes candidates, and `engine.scoring` computes the scores that are returned.

What it proposes is approximate, always; exact search is engine.pruned_search. Where it proposes too few (graphs and
inverted lists under exclusions do), there is no answer from here, and engine.index asks the exact search. Kept honest
by tests/test_index.py and tests/test_faiss_search.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexUnsupported, ReleaseCorrupt
from engine.libraries import faiss
from engine.plan import PRUNED, IndexPlan
from engine.scoring import Found, ordered
from engine.vector_table import Vectors

_ANOTHER = f"Name another factory string, such as {PRUNED!r} (exact) or 'HNSW32'"
_SLACK = 16
"""Candidates beyond those needed: the last ones that a graph keeps are its worst, and exclusions leave just those."""
_MOST_SHARE = 64
"""Beyond n / 64 candidates the exact search is asked: keeping them costs FAISS more than it spares."""
_MOST_TRAINED = 1 << 20
"""Vectors that FAISS learns its lists and codes from: it looks at 256 a list itself, and 10 million vectors have 4,096
lists."""
_ADDED_AT_ONCE = 1 << 17
"""Vectors that are decoded and handed over together, 64 MiB with 128 factors."""


def build_faiss(vectors: Vectors, plan: IndexPlan, path: Path) -> None:
    """Build the index of vectors (n, d) and write it to path. Raises IndexUnsupported, OSError."""
    n = len(vectors)
    index = _empty_index(plan, vectors.shape[1])
    try:
        if not index.is_trained:
            rows = slice(None) if n <= _MOST_TRAINED else np.linspace(0, n - 1, _MOST_TRAINED).astype(np.int64)
            index.train(np.ascontiguousarray(vectors[rows]))
        for start in range(0, n, _ADDED_AT_ONCE):
            index.add(np.ascontiguousarray(vectors[start : start + _ADDED_AT_ONCE]))
    except (RuntimeError, AssertionError) as error:
        raise _unsupported(plan, f"over {n:,} vectors of {vectors.shape[1]} factors", error) from error
    _write(index, path)


def check_faiss_plan(plan: IndexPlan, factors: int) -> None:
    """Raises IndexUnsupported where FAISS knows no such index or search parameters, before hours go into vectors."""
    _empty_index(plan, factors)


class FaissSearch:
    """A FAISS index over vectors (n, d), with the rows that are available, None for all. Thread-safe.

    `path` must have been verified by its checksum: FAISS accepts damaged files silently.
    """

    def __init__(self, path: Path, vectors: Vectors, plan: IndexPlan, available: NDArray[np.bool_] | None) -> None:
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
        self._rerank = plan.rerank
        self._inner: Any = faiss.downcast_index(self._faiss)
        bitmap = None if available is None else np.packbits(available, bitorder="little")
        self._selector = None if bitmap is None else faiss.IDSelectorBitmap(bitmap)
        try:
            self._propose(vectors[:1], 1)
        except RuntimeError as error:
            hint = "; it cannot leave out unavailable items" if self._selector is not None else ""
            raise IndexUnsupported(
                f"the index {plan.factory!r} with search parameters {plan.search_parameters!r} cannot be searched: "
                f"{_reason(error)}{hint}. {_ANOTHER}"
            ) from error

    def search(self, query: NDArray[np.float32], k: int, excluded: NDArray[np.int32]) -> Found | None:
        """The k best available rows for query float32 (d,) that FAISS finds and that are not excluded.

        None where it finds fewer than k: an index that keeps few candidates loses them to what is excluded. Queries go
        one by one, since what is found depends on how many are asked together.
        """
        fetch = (k + len(excluded) + _SLACK) * self._rerank
        if fetch * _MOST_SHARE > len(self._vectors):
            return None
        rows = self._propose(query[np.newaxis], fetch)
        if len(excluded):
            rows = rows[~np.isin(rows, excluded)]
        if len(rows) < k:
            return None
        rows, scores = ordered(self._vectors, rows, query)
        return rows[:k], scores[:k]

    def _propose(self, query: NDArray[np.float32], k: int) -> NDArray[np.int32]:
        """The k candidates, or fewer, of a query float32 (1, d) that FAISS finds among the available rows."""
        inner, selector, parameters = self._inner, self._selector, None
        if isinstance(inner, faiss.IndexHNSW):
            # A search that keeps fewer than k candidates proposes fewer: exclusions would then cost recall unseen.
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=max(inner.hnsw.efSearch, k))
        elif selector is not None and isinstance(inner, faiss.IndexIVF):
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=inner.nprobe)
        elif selector is not None:
            parameters = faiss.SearchParameters(sel=selector)
        rows: NDArray[np.int64] = self._faiss.search(query, k, params=parameters)[1][0]
        return rows[rows >= 0].astype(np.int32)


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
        f"{_reason(error)}. {_ANOTHER}"
    )


def _set_parameters(index: Any, plan: IndexPlan) -> None:
    if plan.faiss_parameters:
        faiss.ParameterSpace().set_index_parameters(index, plan.faiss_parameters)


def _reason(error: BaseException) -> str:
    """What a FAISS message says after the C++ function and source position that it begins with."""
    return re.split(r" at \S+:\d+: ", str(error).strip())[-1] or type(error).__name__
