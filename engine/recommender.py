"""A recommender: the weighted sum of its parts, asked with evidence, answered exactly over everything they can score.

A query is a vector for the dense memory, bags for the sparse ones, or both. The best of a sum are found in two steps:
what the sparse memories touch is scored in full; then the dense search goes on over the rest, where nothing but the
dense part scores, from the k best so far, which prune it from its first block. An item that no part scores has 0.
Vectors alone go to the index as they are, many at once. Held against brute force by tests/test_recommender.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.encoders import RidgeEncoder
from engine.evidence import Evidence
from engine.index import Index
from engine.kinds import ByKind, Kind
from engine.parts import DensePart
from engine.plan import IndexPlan
from engine.release import Release
from engine.scoring import Found, best_of_rows, score_rows, top_positions
from engine.sparse_memory import Bag, Rows, SparseMemory
from engine.sparse_part import SparsePart
from engine.sparse_scan import UNTOUCHED, add_products, add_rows, take_best
from engine.stacked import OfEach
from engine.vector_table import Vectors, table_of

Mask = NDArray[np.bool_]
Watch = Callable[[NDArray[np.float32], int, OfEach[Rows], Mask | None, OfEach[Found]], None]
"""Is told of a search of the index: queries, k, excluded rows, allowed rows, and what was found."""
_ALL: Mask = np.empty(0, dtype=np.bool_)
_NOTHING: Found = (np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))


@dataclass(frozen=True)
class DenseMemory:
    """The (ridge, dense) part, ready to answer; user_vectors are those of stored histories."""

    name: str
    weight: ByKind
    encoder: RidgeEncoder
    user_vectors: Vectors
    index: Index

    @classmethod
    def open(cls, release: Release, available: Mask, plan: IndexPlan | None = None) -> DenseMemory | None:
        """That of a release, None where it has none; `plan` is to search otherwise than the release says.

        Raises ReleaseError, IndexUnsupported.
        """
        part = DensePart.if_any(release.manifest)
        if part is None:
            return None
        user_vectors, encoder = part.user_vectors(release), part.encoder(release)
        index = Index(release, encoder.item_vectors, plan or part.plan, available)
        return cls(part.name, part.weight, encoder, user_vectors, index)


@dataclass(frozen=True)
class Query:
    """vector float32 (d,) for the dense memory, and a bag for each of some sparse ones, all times their weights."""

    vector: NDArray[np.float32] | None
    bags: tuple[tuple[SparseMemory, Bag], ...]


class Recommender:
    """Parts over one catalogue. Thread-safe: each thread has a scratch of its own, of 10 bytes an item."""

    def __init__(
        self,
        dense: DenseMemory | None,
        sparse: Sequence[SparsePart],
        available: Mask,
        watch: Watch | None = None,
    ) -> None:
        self._dense, self._sparse, self._watch = dense, tuple(sparse), watch
        self._available = available
        self._mask = _ALL if available.all() else available
        self._threads = threading.local()

    @property
    def n_items(self) -> int:
        """Items of the catalogue, those included that are not available."""
        return len(self._available)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of all parts, the dense one first."""
        dense = () if self._dense is None else (self._dense.name,)
        return (*dense, *(part.name for part in self._sparse))

    def answers(self, kind: Kind, without: Collection[str] = ()) -> bool:
        """Whether any part that counts for this kind of query is left without those."""
        weights = {part.name: part.weight for part in (self._dense, *self._sparse) if part is not None}
        return any(weight.of(kind) != 0 for name, weight in weights.items() if name not in without)

    def query(self, evidence: Evidence, kind: Kind, *, user: int = -1, without: Collection[str] = ()) -> Query:
        """What evidence comes to, without the parts of these names; `user` is the row whose history it is, as stored.

        Raises ReleaseCorrupt for rows that are no items.
        """
        dense, vector = self._dense, None
        if dense is not None and dense.name not in without and (weight := dense.weight.of(kind)):
            stored = user >= 0
            vector = dense.user_vectors[user] if stored else dense.encoder.encode(evidence.rows, evidence.weights)
            vector = vector if weight == 1 else vector * np.float32(weight)
        bags = []
        for part in self._sparse:
            if part.name not in without and (weight := part.weight.of(kind)):
                rows, weights = part.bag(evidence, kind)
                bags.append((part.memory, Bag(rows, weights if weight == 1 else weights * np.float32(weight))))
        return Query(vector, tuple(bags))

    def search(self, queries: Sequence[Query], k: int, excluded: Sequence[Rows], allowed: Mask | None) -> list[Found]:
        """The k best available rows for each query that are allowed (bool (n,), None for all) and not excluded.

        excluded: int32, ascending, for each query. Rows and scores, falling, ties to the smaller row, as many as there
        are up to k. Sums are exact; vectors alone have the recall of the index's plan.
        """
        if k == 0:
            return [_NOTHING for _ in queries]
        alone = [i for i, query in enumerate(queries) if not query.bags]
        found: dict[int, Found] = {}
        if alone and self._dense is not None:
            vectors = np.stack([vector for i in alone if (vector := queries[i].vector) is not None])
            of_alone = [excluded[i] for i in alone]
            searched = self._dense.index.search(vectors, k, of_alone, allowed)
            if self._watch is not None:
                self._watch(vectors, k, of_alone, allowed, searched)
            found = dict(zip(alone, searched, strict=True))
        return [found.get(i) or self._sum(query, k, excluded[i], allowed) for i, query in enumerate(queries)]

    def best_of(self, query: Query, k: int, rows: Rows) -> Found:
        """The k best available of the given rows, which ascend."""
        rows = rows[self._available[rows]]
        if not query.bags and self._dense is not None and query.vector is not None:
            return best_of_rows(self._dense.encoder.item_vectors, rows, query.vector, k)
        scores = self.scores(query, rows)
        best = np.empty(min(k, len(rows)), dtype=np.int64)
        best = best[: top_positions(scores, best)]
        return rows[best], scores[best]

    def exact(self, query: Query, k: int, excluded: Rows) -> Found:
        """As `search` of one query without a filter, and exact whatever the index's plan."""
        if query.bags or self._dense is None or query.vector is None:
            return self._sum(query, k, excluded, None)
        return self._dense.index.exact(query.vector[np.newaxis], k, [excluded])[0]

    def scan(self, query: Query, k: int, excluded: Rows) -> Found:
        """As `search` without a filter, by scoring every item: slow, and right whatever became of the index."""
        shown = self._available.copy()
        shown[excluded] = False
        return self.best_of(query, k, np.flatnonzero(shown).astype(np.int32))

    def shares(
        self, evidence: Evidence, kind: Kind, of_rows: Rows, without: Collection[str] = ()
    ) -> NDArray[np.float64]:
        """What each of the m items of evidence gives to the scores of the items `of_rows`, float64 (k, m).

        They add up to the score of each, within rounding. Each part splits its own: see its encoder.
        """
        shares = np.zeros((len(of_rows), len(evidence.rows)))
        dense = self._dense
        if dense is not None and dense.name not in without and (weight := dense.weight.of(kind)):
            shares += weight * dense.encoder.shares(evidence.rows, evidence.weights, of_rows)
        for part in self._sparse:
            if part.name not in without and (weight := part.weight.of(kind)):
                shares += weight * part.shares(evidence, kind, of_rows)
        return shares

    def _sum(self, query: Query, k: int, excluded: Rows, allowed: Mask | None) -> Found:
        """Of a query with bags."""
        scratch = self._scratch()
        touched = scratch.touched[: self._add(query.bags, scratch)]
        mask = self._mask if allowed is None else allowed if not len(self._mask) else allowed & self._mask
        rows, best = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
        dense = self._dense
        if dense is None or query.vector is None:
            size = take_best(scratch.scores, touched, mask, excluded, True, rows, best)
            return rows[:size], best[:size]
        table = table_of(dense.encoder.item_vectors)
        add_products(table.codes, table.scales, query.vector, touched, scratch.scores)
        size = take_best(scratch.scores, touched, mask, excluded, False, rows, best)
        rest = scratch.rest
        np.copyto(rest, mask if len(mask) else True)
        rest[touched] = False
        size = dense.index.pruned.go_on(query.vector, rows, best, size, excluded, rest)
        return rows[:size], best[:size]

    def scores(self, query: Query, rows: Rows) -> NDArray[np.float32]:
        """The score of each of the given rows, with the bits that `search` gives it."""
        scratch = self._scratch()
        touched = scratch.touched[: self._add(query.bags, scratch)]
        scores = scratch.scores[rows]
        scratch.scores[touched] = UNTOUCHED
        scores[scores == UNTOUCHED] = 0
        if self._dense is not None and query.vector is not None:
            table, products = table_of(self._dense.encoder.item_vectors), np.empty(len(rows), dtype=np.float32)
            score_rows(table.codes, table.scales, rows, query.vector, products)
            scores += products
        return scores

    def _add(self, bags: Sequence[tuple[SparseMemory, Bag]], scratch: _Scratch) -> int:
        """Put the sums of bags into the scratch; returns how many items they touch."""
        n_touched = 0
        for memory, (rows, weights) in bags:
            arrays = memory.indptr, memory.items, memory.weights
            n_touched = add_rows(*arrays, rows, weights, scratch.scores, scratch.touched, n_touched)
        return n_touched

    def _scratch(self) -> _Scratch:
        scratch: _Scratch | None = getattr(self._threads, "scratch", None)
        if scratch is None:
            scratch = self._threads.scratch = _Scratch.of(len(self._available))
        return scratch


@dataclass(frozen=True)
class _Scratch:
    """What a thread works in: sums float32 (n_items,), UNTOUCHED between queries; the items touched; and a mask."""

    scores: NDArray[np.float32]
    touched: Rows
    rest: Mask

    @classmethod
    def of(cls, n_items: int) -> _Scratch:
        return cls(
            np.full(n_items, UNTOUCHED, dtype=np.float32),
            np.empty(n_items, dtype=np.int32),
            np.empty(n_items, dtype=np.bool_),
        )
