"""Scores and top-k against the definition; once more with the JIT off."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from engine.scoring import best_of_rows, score_rows, top_positions
from engine.vector_formats import FORMATS
from engine.vector_table import NO_SCALES, packed

scores_lists = st.lists(
    st.one_of(st.floats(-3, 3, width=32), st.sampled_from([0.0, 1.0, -math.inf, math.nan])), max_size=60
)


@given(scores_lists, st.integers(0, 70))
def test_the_best_positions_are_those_of_a_stable_sort(scores, k):
    out = np.empty(k, dtype=np.int64)
    size = top_positions(np.array(scores, dtype=np.float32), out)
    assert out[:size].tolist() == reference.best_rows(scores, k)


def test_scores_are_inner_products_of_the_asked_rows():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(30, 7)).astype(np.float32)
    query = generator.normal(size=7).astype(np.float32)
    rows = np.array([29, 0, 5, 5], dtype=np.int32)
    out = np.empty(4, dtype=np.float32)
    score_rows(vectors, NO_SCALES, rows, query, out)
    np.testing.assert_allclose(out, vectors[rows].astype(np.float64) @ query, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("vector_format", ["int16", "int8"])
@pytest.mark.parametrize("d", [1, 7, 300])
def test_scores_of_packed_rows_are_those_of_what_they_stand_for_within_the_rounding(vector_format, d):
    generator = np.random.default_rng(d)
    table = packed(generator.normal(size=(30, d)).astype(np.float32), vector_format)
    query = generator.normal(size=d).astype(np.float32)
    out = np.empty(30, dtype=np.float32)
    score_rows(table.codes, table.scales, np.arange(30, dtype=np.int32), query, out)
    exact = table.codes.astype(np.float64) * table.scales.astype(np.float64)[:, np.newaxis]
    allowed = 1.01 * (d + 1) * 2.0**-24 * (np.abs(exact) @ np.abs(query.astype(np.float64)))
    assert (np.abs(out - exact @ query) <= allowed).all()


@pytest.mark.parametrize("vector_format", FORMATS)
def test_a_row_scores_the_same_bits_whatever_rows_stand_around_it(vector_format):
    generator = np.random.default_rng(1)
    table = packed(generator.normal(size=(50, 129)).astype(np.float32), vector_format)
    query = generator.normal(size=129).astype(np.float32)
    everything = np.empty(50, dtype=np.float32)
    score_rows(table.codes, table.scales, np.arange(50, dtype=np.int32), query, everything)
    for row in range(50):
        alone = np.empty(1, dtype=np.float32)
        score_rows(table.codes, table.scales, np.array([row], dtype=np.int32), query, alone)
        assert alone[0] == everything[row]


def test_the_best_of_some_rows_come_back_as_rows():
    vectors = np.array([[1.0], [3.0], [3.0], [2.0]], dtype=np.float32)
    rows, scores = best_of_rows(vectors, np.array([0, 2, 3], dtype=np.int32), np.ones(1, dtype=np.float32), 2)
    assert rows.tolist() == [2, 3]
    assert scores.tolist() == [3.0, 2.0]


def test_asking_for_more_than_there_is_gives_all_of_it():
    rows, _ = best_of_rows(
        np.ones((3, 2), dtype=np.float32), np.array([0, 2], dtype=np.int32), np.ones(2, dtype=np.float32), 10
    )
    assert rows.tolist() == [0, 2]
