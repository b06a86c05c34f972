"""Tables of vectors in 8 and 16 bits against their definition; once more with the JIT off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ReleaseCorrupt, UsageError
from engine.vector_formats import FORMATS, require_no_finer
from engine.vector_table import NO_SCALES, ROWS_AT_ONCE, VectorTable, packed, require_scales, table_of

MOST = {"int16": 32767, "int8": 127}


def made_vectors(n, d, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(n, d)) * generator.lognormal(size=(n, 1)) * scale).astype(np.float32)


@given(st.integers(0, 50), st.integers(1, 20), st.sampled_from([1e-25, 1.0, 1e30]), st.sampled_from(sorted(MOST)))
def test_a_packed_row_is_its_scale_times_its_codes_to_half_a_step(n, d, scale, vector_format):
    vectors = made_vectors(n, d, n + d, scale)
    table = packed(vectors, vector_format)
    assert (table.format, table.shape, len(table)) == (vector_format, (n, d), n)
    largest = np.abs(vectors.astype(np.float64)).max(axis=1, initial=0)
    np.testing.assert_allclose(table.scales, largest / MOST[vector_format], rtol=1e-6)
    decoded = table.codes.astype(np.float64) * table.scales.astype(np.float64)[:, np.newaxis]
    assert (np.abs(decoded - vectors) <= 0.501 * table.scales[:, np.newaxis] + 1e-6 * np.abs(vectors)).all()
    assert (np.abs(table.codes.astype(np.int64)).max(axis=1, initial=0) == MOST[vector_format]).all()
    np.testing.assert_array_equal(table[:], decoded.astype(np.float32))


@pytest.mark.parametrize("vector_format", MOST)
def test_rows_of_nothing_and_of_next_to_nothing_become_zeros(vector_format):
    vectors = made_vectors(5, 4)
    vectors[1], vectors[3] = 0, 1e-40
    table = packed(vectors, vector_format)
    assert not table[[1, 3]].any()
    assert np.isfinite(table.scales).all()
    assert table[[0, 2, 4]].all(axis=1).any()


@pytest.mark.parametrize("vector_format", FORMATS)
def test_any_rows_can_be_asked_for_and_come_as_float32(vector_format):
    table = packed(made_vectors(40, 6), vector_format)
    whole = table[:]
    assert whole.dtype == np.float32
    for rows in (7, -1, slice(3, 20, 2), slice(0, 0), np.array([5, 5, 39]), whole[:, 0] > 0):
        found = table[rows]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, whole[rows])


@pytest.mark.parametrize("vector_format", FORMATS)
def test_blocks_are_the_table_in_order(vector_format):
    table = packed(made_vectors(ROWS_AT_ONCE + 3, 2), vector_format)
    blocks = list(table.blocks())
    assert [len(block) for block in blocks] == [ROWS_AT_ONCE, 3]
    np.testing.assert_array_equal(np.concatenate(blocks), table[:])


def test_float32_passes_without_a_copy():
    vectors = made_vectors(5, 3)
    for table in (table_of(vectors), packed(vectors, "float32"), table_of(table_of(vectors))):
        assert table.codes is vectors
        assert not len(table.scales)
        assert np.shares_memory(table[1:3], vectors)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_a_scale_that_is_none_is_refused_wherever_its_row_is_asked_for(scale):
    scales = np.array([1, scale, 2], dtype=np.float32)
    table = VectorTable(np.ones((3, 4), dtype=np.int8), scales)
    assert table[0].tolist() == [1] * 4
    assert table[[0, 2]].tolist() == [[1] * 4, [2] * 4]
    for rows in (1, slice(None), np.array([2, 1])):
        with pytest.raises(ReleaseCorrupt, match=f"the scale of a vector is {scale}, expected a finite number"):
            table[rows]
    with pytest.raises(ReleaseCorrupt):
        require_scales(scales)
    require_scales(NO_SCALES)


@pytest.mark.parametrize("found", FORMATS)
@pytest.mark.parametrize("wanted", FORMATS)
def test_a_format_may_become_coarser_and_not_finer(found, wanted):
    if np.dtype(wanted).itemsize <= np.dtype(found).itemsize:
        require_no_finer("r", found, wanted)
        return
    with pytest.raises(UsageError, match=f"--vectors {wanted}: found {found} in release r, expected it or a coarser"):
        require_no_finer("r", found, wanted)
