"""Sessions as a memory: rows by time, the newest postings of each item, and what items weigh."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_contexts import N_ITEMS, contexts_as_lists, contexts_from

from engine.errors import UsageError
from trainer.session_neighbours import SessionSettings, session_memory


@given(contexts_as_lists, st.sampled_from([1, 2, 100]), st.integers(0, 100))
def test_rows_stand_by_time_and_items_keep_their_newest_sessions(made, most, seed):
    contexts = contexts_from(made)
    contexts.seconds[:] = np.random.default_rng(seed).choice([np.nan, 1.0, 2.0, 3.0], len(contexts))
    settings = SessionSettings(most_postings=most, source_exponent=0.5, target_exponent=1.0)
    postings, memory = session_memory(contexts, settings)
    postings_sound = (postings.indptr[0], postings.indptr[-1]) == (0, len(postings.sessions))
    assert postings_sound
    memory.require_sound(N_ITEMS)
    times = np.nan_to_num(contexts.seconds, nan=-1.0)
    order = sorted(np.flatnonzero(contexts.weights > 0).tolist(), key=lambda c: (times[c], c))
    held = [sorted(contexts.indices[contexts.indptr[c] : contexts.indptr[c + 1]].tolist()) for c in order]
    counts = np.zeros(N_ITEMS)
    for items in held:
        counts[items] += 1
    assert memory.n_rows == len(order)
    for row, items in enumerate(held):
        found, weights = memory.row(row)
        assert found.tolist() == items
        np.testing.assert_allclose(weights, [1 / counts[item] for item in items], rtol=1e-6)
    np.testing.assert_allclose(postings.factors, contexts.weights[order])
    for item in range(N_ITEMS):
        sessions = [row for row, items in enumerate(held) if item in items]
        kept = postings.sessions[postings.indptr[item] : postings.indptr[item + 1]].tolist()
        assert kept == sessions[-most:]
        assert postings.item_weights[item] == pytest.approx(max(counts[item], 1) ** -0.5)


@pytest.mark.parametrize("wrong", [{"most_postings": 0}, {"source_exponent": -1}, {"target_exponent": 3}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=rf"{next(iter(wrong))} is .*; expected"):
        SessionSettings(**wrong)
