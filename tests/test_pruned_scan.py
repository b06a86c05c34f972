"""The kernels of pruning against a scan in float64; once more with the JIT off."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from engine.pruned_scan import BLOCK, search_one, take_products
from engine.pruned_table import build_table, underflow
from engine.vector_formats import FORMATS
from engine.vector_table import VectorTable, table_of

NOTHING = np.empty(0, dtype=np.int32)
ALL = np.empty(0, dtype=np.bool_)


def whole_vectors(n, d, seed=0):
    """Integer coordinates, whose scores are exact in float32; half of the rows are copies."""
    vectors = np.random.default_rng(seed).integers(-3, 4, size=(n, d)).astype(np.float32)
    vectors[1::2] = vectors[::2][: n // 2]
    return vectors


def as_table(vectors, vector_format):
    """Whole numbers as codes of any format, with scales of 1."""
    if vector_format == "float32":
        return table_of(vectors)
    return VectorTable(vectors.astype(vector_format), np.ones(len(vectors), dtype=np.float32))


def searched(vectors, query, k, allowed=ALL, excluded=NOTHING):
    rows, scores = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
    table, d = table_of(vectors), vectors.shape[1]
    size = search_one(
        table.codes, table.scales, *build_table(table).arrays().values(), query,
        np.float32(underflow(d)), allowed, excluded, rows, scores, 0,
    )  # fmt: skip
    return rows[:size].tolist(), scores[:size].tolist()


def expected(vectors, query, k, allowed=ALL, excluded=NOTHING):
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    if len(allowed):
        scores[~allowed] = -np.inf
    scores[excluded] = -np.inf
    rows = reference.best_rows(scores, k)
    return rows, scores[rows].tolist()


@pytest.mark.parametrize("vector_format", FORMATS)
@pytest.mark.parametrize("d", [3, 8, 20])
@pytest.mark.parametrize("k", [1, 7, BLOCK, 150])
def test_one_query_finds_the_best_rows_in_order(d, k, vector_format):
    vectors = whole_vectors(150, d)
    for query in whole_vectors(5, d, seed=1):
        assert searched(as_table(vectors, vector_format), query, k) == expected(vectors, query, k)


def test_rows_that_are_not_allowed_or_excluded_are_passed_over():
    vectors, query = whole_vectors(150, 12), whole_vectors(1, 12, seed=2)[0]
    allowed = np.random.default_rng(3).random(150) < 0.4
    excluded = np.arange(0, 150, 7, dtype=np.int32)
    assert searched(vectors, query, 10, allowed, excluded) == expected(vectors, query, 10, allowed, excluded)
    assert searched(vectors, query, 10, np.zeros(150, dtype=np.bool_)) == ([], [])


def test_a_score_that_is_no_number_is_never_found():
    vectors = whole_vectors(70, 8)
    vectors[5] = np.nan
    query = np.ones(8, dtype=np.float32)
    rows, _ = searched(vectors, query, 70)
    assert 5 not in rows
    assert len(rows) == 69


@pytest.mark.parametrize("vector_format", FORMATS)
def test_products_from_elsewhere_find_the_same_rows(vector_format):
    vectors, queries = whole_vectors(150, 12), whole_vectors(6, 12, seed=4)
    allowed = np.random.default_rng(5).random(150) < 0.7
    excluded = [np.arange(i, 150, 9 + i, dtype=np.int32) for i in range(6)]
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in excluded])]).astype(np.int64)
    rows, scores = np.empty((6, 10), dtype=np.int32), np.empty((6, 10), dtype=np.float32)
    sizes, margins = np.zeros(6, dtype=np.int64), np.full(6, 0.5, dtype=np.float32)
    table = as_table(vectors, vector_format)
    for first in range(0, 150, 40):
        block = np.arange(first, min(first + 40, 150), dtype=np.int32)[::-1].copy()
        for chosen in (np.array([0, 2, 4]), np.array([1, 3, 5])):
            products = queries[chosen] @ vectors[block].T + np.float32(0.25)
            take_products(
                products, block, table.codes, table.scales, queries, chosen, margins, allowed, np.concatenate(excluded),
                starts, rows, scores, sizes,
            )  # fmt: skip
    for i, query in enumerate(queries):
        wanted = expected(vectors, query, 10, allowed, excluded[i])
        assert (rows[i, : sizes[i]].tolist(), scores[i, : sizes[i]].tolist()) == wanted


def test_what_the_bytes_of_a_query_lose_is_part_of_the_bound():
    """Coordinates too small for the query's 15 bits decide; the rows' own codes lose nothing."""
    query = np.array([1.0] + [3e-5] * 14 + [0.0], dtype=np.float32)
    longer = np.array([100] + [127] * 9 + [-127] * 5 + [127], dtype=np.float32)
    better = np.array([100] + [126] * 14 + [127], dtype=np.float32)
    assert searched(np.stack([longer, better]), query, 1)[0] == [1]
