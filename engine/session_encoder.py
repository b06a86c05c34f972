"""The encoder of neighbourhood models that look at whole sessions or users: a query becomes its nearest ones.

Rows of the memory are the sessions of the past, oldest first: what stands in them is summed by engine.sparse_scan.
VMIS-kNN (Kersbergen, Sprangers and Schelter 2022), without its factor of the newest shared item; with users' histories
for sessions, user-based collaborative filtering. Checked by tests/test_session_encoder.py.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.evidence import Evidence
from engine.kinds import ByKind, Kind
from engine.session_scan import nearest_sessions
from engine.sparse_memory import Bag, Rows, SparseMemory
from engine.stored_arrays import Read, StoredArrays


@dataclass(frozen=True)
class Postings(StoredArrays):
    """In which sessions each item stands, and what sessions and items count.

    indptr int64 (n_items + 1,), sessions int32 (entries,): of each item the newest ones; factors float32 (sessions,),
    above 0; item_weights float32 (n_items,), at least 0: what an item counts that two sessions share.
    """

    indptr: NDArray[np.int64]
    sessions: Rows
    factors: NDArray[np.float32]
    item_weights: NDArray[np.float32]

    @classmethod
    def read(cls, read: Read, n_rows: int, n_entries: int, n_sessions: int) -> Postings:
        """Those of n_rows items that `read` finds. Raises what `read` does, ReleaseCorrupt."""
        postings = cls(
            indptr=read("indptr", np.int64, (n_rows + 1,)),
            sessions=read("sessions", np.int32, (n_entries,)),
            factors=read("factors", np.float32, (n_sessions,)),
            item_weights=read("item_weights", np.float32, (n_rows,)),
        )
        SparseMemory(postings.indptr, postings.sessions, postings.factors).require_sound(n_sessions)
        if not ((postings.factors > 0).all() and (postings.item_weights >= 0).all()):
            raise ReleaseCorrupt("a session counts nothing, or an item less: copy the release again, or roll back")
        return postings


@dataclass(frozen=True)
class SessionEncoder:
    """Evidence as its `nearest` sessions, each weighed by (f_s sum_i w_i (1 + age_i)^-recency)^sharpness.

    The sum is over the items that session s shares: w_i is an item's weight in the evidence, where above 0, times its
    own; f_s is the session's factor. Of longer evidence the `newest` items count.
    """

    recency: ByKind
    newest: int
    nearest: int
    sharpness: float
    postings: Postings
    _threads: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def encode(self, evidence: Evidence, kind: Kind) -> Bag:
        """The bag of sessions."""
        items, weights = self._weighed(evidence, kind)
        rows, scores = np.empty(self.nearest, dtype=np.int32), np.empty(self.nearest, dtype=np.float32)
        shared, touched = self._scratch()
        arrays = self.postings.indptr, self.postings.sessions, self.postings.factors
        size = nearest_sessions(*arrays, items, weights, shared, touched, rows, scores)
        return Bag(rows[:size], scores[:size] ** np.float32(self.sharpness))

    def shares(self, evidence: Evidence, kind: Kind, memory: SparseMemory, of_rows: Rows) -> NDArray[np.float64]:
        """What each item of the evidence gives to the scores of the items `of_rows`, float64 (k, m).

        What a session gives is split among the items that it shares, in proportion to what each weighs.
        """
        items, weights = self._weighed(evidence, kind)
        nearest, scores = self.encode(evidence, kind)
        postings, shares = self.postings, np.zeros((len(of_rows), len(evidence.rows)))
        held = [
            np.isin(nearest, postings.sessions[postings.indptr[item] : postings.indptr[item + 1]])
            for item in items.tolist()
        ]
        split = np.array(held, dtype=np.float64).reshape(len(items), len(nearest)) * weights[:, np.newaxis]
        split *= scores / np.maximum(split.sum(axis=0), np.finfo(np.float32).tiny)
        given = np.array([memory.weights_of(row, of_rows) for row in nearest.tolist()]).reshape(-1, len(of_rows))
        shares[:, np.searchsorted(evidence.rows, items)] = (split @ given).T
        return shares

    def _weighed(self, evidence: Evidence, kind: Kind) -> tuple[Rows, NDArray[np.float32]]:
        items, weights = evidence.weighed(self.newest, self.recency.of(kind))
        weights = weights * self.postings.item_weights[items]
        kept = weights > 0
        return (items, weights) if kept.all() else (items[kept], weights[kept])

    def _scratch(self) -> tuple[NDArray[np.float32], Rows]:
        """What a thread works in, 8 bytes a session."""
        scratch: tuple[NDArray[np.float32], Rows] | None = getattr(self._threads, "scratch", None)
        if scratch is None:
            n = len(self.postings.factors)
            scratch = self._threads.scratch = np.zeros(n, dtype=np.float32), np.empty(n, dtype=np.int32)
        return scratch
