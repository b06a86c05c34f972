"""The nearest sessions against the definition; once more with the JIT off."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.session_scan import nearest_sessions


def by_definition(in_sessions, factors, items, weights, k):
    """Scores of all sessions that share anything, the best k of them: newer ones before older ones."""
    scores = {}
    for session, factor in enumerate(factors.tolist()):
        shared = [weight for item, weight in zip(items, weights, strict=True) if session in in_sessions[item]]
        if shared:
            scores[session] = factor * sum(shared)
    return sorted(scores.items(), key=lambda pair: (-pair[1], -pair[0]))[:k]


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_the_nearest_are_those_that_share_most_newer_before_older(seed, k):
    generator = np.random.default_rng(seed)
    n_items, n_sessions = 9, 20
    in_sessions = [
        np.sort(generator.choice(n_sessions, generator.integers(0, 15), replace=False)) for _ in range(n_items)
    ]
    indptr = np.cumsum([0, *map(len, in_sessions)]).astype(np.int64)
    sessions = np.concatenate(in_sessions).astype(np.int32)
    factors = generator.choice([0.5, 1, 2], n_sessions).astype(np.float32)
    items = np.sort(generator.choice(n_items, generator.integers(0, 6), replace=False)).astype(np.int32)
    weights = generator.integers(1, 4, len(items)).astype(np.float32)
    shared, touched = np.zeros(n_sessions, dtype=np.float32), np.empty(n_sessions, dtype=np.int32)
    rows, scores = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
    size = nearest_sessions(indptr, sessions, factors, items, weights, shared, touched, rows, scores)
    found = sorted(zip(rows[:size].tolist(), scores[:size].tolist(), strict=True), key=lambda p: (-p[1], -p[0]))
    assert found == by_definition(in_sessions, factors, items, weights.tolist(), k)
    assert not shared.any()
