"""Users as a release stores them, answered many at once: ids in, rows of items out, with no Python object for each.

What a question asks beyond a user and a limit (recent items, filters, shares, ...) is engine.retrieval's, and so are
releases whose users are answered by more than vectors. The answers are the same; tests/test_stored_users.py compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import float32, int64, njit
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.histories import Histories
from engine.ids import IdTable, find_row
from engine.popular import Popular
from engine.recommender import DenseMemory, Watch
from engine.restrictions import Allowed
from engine.signatures import (
    VECTORS_IN,
    booleans_out,
    bytes_in,
    float32_in,
    float32_rows_out,
    int32_in,
    int64_in,
    int64_out,
)
from engine.stacked import Slices, Stacked
from engine.vector_table import table_of


class Answered(NamedTuple):
    """What m users should see next, and which of them their own history answers, bool (m,): the others get popular."""

    found: Stacked
    personal: NDArray[np.bool_]


class StoredUsers:
    """The users of a release whose part for users is the dense memory alone. Thread-safe."""

    def __init__(
        self, users: IdTable, histories: Histories, dense: DenseMemory, popular: Popular, watch: Watch | None
    ) -> None:
        vectors = table_of(dense.user_vectors)
        self._factors = vectors.shape[1]
        self._arrays = (
            users.strings.data, users.strings.offsets, users.slots, histories.indptr, histories.values, vectors.codes,
            vectors.scales, np.float32(dense.weight.user),
        )  # fmt: skip
        self._history_rows, self._index = histories.rows, dense.index
        self._popular, self._watch = popular, watch

    def answer(self, user_ids: Sequence[str], limit: int) -> Answered:
        """What each should see next, without the items of the history: `limit`, at least 1, or all that there are.

        The ids are not empty and hold no NUL. Raises ReleaseCorrupt.
        """
        m = len(user_ids)
        wanted = np.frombuffer("\0".join((*user_ids, "")).encode(), dtype=np.uint8)
        starts, stops, personal = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.bool_)
        vectors = np.empty((m, self._factors), np.float32)
        n_personal = _look_up(*self._arrays, wanted, starts, stops, personal, vectors)
        if n_personal < 0:
            raise ReleaseCorrupt("the scale of a user's vector is no number: copy the release again, or roll back")
        histories = Slices(self._history_rows, starts, stops)
        if n_personal == m:
            return Answered(self._search(vectors, limit, histories), personal)
        found, places = Stacked.empty(m, limit), np.flatnonzero(personal)
        if len(places):
            found.put(places, self._search(vectors[places], limit, histories.take(places)))
        for i in np.flatnonzero(~personal).tolist():
            found[i] = self._popular.best(limit, Allowed(histories[i]))
        return Answered(found, personal)

    def _search(self, vectors: NDArray[np.float32], limit: int, excluded: Slices) -> Stacked:
        found = self._index.each(vectors, limit, excluded)
        if self._watch is not None:
            self._watch(vectors, limit, excluded, None, found)
        return found


@njit(
    [
        int64(
            bytes_in, int64_in, int32_in, int64_in, float32_in, codes_in, float32_in, float32,
            bytes_in, int64_out, int64_out, booleans_out, float32_rows_out,
        )
        for codes_in in VECTORS_IN
    ],
    nogil=True, cache=True,
)  # fmt: skip
def _look_up(  # type: ignore[no-untyped-def]
    data, offsets, slots, indptr, values, codes, scales, weight, wanted, starts, stops, personal, vectors
):  # fmt: skip
    """For each of the ids in wanted, which end in NUL: where its history lies, and its vector times weight.

    data, offsets and slots: engine.ids.IdTable's; indptr and values: engine.histories'; codes and scales: those of an
    engine.vector_table.VectorTable. personal[i]: whether anything in the history weighs more than 0; where nothing
    does, the vector is not written. Returns how many are, or -1 where a scale is no number. A damaged file may name
    entries that are not there: they are cut off.
    """
    n_personal, start = np.int64(0), np.int64(0)
    for i in range(len(starts)):
        stop = start
        while wanted[stop] != 0:
            stop += 1
        user = find_row(data, offsets, slots, wanted, start, stop)
        start = stop + 1
        starts[i], stops[i], personal[i] = 0, 0, False
        if user < 0:
            continue
        first, last = max(indptr[user], np.int64(0)), min(indptr[user + 1], np.int64(len(values)))
        starts[i], stops[i] = first, max(first, last)
        for entry in range(first, last):
            if values[entry] > 0:
                personal[i] = True
                break
        if not personal[i]:
            continue
        n_personal += 1
        scale = weight
        if len(scales):
            scale *= scales[user]
            if not (scales[user] >= 0 and scales[user] < np.inf):
                return np.int64(-1)
        vector, out = codes[user], vectors[i]
        for k in range(len(out)):
            out[k] = np.float32(vector[k]) * scale
    return n_personal
