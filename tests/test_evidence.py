"""What queries are made from: joining a history with what came after it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ReleaseCorrupt
from engine.evidence import OLDEST, Evidence, require_rows

entries = st.dictionaries(st.integers(0, 20), st.tuples(st.sampled_from([-1.0, 0.5, 1.0, 2.0]), st.integers(0, 5)))


def evidence_of(entries):
    rows = sorted(entries)
    return Evidence(
        np.array(rows, dtype=np.int32),
        np.array([entries[row][0] for row in rows], dtype=np.float32),
        np.array([entries[row][1] for row in rows], dtype=np.int32),
    )


@given(entries, entries)
def test_joining_keeps_the_larger_weight_and_everything_older_moves_back(old, new):
    joined = evidence_of(old).joined(evidence_of(new))
    moments = max((age for _, age in new.values()), default=-1) + 1
    expected = {row: (weight, age + moments) for row, (weight, age) in old.items()}
    for row, (weight, age) in new.items():
        expected[row] = (max(weight, expected.get(row, (0.0, 0))[0]), age)
    assert joined.rows.tolist() == sorted(expected)
    assert joined.weights.tolist() == [expected[row][0] for row in sorted(expected)]
    assert joined.ages.tolist() == [expected[row][1] for row in sorted(expected)]


def test_nothing_new_changes_nothing():
    history = evidence_of({3: (1.0, 0)})
    assert history.joined(evidence_of({})) is history


def test_ages_end_at_the_oldest():
    old, new = evidence_of({1: (1.0, OLDEST)}), evidence_of({2: (1.0, 3)})
    assert old.joined(new).ages.tolist() == [OLDEST, 3]


@pytest.mark.parametrize("row", [-1, 21])
def test_rows_that_are_no_items_are_refused(row):
    require_rows(np.array([0, 20], dtype=np.int32), 21)
    with pytest.raises(ReleaseCorrupt, match="outside the 21 of the release"):
        require_rows(np.array([0, row], dtype=np.int32), 21)
