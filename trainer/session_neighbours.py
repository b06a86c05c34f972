"""Sessions of the past as an item memory: what VMIS-kNN looks up, and user-based collaborative filtering with it.

Rows are contexts (trainer.contexts), oldest first: baskets and sessions, or users' histories. Each item keeps its
newest ones alone, so that the cost of a query is bounded (Kersbergen, Sprangers and Schelter 2022). Checked by
tests/test_session_neighbours.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.session_encoder import Postings
from engine.sparse_memory import SparseMemory
from trainer.contexts import Contexts


@dataclass(frozen=True)
class SessionSettings:
    """What sessions share, and what they give."""

    most_postings: int = 2500
    """Of each item, the newest sessions that hold it are looked up: so many at most."""
    source_exponent: float = 0.3
    """How much less a shared item says that many sessions hold."""
    target_exponent: float = 0.2
    """How much less an item is worth that many sessions hold."""

    def __post_init__(self) -> None:
        if self.most_postings < 1:
            raise UsageError(f"most_postings is {self.most_postings}; expected 1 or more")
        for name in ("source_exponent", "target_exponent"):
            if not 0 <= getattr(self, name) <= 2:
                raise UsageError(f"{name} is {getattr(self, name)}; expected from 0 to 2")


def session_memory(contexts: Contexts, settings: SessionSettings) -> tuple[Postings, SparseMemory]:
    """What each item is looked up in, and what each session holds: session rows stand by time, unknown times first.

    A session's factor is its weight; with n contexts that hold an item, a shared item weighs n^-source_exponent and
    one that is given n^-target_exponent.
    """
    known = contexts.weights > 0
    order = np.flatnonzero(known)[np.lexsort((np.nan_to_num(contexts.seconds, nan=-np.inf)[known],))]
    sizes = np.diff(contexts.indptr)[order]
    indptr = np.append(0, np.cumsum(sizes)).astype(np.int64)
    places = np.arange(indptr[-1]) + np.repeat(contexts.indptr[order] - indptr[:-1], sizes)
    sessions, items = np.repeat(np.arange(len(order), dtype=np.int32), sizes), contexts.indices[places]
    by_item = np.lexsort((items, sessions))  # rows of a session rise
    items = items[by_item]
    counts = np.bincount(items, minlength=contexts.n_items).astype(np.float64)
    held = np.maximum(counts, 1)
    memory = SparseMemory(indptr, items, (held[items] ** -settings.target_exponent).astype(np.float32))
    postings = Postings(
        *_newest(items, sessions, counts.astype(np.int64), settings.most_postings),
        factors=contexts.weights[order],
        item_weights=(held**-settings.source_exponent).astype(np.float32),
    )
    return postings, memory


def _newest(
    items: NDArray[np.int32], sessions: NDArray[np.int32], counts: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The last `most` sessions of each item, rising."""
    order = np.argsort(items, kind="stable")
    ends = np.cumsum(counts)
    kept = ends[items[order]] - np.arange(len(order)) <= most
    indptr = np.append(0, np.cumsum(np.minimum(counts, most))).astype(np.int64)
    return indptr, sessions[order][kept]
