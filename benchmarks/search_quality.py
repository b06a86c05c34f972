"""Recall by score: what exact search finds, and which share of it an answer has.

Held against the definition by tests/test_recall_benchmark.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_AT_ONCE = 1 << 26
"""Scores that exact search holds at a time: 256 MiB."""
_QUERIES_AT_ONCE = 256
_SAME = 1e-6
"""Scores that differ by less than this share of |q| |y| are the same: float32 libraries cannot tell them apart."""


@dataclass(frozen=True)
class Truth:
    """Of queries float32 (m, d) over vectors float32 (n, d): the k-th largest score of each, float64 (m,)."""

    vectors: Vectors
    queries: Vectors
    k: int
    last: NDArray[np.float64]

    def recalls(self, answers: Sequence[Any]) -> NDArray[np.float64]:
        """For each query the share of k that its answer, rows or -1, has: distinct rows whose exact score, from the
        float32 vectors in float64, is not below the k-th largest one."""
        if not self.k:
            return np.ones(len(answers))
        rows = np.full((len(answers), self.k), -1, dtype=np.int64)
        for i, answer in enumerate(answers):
            found = np.asarray(answer)[: self.k]
            rows[i, : len(found)] = found
        rows[(rows < 0) | (rows >= len(self.vectors))] = -1
        rows.sort(axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
        counts = np.empty(len(rows))
        for start in range(0, len(rows), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            queries, found = self.queries[part].astype(np.float64), self.vectors[rows[part]].astype(np.float64)
            scores = np.einsum("qkd,qd->qk", found, queries)
            lengths = np.linalg.norm(queries, axis=1)[:, np.newaxis] * np.linalg.norm(found, axis=2)
            reach = scores >= self.last[part, np.newaxis] - _SAME * lengths
            counts[part] = np.count_nonzero(reach & (rows[part] >= 0), axis=1)
        return counts / self.k

    def among(self, queries: NDArray[np.integer]) -> Truth:
        """Of some of the queries, by place; one may come several times."""
        return Truth(self.vectors, self.queries[queries], self.k, self.last[queries])


def exact(vectors: Vectors, queries: Vectors, k: int, allowed: NDArray[np.bool_] | None = None) -> Truth:
    """Score every allowed (bool (n,), None for all) vector with every query: best by float32, scored in float64."""
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    k = min(k, len(rows))
    last = np.full(len(queries), -np.inf)
    step = max(1, _AT_ONCE // max(1, len(rows)))
    chosen = vectors if allowed is None else vectors[rows]
    for start in range(0, len(queries) if k else 0, step):
        some = queries[start : start + step]
        scores = some @ chosen.T
        # A few more than k, so that rounding does not hide the k-th.
        kept = min(len(rows), 2 * k + 10)
        best = rows[np.argpartition(-scores, kept - 1, axis=1)[:, :kept]]
        for i, query in enumerate(some.astype(np.float64)):
            last[start + i] = np.sort(vectors[best[i]].astype(np.float64) @ query)[-k]
    return Truth(vectors, queries, k, last)


def lower_bound(recalls: NDArray[np.float64]) -> float:
    """The lower end of the one-sided 95% interval of the mean, as engine.calibration has it."""
    return float(recalls.mean() - 1.645 * recalls.std() / np.sqrt(len(recalls)))
