"""Sparse memories: what they hold, and that damaged ones are refused before a kernel reads elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from made_recommender import made_memory

from engine.errors import ReleaseCorrupt
from engine.sparse_memory import SparseMemory

N_ITEMS = 30


def read_from(arrays):
    def read(name, dtype, shape):
        assert arrays[name].dtype == dtype
        assert arrays[name].shape == shape
        return arrays[name]

    return read


def test_a_memory_is_read_as_it_was_stored():
    memory = made_memory(20, N_ITEMS, 7, seed=0)
    again = SparseMemory.read(read_from(memory.arrays()), 20, memory.n_entries, N_ITEMS)
    assert (again.n_rows, again.n_entries) == (20, len(memory.items))
    for name, array in memory.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("items", 3, N_ITEMS), ("items", 0, -1), ("indptr", 0, 1), ("indptr", -1, 5), ("indptr", 4, 10_000)],
)
def test_what_would_make_a_kernel_read_elsewhere_is_refused(name, place, value):
    arrays = made_memory(20, N_ITEMS, 7, seed=0).arrays()
    arrays[name] = arrays[name].copy()
    arrays[name][place] = value
    with pytest.raises(ReleaseCorrupt, match="names items outside the 30 of the release, or rows outside its entries"):
        SparseMemory.read(read_from(arrays), 20, len(arrays["items"]), N_ITEMS)


@pytest.mark.parametrize("weight", [np.inf, -np.inf, np.nan])
def test_weights_that_are_no_numbers_are_refused(weight):
    arrays = made_memory(20, N_ITEMS, 7, seed=0).arrays()
    arrays["weights"] = arrays["weights"].copy()
    arrays["weights"][3] = weight
    with pytest.raises(ReleaseCorrupt, match="weights that are no numbers"):
        SparseMemory.read(read_from(arrays), 20, len(arrays["items"]), N_ITEMS)


def test_a_memory_without_entries_is_sound():
    nothing = SparseMemory(np.zeros(4, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
    nothing.require_sound(N_ITEMS)
    assert nothing.weights_of(2, np.array([1, 5], dtype=np.int32)).tolist() == [0, 0]


def test_the_weights_of_items_in_a_row_are_found_and_0_where_it_has_none():
    memory = made_memory(20, N_ITEMS, 7, seed=1)
    everything = np.arange(N_ITEMS, dtype=np.int32)
    for row in range(20):
        items, weights = memory.row(row)
        expected = np.zeros(N_ITEMS)
        expected[items] = weights
        np.testing.assert_array_equal(memory.weights_of(row, everything), expected)
