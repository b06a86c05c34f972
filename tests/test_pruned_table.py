"""The bounds of a pruned table against the definition, in float64, for vectors of every size and shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pruned_scan import BLOCK, HEAD_STEP, SEGMENT
from engine.pruned_table import PrunedTable, build_table, head_length, rounding
from engine.scoring import score_rows
from engine.vector_formats import FORMATS
from engine.vector_table import packed


def vectors_of(n, d, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(n, d)) * np.geomspace(1, 0.05, d) * generator.lognormal(size=(n, 1))
    return (vectors * scale).astype(np.float32)


def padded(vectors, table):
    """The rows in the table's order, float64, with zeros behind them and behind their coordinates."""
    full = np.zeros((len(table.errors), max(vectors.shape[1], table.head)))
    full[: len(vectors), : vectors.shape[1]] = vectors[table.order]
    return full


def decoded(table):
    """The heads' codes by row, int (64 b, head)."""
    steps = table.head_codes.reshape(len(table.head_codes), -1, BLOCK, 4).transpose(0, 2, 1, 3)
    return steps.reshape(-1, table.head).astype(int) - 128


def test_rows_stand_by_falling_norm_and_equal_ones_in_their_own_order():
    vectors = np.array([[1, 0], [3, 4], [0, 0], [0, 5], [1, 0]], dtype=np.float32)
    assert build_table(vectors).order.tolist() == [1, 3, 0, 4, 2]


@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 16, 17, 64, 100, 128, 512])
def test_the_head_has_all_coordinates_in_steps_and_384_at_most(d):
    assert head_length(d) % HEAD_STEP == 0
    assert min(384, d) <= head_length(d) < d + HEAD_STEP
    assert head_length(d) <= 384


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-42, 1e30])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (63, 5), (64, 8), (200, 24), (1000, 128), (100, 300), (70, 400)])
def test_errors_hold_what_the_codes_lose_and_the_allowance(n, d, scale):
    vectors = vectors_of(n, d, scale=scale)
    table = build_table(vectors)
    rows, head = padded(vectors, table), table.head
    heads = decoded(table) * table.head_scales.reshape(-1, 1).astype(np.float64)
    tails = table.tail_codes * table.tail_scales.reshape(-1, 1).astype(np.float64)
    allowance = rounding(d) * np.linalg.norm(rows, axis=1)
    of_head = np.linalg.norm(rows[:, :head] - heads, axis=1)
    of_tail = np.linalg.norm(rows[:, head:] - tails, axis=1)
    assert (table.head_errors.ravel() >= of_head + allowance).all()
    assert (table.errors >= of_head + of_tail + allowance).all()
    for segment in range(table.rest_norms.shape[1]):
        rest = rows[:, head + (segment + 1) * SEGMENT :]
        assert (table.rest_norms[:, segment] >= np.linalg.norm(rest, axis=1)).all()
    assert (table.tail_norms.ravel() >= np.linalg.norm(rows[:, head:], axis=1)).all()
    normal = table.head_scales.ravel() > 1e-36
    loss = table.head_errors.ravel()[normal] - allowance[normal]
    assert (loss <= 0.51 * np.sqrt(head) * table.head_scales.ravel()[normal] + 1e-6 * allowance[normal]).all()


def test_the_norms_of_a_block_are_the_largest_from_there_on():
    vectors = vectors_of(300, 16)
    table = build_table(vectors)
    rows = padded(vectors, table)
    parts = (rows, rows[:, : table.head], rows[:, table.head :])
    for block, norms in enumerate(table.block_norms):
        for found, part in zip(norms, parts, strict=True):
            assert found >= np.linalg.norm(part[block * BLOCK :], axis=1).max()
    assert (np.diff(table.block_norms, axis=0) <= 0).all()


@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 3, 8, 20, 64, 200, 300]),
    st.sampled_from([1e-35, 1e-18, 1.0, 1e18]),
    st.sampled_from(FORMATS),
)
def test_no_bound_is_below_the_score_that_it_stands_for(seed, d, scale, vector_format):
    generator = np.random.default_rng(seed)
    vectors, query = packed(vectors_of(100, d, seed, scale), vector_format), generator.normal(size=d).astype(np.float32)
    table = build_table(vectors)
    scores = np.empty(100, dtype=np.float32)
    score_rows(vectors.codes, vectors.scales, table.order, query, scores)
    whole = np.zeros(max(d, table.head))
    whole[:d] = query
    head, tail = whole[: table.head], whole[table.head :]
    products = decoded(table) @ head * table.head_scales.ravel()
    length = np.linalg.norm(whole)
    first = products + length * table.head_errors.ravel() + np.linalg.norm(tail) * table.tail_norms.ravel()
    second = products + (table.tail_codes @ tail) * table.tail_scales + length * table.errors
    for bound in (first, second):
        assert (bound[:100] + 1e-40 >= scores).all()


def test_blocks_of_rows_are_entered_alike_wherever_they_begin(monkeypatch):
    vectors = vectors_of(1000, 24)
    whole = build_table(vectors).arrays()
    monkeypatch.setattr("engine.pruned_table.ROWS_AT_ONCE", 128)
    for name, array in build_table(vectors).arrays().items():
        np.testing.assert_array_equal(array, whole[name])


def test_a_table_is_read_as_it_was_written():
    table = build_table(vectors_of(130, 24))
    asked = {}

    def read(name, dtype, shape):
        asked[name] = (dtype, shape)
        return table.arrays()[name]

    assert PrunedTable.read(read, 130, 24).arrays().keys() == table.arrays().keys()
    for name, (dtype, shape) in asked.items():
        assert (table.arrays()[name].dtype, table.arrays()[name].shape) == (dtype, shape)


def test_no_rows_make_an_empty_table():
    table = build_table(np.empty((0, 8), dtype=np.float32))
    assert len(table.order) == len(table.block_norms) == 0
