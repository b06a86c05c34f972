from __future__ import annotations

import numpy as np
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_contexts import full

from trainer.sparse_rows import joined, keep_strongest

N_COLUMNS = 9
matrices = st.lists(
    st.lists(st.sampled_from([0.0, 0.0, 1.0, -1.0, 0.5, -0.5, 3.0, 1e-30]), min_size=N_COLUMNS, max_size=N_COLUMNS),
    max_size=5,
)


def in_any_order(rows, seed):
    """Full rows as indptr, columns in a random order, and values; some zeros are entries, as they may be."""
    generator = np.random.default_rng(seed)
    indptr, indices, values = [0], [], []
    for row in rows:
        columns = generator.permutation(N_COLUMNS)
        columns = columns[(row[columns] != 0) | (generator.random(N_COLUMNS) < 0.3)]
        indices.append(columns)
        values.append(row[columns])
        indptr.append(indptr[-1] + len(columns))
    nothing = [np.empty(0)]
    return (
        np.array(indptr, dtype=np.int64),
        np.concatenate(indices or nothing).astype(np.int32),
        np.concatenate(values or nothing).astype(np.float32),
    )


@settings(max_examples=150, deadline=None)
@given(rows=matrices, most=st.integers(1, N_COLUMNS + 2), seed=st.integers(0, 1000))
def test_the_strongest_stay_and_of_equals_those_with_smaller_columns(rows, most, seed):
    rows = np.array(rows, dtype=np.float64).reshape(-1, N_COLUMNS)
    found = joined([keep_strongest(*in_any_order(rows, seed), most)], N_COLUMNS)
    np.testing.assert_array_equal(full(found), reference.only_strongest(rows, most).astype(np.float32))
    assert (found.values != 0).all()
    assert (found.indptr.dtype, found.indices.dtype, found.values.dtype) == (np.int64, np.int32, np.float32)


def test_parts_are_joined_in_their_order_and_no_part_is_no_row():
    rows = np.arange(4 * N_COLUMNS, dtype=np.float64).reshape(4, N_COLUMNS) - 10
    parts = [keep_strongest(*in_any_order(rows[part], 1), 3) for part in (slice(0, 1), slice(1, 1), slice(1, 4))]
    np.testing.assert_array_equal(full(joined(parts, N_COLUMNS)), reference.only_strongest(rows, 3))
    nothing = joined([], N_COLUMNS)
    assert (nothing.n_rows, nothing.n_entries) == (0, 0)
