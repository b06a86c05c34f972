"""The choice of a search: what is tried, what tuning may not be trusted with, and what is left behind."""

from __future__ import annotations

import numpy as np
import pytest

from engine.choice import choose, families
from engine.errors import IndexUnsupported
from engine.index import Index, add_table
from engine.measurement import Measured, Queries
from engine.plan import PRUNED, IndexPlan
from engine.release import INDEX_FILE, Draft

N, FACTORS = 12_000, 16


@pytest.fixture
def draft(tmp_path):
    with Draft(tmp_path, "r") as draft:
        yield draft


@pytest.fixture
def vectors(draft):
    generator = np.random.default_rng(0)
    vectors = (generator.normal(size=(N, FACTORS)) * generator.lognormal(sigma=0.4, size=(N, 1))).astype(np.float32)
    add_table(draft, vectors)
    return vectors


def some_queries(n, seed):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(n, FACTORS)).astype(np.float32)
    return Queries(vectors, [np.sort(generator.choice(N, 5, replace=False)).astype(np.int32) for _ in range(n)])


def factories(found):
    return [family.factory for family in found]


def test_where_exactness_is_promised_or_little_is_to_be_searched_nothing_else_is_tried():
    assert families(1_000_000, 64, 1.0, 1e9) == []
    assert families(9_999, 64, 0.9, 1e9) == []


def test_the_budget_decides_what_is_built_by_estimates_that_grow_with_the_catalogue():
    assert factories(families(50_000, 64, 0.99, 0.0)) == [PRUNED]
    assert factories(families(50_000, 64, 0.99, 1e9)) == [PRUNED, "IVF256,Flat", "IVF256,PQ32x4fs", "HNSW32"]
    seconds = [sum(each.seconds for each in families(n, 64, 0.99, 1e9)) for n in (50_000, 500_000, 5_000_000)]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("factors", [1, 2, 7, 30, 128])
def test_every_family_is_one_that_can_be_built(factors):
    from engine.index import check_plan

    for family in families(20_000, factors, 0.99, 1e9):
        for setting in family.settings:
            check_plan(IndexPlan(family.factory, setting), factors)


def test_the_first_one_keeps_the_promise_and_all_of_them_tell_their_numbers(draft, vectors):
    told = []
    queries = {"user": some_queries(60, 1), "cart": some_queries(60, 2)}
    found = choose(draft, vectors, np.ones(N, dtype=bool), queries, 0.9, 30.0, told.append)
    assert found[0].kept
    assert any(each.plan == IndexPlan() and each.kept for each in found)
    assert {kind: each.queries for kind, each in found[0].measured.items()} == {"user": 30, "cart": 30}
    assert len(told) == 5
    for each in found:
        assert set(each.as_dict()["measured"]) == {"user", "cart"}
    assert not draft.verified_path(INDEX_FILE).exists()


def test_a_search_that_was_lucky_in_tuning_is_not_chosen(draft, vectors, monkeypatch):
    """Half of the queries tune; the other half, which tuning never saw, judges."""

    def measured(index, queries):
        is_exact = index._fast is None
        lower = 1.0 if is_exact or len(queries.vectors) == 21 else 0.5
        return Measured(lower, lower, len(queries.vectors), 100.0 if is_exact else 1.0)

    monkeypatch.setattr("engine.choice.measure", measured)
    monkeypatch.setattr("engine.choice.alone_microseconds", lambda index, queries: 1.0)
    found = choose(draft, vectors, np.ones(N, dtype=bool), {"user": some_queries(41, 1)}, 0.9, 0.0)
    assert [each.kept for each in found] == [True, False]
    assert found[0].plan == IndexPlan()


def test_what_is_slower_than_exact_search_ends_at_its_cheapest_setting(draft, vectors, monkeypatch):
    opened = []

    class Counted(Index):
        def __init__(self, files, vectors, plan, available):
            opened.append(plan)
            super().__init__(files, vectors, plan, available)

    monkeypatch.setattr("engine.choice.Index", Counted)
    monkeypatch.setattr("engine.choice.alone_microseconds", lambda index, queries: 1e9)
    found = choose(draft, vectors, np.ones(N, dtype=bool), {"user": some_queries(41, 1)}, 0.9, 0.0)
    assert opened == [IndexPlan(), IndexPlan(PRUNED, "confidence=0.4")]
    assert [each.plan for each in found] == [IndexPlan()]


def test_an_index_that_faiss_cannot_build_is_left_out(draft, vectors, monkeypatch):
    def fail(*_):
        raise IndexUnsupported("no such thing")

    monkeypatch.setattr("engine.choice.build_faiss", fail)
    told = []
    found = choose(draft, vectors, np.ones(N, dtype=bool), {"user": some_queries(40, 1)}, 0.99, 1e9, told.append)
    assert all(each.plan.factory == PRUNED for each in found)
    assert sum("left out: no such thing" in each for each in told) == 3


def test_without_queries_the_exact_search_is_taken(draft, vectors):
    assert [each.plan for each in choose(draft, vectors, np.ones(N, dtype=bool), {}, 0.99, 60.0)] == [IndexPlan()]
