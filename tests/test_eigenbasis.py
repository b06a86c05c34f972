"""Tables in the eigenbasis of their Gram matrix, against the definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from trainer import eigenbasis
from trainer.eigenbasis import gram, packed, rotated
from trainer.threads import Threads


@pytest.fixture(autouse=True)
def one_blas_thread():
    """As trainer.als.train calls."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks from little data."""
    monkeypatch.setattr(eigenbasis, "_GRAM_ROWS", 24)
    monkeypatch.setattr(eigenbasis, "GRAM_BLOCKS", 5)
    monkeypatch.setattr(eigenbasis, "ROTATION_FLOATS", 500)


def made_vectors(n, d, seed=0):
    """Vectors of very different lengths, along directions of very different strength."""
    generator = np.random.default_rng(seed)
    lengths, strengths = generator.lognormal(0, 1, (n, 1)), np.geomspace(1, 1e-3, d)
    return (generator.standard_normal((n, d)) * lengths * strengths).astype(np.float32)


def on_threads(n, work, *arguments):
    with Threads(n) as pool:
        return work(*arguments, pool)


def packed_vectors(table):
    return table.vectors.astype(np.float64) * table.row_scales[:, np.newaxis]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 300), d=st.integers(1, 20), seed=st.integers(0, 100))
def test_the_gram_matrix_is_that_of_the_definition(n, d, seed):
    vectors = made_vectors(n, d, seed)
    exact = vectors.astype(np.float64)
    found = on_threads(2, gram, vectors)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact.T @ exact, atol=1e-5 * max(1.0, np.square(exact).sum()))


def test_the_gram_matrix_of_many_blocks_is_that_of_the_definition(small_blocks):
    vectors = made_vectors(1001, 7)
    exact = vectors.astype(np.float64)
    np.testing.assert_allclose(on_threads(2, gram, vectors), exact.T @ exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d", [1, 5, 32])
def test_a_rotated_table_has_a_diagonal_gram_matrix_that_falls(d, small_blocks):
    before = made_vectors(400, d)
    table = on_threads(2, rotated, before.copy(), on_threads(2, gram, before))
    exact = table.vectors.astype(np.float64)
    np.testing.assert_allclose(exact.T @ exact, np.diag(table.spectrum), atol=2e-6 * table.spectrum[0])
    assert (np.diff(table.spectrum) <= 0).all()
    assert (table.spectrum >= 0).all()
    # It is the same vectors in another basis: inner products stay.
    np.testing.assert_allclose(exact @ exact.T, before.astype(np.float64) @ before.T, atol=2e-5 * table.spectrum[0])
    np.testing.assert_allclose(table.vectors, before @ table.rotation, rtol=1e-5, atol=1e-6 * np.abs(before).max())


def test_rotating_works_in_place_and_packing_leaves_the_vectors_alone():
    vectors = made_vectors(50, 6)
    matrix, before = on_threads(1, gram, vectors), vectors.copy()
    on_threads(1, packed, vectors, matrix)
    np.testing.assert_array_equal(vectors, before)
    table = on_threads(1, rotated, vectors, matrix)
    assert table.vectors is vectors
    assert not len(table.row_scales)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 200), d=st.integers(1, 40), seed=st.integers(0, 100))
def test_a_packed_table_is_the_rotated_one_to_two_to_the_minus_fifteen_of_a_rows_largest_element(n, d, seed):
    vectors = made_vectors(n, d, seed)
    matrix = on_threads(1, gram, vectors)
    table = on_threads(2, packed, vectors, matrix)
    exact = on_threads(2, rotated, vectors, matrix)
    np.testing.assert_array_equal(table.spectrum, exact.spectrum)
    np.testing.assert_array_equal(table.rotation, exact.rotation)
    assert table.vectors.dtype == np.int16
    largest = np.abs(exact.vectors).max(axis=1, keepdims=True)
    # Half a step of 1/32767 is below 2^-15; the product of scale and element is rounded to float32 besides.
    assert (np.abs(packed_vectors(table) - exact.vectors) <= 2.0**-15 * largest).all()
    assert (np.abs(table.vectors).max(axis=1) == np.iinfo(np.int16).max).all()


def test_rows_of_zeros_stay_zeros():
    vectors = made_vectors(20, 4)
    vectors[3] = vectors[19] = 0
    matrix = on_threads(1, gram, vectors)
    table = on_threads(1, packed, vectors, matrix)
    assert not packed_vectors(table)[[3, 19]].any()
    assert np.isfinite(table.row_scales).all()
    assert not on_threads(1, rotated, vectors, matrix).vectors[[3, 19]].any()


def test_a_table_of_nothing_but_zeros_is_zeros():
    vectors = np.zeros((10, 4), dtype=np.float32)
    table = on_threads(1, packed, vectors, on_threads(1, gram, vectors))
    assert not table.spectrum.any()
    assert not packed_vectors(table).any()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_very_small_and_very_large_vectors_are_packed_as_well_as_others(scale):
    vectors = made_vectors(40, 6) * np.float32(scale)
    matrix = vectors.astype(np.float64).T @ vectors.astype(np.float64)
    exact = vectors.astype(np.float64) @ on_threads(1, packed, vectors, matrix).rotation
    found = packed_vectors(on_threads(1, packed, vectors, matrix))
    assert (np.abs(found - exact) <= 2.0**-14.9 * np.abs(exact).max(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("threads", [2, 5])
def test_one_thread_and_more_give_the_same_bits(threads, small_blocks):
    vectors = made_vectors(1001, 13)
    matrix = on_threads(1, gram, vectors)
    np.testing.assert_array_equal(matrix, on_threads(threads, gram, vectors))
    one, more = on_threads(1, packed, vectors, matrix), on_threads(threads, packed, vectors, matrix)
    np.testing.assert_array_equal(one.vectors, more.vectors)
    np.testing.assert_array_equal(one.row_scales, more.row_scales)
    one, more = (on_threads(each, rotated, vectors.copy(), matrix) for each in (1, threads))
    np.testing.assert_array_equal(one.vectors, more.vectors)
