"""Lists of many queries in few arrays: what each excludes, and what was found for each.

A Python object for every query would cost more than a fast search. tests/test_stored_users.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.scoring import Found

Each = TypeVar("Each", covariant=True)


class OfEach(Protocol[Each]):
    """Something of each query, by its place: a sequence, or one of the classes here."""

    def __getitem__(self, i: int, /) -> Each:
        """That of query i."""


class Slices:
    """m lists of rows: the i-th is values[starts[i]:stops[i]]. values int32 (n,), the others int64 (m,)."""

    def __init__(self, values: NDArray[np.int32], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        self.values, self.starts, self.stops = values, starts, stops

    def __getitem__(self, i: int) -> NDArray[np.int32]:
        return self.values[self.starts[i] : self.stops[i]]

    def take(self, places: NDArray[np.int64]) -> Slices:
        """Some of the lists."""
        return Slices(self.values, self.starts[places], self.stops[places])


class Stacked:
    """What was found for m queries: rows int32 (m, k) and scores float32 (m, k), of which sizes int64 (m,) count."""

    def __init__(self, rows: NDArray[np.int32], scores: NDArray[np.float32], sizes: NDArray[np.int64]) -> None:
        self.rows, self.scores, self.sizes = rows, scores, sizes

    @classmethod
    def empty(cls, m: int, k: int) -> Stacked:
        """Room for m queries of k."""
        return cls(np.empty((m, k), np.int32), np.empty((m, k), np.float32), np.empty(m, np.int64))

    @classmethod
    def one(cls, rows: NDArray[np.int32], scores: NDArray[np.float32]) -> Stacked:
        """What was found for one query."""
        return cls(rows[np.newaxis], scores[np.newaxis], np.array([len(rows)], dtype=np.int64))

    @classmethod
    def of(cls, found: Sequence[Found], k: int) -> Stacked:
        """What was found for each query, k at most."""
        stacked = cls.empty(len(found), k)
        for i, each in enumerate(found):
            stacked[i] = each
        return stacked

    def __getitem__(self, i: int) -> Found:
        return self.rows[i, : self.sizes[i]], self.scores[i, : self.sizes[i]]

    def __setitem__(self, i: int, found: Found) -> None:
        rows, scores = found
        self.rows[i, : len(rows)], self.scores[i, : len(rows)], self.sizes[i] = rows, scores, len(rows)

    def put(self, places: NDArray[np.int64], found: Stacked) -> None:
        """What was found for the queries at these places."""
        self.rows[places], self.scores[places], self.sizes[places] = found.rows, found.scores, found.sizes

    def flat(self) -> Stacked:
        """All of it, one after the other, as that of one query."""
        counted = np.arange(self.rows.shape[1]) < self.sizes[:, np.newaxis]
        return self.one(self.rows[counted], self.scores[counted])
