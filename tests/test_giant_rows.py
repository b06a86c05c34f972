"""Rows that all threads solve together, against the kernel that solves a row alone."""

from __future__ import annotations

import numpy as np
import pytest
from made_interactions import interactions_of, random_matrix

from engine.row_solver import EXACT
from trainer.eigenbasis import gram, rotated
from trainer.half_epoch import Penalty, RowNotFinite, giant_rows, solve_side
from trainer.threads import Threads

PENALTY = Penalty(0.1, 0.02, 0.7)
FACTORS = 9


@pytest.fixture
def giants(monkeypatch):
    """Rows of more than 40 entries are giants, in pieces of 16."""
    monkeypatch.setattr("trainer.half_epoch._GIANT_ENTRIES", 40)
    monkeypatch.setattr("trainer.half_epoch._GIANT_SHARE", 0.0)
    monkeypatch.setattr("trainer.giant_rows._PIECE_ENTRIES", 16)


def solved(by_item, users, threads):
    with Threads(threads) as pool:
        table = rotated(users.copy(), gram(users, pool), pool)
        out = np.full((by_item.n_rows, FACTORS), np.nan, dtype=np.float32)
        sums = solve_side(by_item, table, PENALTY, EXACT, out, pool)
    return out, sums


@pytest.fixture
def side():
    by_item = interactions_of(random_matrix(150, 30, seed=3, density=0.3, negative=0.1)).by_item
    return by_item, np.random.default_rng(1).normal(size=(150, FACTORS)).astype(np.float32)


def test_giants_are_solved_as_one_thread_solves_them(side, monkeypatch):
    alone = solved(*side, threads=1)
    monkeypatch.setattr("trainer.half_epoch._GIANT_ENTRIES", 40)
    monkeypatch.setattr("trainer.half_epoch._GIANT_SHARE", 0.0)
    monkeypatch.setattr("trainer.giant_rows._PIECE_ENTRIES", 16)
    n_giants = len(giant_rows(side[0].indptr))
    assert 0 < n_giants < 30
    together = solved(*side, threads=2)
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-4, atol=1e-6)
    assert together[1].observed == pytest.approx(alone[1].observed, rel=1e-6)
    assert together[1].penalty == pytest.approx(alone[1].penalty, rel=1e-5)


@pytest.mark.usefixtures("giants")
def test_giants_have_the_same_bits_for_any_number_of_threads(side):
    one, five = solved(*side, threads=1), solved(*side, threads=5)
    np.testing.assert_array_equal(one[0], five[0])
    assert one[1] == five[1]


@pytest.mark.usefixtures("giants")
def test_a_giant_that_is_not_finite_is_named(side):
    by_item, users = side
    giant = int(giant_rows(by_item.indptr)[-1])
    by_item.values[by_item.indptr[giant] + 3] = np.nan
    with pytest.raises(RowNotFinite) as caught:
        solved(by_item, users, threads=2)
    assert caught.value.row == giant


def test_a_row_is_a_giant_only_if_it_is_a_large_part_of_its_side():
    many = np.full(1000, 70_000)
    assert not len(giant_rows(np.concatenate(([0], np.cumsum(many)))))
    many[[3, 7]] = 4_000_000, 60_000
    assert giant_rows(np.concatenate(([0], np.cumsum(many)))).tolist() == [3]
