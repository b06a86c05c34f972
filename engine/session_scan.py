"""The kernel that finds the sessions of the past which share most with a query.

After VMIS-kNN (Kersbergen, Sprangers and Schelter 2022, "Serenade"): each item keeps its newest sessions alone, so the
cost of a query is bounded by its items. Held against the definition by tests/test_session_scan.py.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64, njit, types

from engine.signatures import float32_in, float32_out, int32_in, int32_out, int64_in


@njit(types.boolean(float32, int32, float32, int32), nogil=True, cache=True)
def _is_worse(score, row, other_score, other_row):  # type: ignore[no-untyped-def]
    """Whether a session is further than another: less shared, or as much and older."""
    return score < other_score or (score == other_score and row < other_row)


@njit(types.void(int32_out, float32_out, int64, int64), nogil=True, cache=True)
def _sink(rows, scores, place, size):  # type: ignore[no-untyped-def]
    """Let the session at `place` of a heap, whose worst is first, sink to where it belongs among `size`."""
    while True:
        worst, child = place, 2 * place + 1
        for other in range(child, min(child + 2, size)):
            if _is_worse(scores[other], rows[other], scores[worst], rows[worst]):
                worst = other
        if worst == place:
            return
        rows[place], rows[worst] = rows[worst], rows[place]
        scores[place], scores[worst] = scores[worst], scores[place]
        place = worst


@njit(
    int64(int64_in, int32_in, float32_in, int32_in, float32_in, float32_out, int32_out, int32_out, float32_out),
    nogil=True, cache=True,
)  # fmt: skip
def nearest_sessions(  # type: ignore[no-untyped-def]
    indptr, sessions, factors, items, weights, shared, touched, rows, scores
):  # fmt: skip
    """Write the len(rows) nearest sessions, in no order, and their scores factors[s] * (weights of shared items).

    indptr int64 (n_items + 1,) and sessions int32: in which each item stands. factors float32 (n_sessions,), above 0.
    items int32 and weights float32 (m,), above 0: the query. shared float32 (n_sessions,) is a scratch of zeros, and is
    left so; touched int32 (n_sessions,) another. rows int32 and scores float32 (k,), k at least 1. Returns how many. Of
    equally near ones the larger row is nearer: sessions stand by time.
    """
    k, size, n_touched = np.int64(len(rows)), np.int64(0), np.int64(0)
    for i in range(len(items)):
        for place in range(indptr[items[i]], indptr[items[i] + 1]):
            session = sessions[place]
            if shared[session] == 0:
                touched[n_touched] = session
                n_touched += 1
            shared[session] += weights[i]
    for i in range(n_touched):
        session = touched[i]
        score = factors[session] * shared[session]
        shared[session] = 0
        if size < k:
            place = int(size)
            size = size + 1
            while place > 0 and _is_worse(score, session, scores[(place - 1) // 2], rows[(place - 1) // 2]):
                rows[place], scores[place] = rows[(place - 1) // 2], scores[(place - 1) // 2]
                place = (place - 1) // 2
            rows[place], scores[place] = session, score
        elif _is_worse(scores[0], rows[0], score, session):
            rows[0], scores[0] = session, score
            _sink(rows, scores, 0, size)
    return size
