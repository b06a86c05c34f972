"""Codes, their estimates and the scan over them against the definitions in float64; once more with the JIT off."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from numba import config

from engine.errors import IndexUnsupported, ReleaseCorrupt
from engine.pruned_table import build_table
from engine.quantized_scan import LEVELS, SPREADS, fill_tables, patterns_of, search_codes
from engine.quantized_table import QuantizedTable, build_quantized, require_quantizable, turned_length
from engine.rotation import rotate
from engine.vector_formats import FORMATS
from engine.vector_table import packed, table_of

ALL, NOTHING = np.empty(0, dtype=np.bool_), np.empty(0, dtype=np.int32)
N = 80 if config.DISABLE_JIT else 700


def some_vectors(n=N, d=40, seed=0):
    generator = np.random.default_rng(seed)
    spectrum = np.geomspace(1, 0.1, d)
    vectors = generator.standard_t(3, size=(n, d)) * spectrum * generator.lognormal(sigma=0.5, size=(n, 1))
    return vectors.astype(np.float32)


def turned(vectors, table):
    out = np.zeros((len(vectors), table.signs.shape[1]), dtype=np.float32)
    out[:, : vectors.shape[1]] = vectors
    for row in out:
        rotate(row, table.signs, np.empty(len(row), dtype=np.float32))
    return out.astype(np.float64)


def decoded(table, bits):
    """The levels of all rows in the table's order, float64 (64 b, D)."""
    lanes = np.array([2 * (row % 32) + row // 32 for row in range(64)])
    by_row = table.codes[:, :, lanes].transpose(0, 2, 1).reshape(-1, table.codes.shape[1])
    numbers = np.unpackbits(by_row, axis=1, bitorder="little").reshape(len(by_row), -1, bits)
    return np.array(LEVELS[bits])[(numbers * (1 << np.arange(bits))).sum(axis=2)]


def searched(vectors, bits, query, k, deviations=1.0, reach=1.0, allowed=ALL, excluded=NOTHING):
    own = table_of(vectors)
    exact = build_table(own)
    table = build_quantized(own, exact, bits)
    rows, scores = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
    size = search_codes(
        own.codes, own.scales, exact.order, exact.block_norms, table.codes, table.factors, table.signs,
        patterns_of(bits), query, np.float32(deviations * SPREADS[bits]), np.float32(reach), allowed, excluded,
        rows, scores,
    )  # fmt: skip
    return size, rows[: max(size, 0)].tolist(), scores[: max(size, 0)]


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("d", [1, 16, 40, 65])
def test_codes_name_the_nearest_levels_and_factors_make_the_estimate_of_a_rows_own_length_right(bits, d):
    vectors = some_vectors(d=d)
    vectors[7] = 0
    exact = build_table(vectors)
    table = build_quantized(vectors, exact, bits)
    rows, levels = turned(vectors[exact.order], table), decoded(table, bits)[: len(vectors)]
    lengths = np.linalg.norm(rows, axis=1)
    scaled = rows / np.where(lengths > 0, lengths, 1)[:, np.newaxis] * np.sqrt(rows.shape[1])
    distance = np.abs(scaled[..., np.newaxis] - np.array(LEVELS[bits])).min(axis=2)
    real = lengths > 0
    np.testing.assert_allclose(np.abs(scaled - levels)[real], distance[real], atol=1e-4)
    factors = table.factors.reshape(-1)
    np.testing.assert_allclose(
        (factors[: len(rows)] * np.einsum("nd,nd->n", levels, rows))[real], lengths[real] ** 2, rtol=1e-4
    )
    assert factors[: len(rows)][~real].tolist() == [0.0]
    assert not factors[len(rows) :].any()


@pytest.mark.skipif(config.DISABLE_JIT, reason="thousands of rows")
@pytest.mark.parametrize("bits", [1, 2])
def test_estimates_are_unbiased_and_deviate_as_much_as_is_said(bits):
    """For rows that lean on few coordinates as well, since they are turned; queries point anywhere."""
    vectors = some_vectors(4000, 128)
    vectors[::3, 5:] *= 0.05
    exact = build_table(vectors)
    table = build_quantized(vectors, exact, bits)
    queries = np.random.default_rng(3).normal(size=(50, 128))
    queries /= np.linalg.norm(queries, axis=1)[:, np.newaxis]
    estimates = (turned(queries.astype(np.float32), table) @ decoded(table, bits).T) * table.factors.reshape(-1)
    errors = (estimates[:, : len(vectors)] - queries @ vectors[exact.order].T) / table.factors.reshape(-1)[
        : len(vectors)
    ]
    assert abs(errors.mean()) < 0.02
    assert 0.9 < errors.std() / SPREADS[bits] < 1.1


@pytest.mark.parametrize("bits", [1, 2])
def test_a_querys_tables_hold_the_products_with_the_levels_of_every_code(bits):
    query = some_vectors(1, 48, seed=4)[0]
    patterns = patterns_of(bits)
    size = len(patterns)
    tables, about = np.empty((48 // size, 16), dtype=np.uint8), np.empty(2)
    fill_tables(query, patterns, tables, about)
    products = query.reshape(-1, size).astype(np.float64) @ patterns
    lowest = -np.abs(query.reshape(-1, size)).sum(axis=1) * patterns.max()
    np.testing.assert_allclose(tables * about[0] + lowest[:, np.newaxis], products, atol=about[0] * 0.51)
    np.testing.assert_allclose(about[1], lowest.sum(), rtol=1e-5)
    assert tables.max() <= 63


@pytest.mark.parametrize("vector_format", FORMATS)
@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("k", [1, 10, 2 * N])
def test_with_many_deviations_the_answer_is_that_of_a_scan(bits, k, vector_format):
    vectors = some_vectors()
    vectors[5] = vectors[9]
    table = packed(vectors, vector_format)
    vectors = table[:]
    allowed = np.random.default_rng(1).random(N) < 0.7
    excluded = np.arange(0, N, 9, dtype=np.int32)
    for query in some_vectors(5, seed=2):
        scores = vectors.astype(np.float64) @ query
        scores[~allowed] = scores[excluded] = -np.inf
        _, rows, found = searched(table, bits, query, k, deviations=8.0, allowed=allowed, excluded=excluded)
        assert rows == reference.best_rows(scores, k)
        np.testing.assert_allclose(found, scores[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(config.DISABLE_JIT, reason="thousands of rows")
@pytest.mark.parametrize("bits", [1, 2])
def test_more_deviations_and_more_reach_find_more(bits):
    vectors, queries = some_vectors(5000, 64), some_vectors(60, 64, seed=5)
    true = np.sort(queries @ vectors.T, axis=1)[:, -10]

    def recall(**settings):
        found = [searched(vectors, bits, query, 10, **settings)[2] for query in queries]
        return np.mean([(scores >= least - 1e-4).mean() for scores, least in zip(found, true, strict=True)])

    by_deviations = [recall(deviations=each) for each in (-4.0, 0.0, 1.0, 8.0)]
    by_reach = [recall(deviations=8.0, reach=each) for each in (0.2, 0.5, 1.0)]
    assert by_deviations == sorted(by_deviations)
    assert by_reach == sorted(by_reach)
    assert by_deviations[0] < 0.8
    assert by_reach[0] < 0.8
    assert by_deviations[-1] == by_reach[-1] == 1.0


@pytest.mark.parametrize("query", [np.zeros(40), np.full(40, np.nan), np.full(40, np.inf)], ids=["0", "nan", "inf"])
def test_a_query_without_a_length_is_not_answered(query):
    assert searched(some_vectors(), 1, query.astype(np.float32), 5)[0] == -1


@pytest.mark.parametrize("scale", [1e-34, 1e-30, 1e30, 1e34])
def test_numbers_at_the_ends_of_float32_are_searched_like_others(scale):
    vectors, query = some_vectors(), some_vectors(1, seed=6)[0]
    expected = searched(vectors, 1, query, 10, deviations=4.0)[1]
    assert searched(vectors * np.float32(scale), 1, query / np.float32(scale), 10, deviations=4.0)[1] == expected
    assert searched(vectors, 1, query * np.float32(min(scale, 1e30)), 10, deviations=4.0)[1] == expected


def test_vectors_may_be_so_long_and_no_longer():
    require_quantizable(1, 4096)
    require_quantizable(2, 2048)
    with pytest.raises(IndexUnsupported, match="codes of 2 bits are for vectors of up to 2,080 factors, found 2,081"):
        require_quantizable(2, 2081)
    vectors = np.ones((3, 2081), dtype=np.float32)
    with pytest.raises(IndexUnsupported, match="found 2,081"):
        build_quantized(vectors, build_table(vectors), 2)


def test_a_rotation_that_is_none_is_refused():
    vectors = some_vectors(70)
    table = build_quantized(vectors, build_table(vectors), 1)
    arrays = {**table.arrays(), "signs": table.signs * 2}
    with pytest.raises(ReleaseCorrupt, match="entries other than 1 and -1"):
        QuantizedTable.read(lambda name, dtype, shape: arrays[name], 70, 40, 1)
    assert table.signs.shape[1] == turned_length(40) == 48
