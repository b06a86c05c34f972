"""The look-ups against their definition in NumPy, in every way that this processor has; once more with the JIT off."""

from __future__ import annotations

import llvmlite.binding
import numpy as np
import pytest
from numba import config, njit

from engine import table_lookups
from engine.table_lookups import ENTRIES, MOST_ENTRY, MOST_GROUPS, ROWS, STEP, lowest_bit

NEEDS = {"by_512_bits": "avx512bw", "by_256_bits": "avx2"}
WAYS = ["by_definition"] if config.DISABLE_JIT else ["by_definition", "by_512_bits", "by_256_bits", "passing_rows"]


@pytest.fixture(params=WAYS)
def passing_rows(request):
    feature = NEEDS.get(request.param)
    if feature is not None and not llvmlite.binding.get_host_cpu_features().get(feature):
        pytest.skip(f"this processor has no {feature}")
    way = getattr(table_lookups, request.param)
    if config.DISABLE_JIT:
        return way

    @njit(nogil=True)
    def run(codes, tables, factors, step, offset, least):
        return way(codes, tables, factors, step, offset, least)

    return run


def made(groups, seed=0, most=MOST_ENTRY):
    """Codes by row and group, the same as they lie in memory, and tables."""
    generator = np.random.default_rng(seed)
    by_row = generator.integers(0, ENTRIES, size=(ROWS, groups))
    lanes = np.empty(ROWS, dtype=int)
    lanes[0::2], lanes[1::2] = np.arange(ROWS // 2), np.arange(ROWS // 2, ROWS)
    codes = (by_row[lanes, 0::2] | by_row[lanes, 1::2] << 4).T.astype(np.uint8)
    tables = generator.integers(0, most + 1, size=(groups, ENTRIES)).astype(np.uint8)
    return by_row, np.ascontiguousarray(codes), tables


def sums_of(by_row, tables):
    return tables.astype(int)[np.arange(len(tables)), by_row].sum(axis=1)


def rows_in(bits):
    return [row for row in range(ROWS) if int(bits) >> row & 1]


@pytest.mark.parametrize("groups", [STEP, 3 * STEP, 32, 128])
def test_exactly_the_rows_that_reach_the_least_pass(passing_rows, groups):
    by_row, codes, tables = made(groups)
    sums = sums_of(by_row, tables)
    ones = np.ones(ROWS, dtype=np.float32)
    for least in (-1, *np.unique(sums)[::7], sums.max(), sums.max() + 1):
        found = passing_rows(codes, tables, ones, np.float32(1), np.float32(0), np.float32(least))
        assert rows_in(found) == np.flatnonzero(sums >= least).tolist()


def test_sums_as_large_as_they_can_be_are_right(passing_rows):
    by_row, codes, tables = made(MOST_GROUPS)
    tables[:] = MOST_ENTRY
    tables[:4, 3] = 0
    sums = sums_of(by_row, tables)
    assert sums.max() == MOST_GROUPS * MOST_ENTRY < 1 << 16
    ones = np.ones(ROWS, dtype=np.float32)
    for least in np.unique(sums):
        found = passing_rows(codes, tables, ones, np.float32(1), np.float32(0), np.float32(least))
        assert rows_in(found) == np.flatnonzero(sums >= least).tolist()


def test_an_estimate_is_scaled_moved_and_multiplied_by_the_rows_factor(passing_rows):
    by_row, codes, tables = made(32, seed=1)
    factors = np.random.default_rng(2).uniform(0.1, 3, size=ROWS).astype(np.float32)
    estimates = (sums_of(by_row, tables) * 0.037 - 40.0) * factors
    for least in (-20.0, 0.0, 3.3, 30.0):
        found = rows_in(passing_rows(codes, tables, factors, np.float32(0.037), np.float32(-40), np.float32(least)))
        assert set(np.flatnonzero(estimates >= least + 1e-3)) <= set(found)
        assert set(found) <= set(np.flatnonzero(estimates >= least - 1e-3))


def test_a_row_whose_estimate_is_no_number_passes(passing_rows):
    _, codes, tables = made(8)
    factors = np.zeros(ROWS, dtype=np.float32)
    factors[[3, 40]] = np.nan, np.inf
    found = passing_rows(codes, tables, factors, np.float32(1), np.float32(1), np.float32(1e30))
    assert rows_in(found) == [3, 40]
    everything = passing_rows(codes, tables, factors, np.float32(1), np.float32(1), np.float32(-np.inf))
    assert rows_in(everything) == list(range(ROWS))


def test_the_lowest_bit_is_found():
    find = lowest_bit if config.DISABLE_JIT else njit(nogil=True)(lambda bits: lowest_bit(bits))
    for place in (0, 1, 31, 32, 62, 63):
        assert find(np.uint64(1 << place)) == place
        assert find(np.uint64((1 << 63) | (1 << place))) == place
