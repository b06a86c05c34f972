"""The choice of a search: what is tried, what tuning may not be trusted with, and what is left behind."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.choice import Family, choose, families, needed_reach
from engine.errors import IndexUnsupported
from engine.index import APPROXIMATE_FILES, Index
from engine.index_progress import IndexLines
from engine.measurement import Measured, Queries
from engine.plan import PRUNED, QUANTIZED, IndexPlan
from engine.release import Draft

N, FACTORS = 12_000, 16


@pytest.fixture
def draft(tmp_path):
    with Draft(tmp_path, "r") as draft:
        yield draft


@pytest.fixture
def vectors():
    generator = np.random.default_rng(0)
    return (generator.normal(size=(N, FACTORS)) * generator.lognormal(sigma=0.4, size=(N, 1))).astype(np.float32)


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
    everything = ["Quantized1", "Quantized2", "IVF256,Flat", "IVF256,PQ32x4fs", "HNSW32"]
    assert factories(families(50_000, 64, 0.99, 0.0)) == everything[:1]
    assert factories(families(50_000, 64, 0.99, 1.0)) == everything[:2]
    assert factories(families(50_000, 64, 0.99, 1e9)) == everything
    seconds = [sum(each.seconds for each in families(n, 64, 0.99, 1e9)) for n in (50_000, 500_000, 5_000_000)]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("factors", [1, 2, 7, 30, 128])
def test_every_family_is_one_that_can_be_built(factors):
    from engine.index import check_plan

    for family in families(20_000, factors, 0.99, 1e9):
        for setting in itertools.chain(*family.ladders):
            check_plan(IndexPlan(family.factory, setting), factors)


def test_the_first_one_keeps_the_promise_and_all_of_them_tell_their_numbers(draft, vectors):
    told = []
    queries = {"user": some_queries(60, 1), "cart": some_queries(60, 2)}
    found = choose(draft, vectors, np.ones(N, dtype=bool), queries, 0.9, 30.0, IndexLines(told.append))
    assert found[0].kept
    assert any(each.plan == IndexPlan() and each.kept for each in found)
    assert {kind: each.queries for kind, each in found[0].measured.items()} == {"user": 30, "cart": 30}
    assert [each.partition(": ")[0] for each in told] == [f"{n} of 6" for n in range(1, 7) for _ in range(2)]
    assert [each.partition(": ")[2] for each in told[::2]] == [
        "building and measuring Pruned",
        "building Quantized1",
        "building Quantized2",
        "building IVF128,Flat",
        "building IVF128,PQ8x4fs",
        "building HNSW32",
    ]
    for each in found:
        assert set(each.as_dict()["measured"]) == {"user", "cart"}
        assert [trial["search_parameters"] for trial in each.as_dict()["trials"]] == [
            trial.search_parameters for trial in each.trials
        ]
    assert draft.size_bytes(*APPROXIMATE_FILES) == 0


def test_a_search_that_was_lucky_in_tuning_is_not_chosen(draft, vectors, monkeypatch):
    """Half of the queries tune; the other half, which tuning never saw, judges."""

    def measured(index, queries):
        is_exact = index._fast is None
        lower = 1.0 if is_exact or len(queries.vectors) == 21 else 0.5
        return Measured(lower, lower, len(queries.vectors), 100.0 if is_exact else 1.0)

    monkeypatch.setattr("engine.choice.measure", measured)
    monkeypatch.setattr("engine.choice.alone_microseconds", lambda index, queries: 1.0)
    found = choose(draft, vectors, np.ones(N, dtype=bool), {"user": some_queries(41, 1)}, 0.9, 0.0)
    assert [each.kept for each in found] == [True, False, False]
    assert found[1].plan.factory == "Quantized1"
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
    assert [plan.factory for plan in opened] == [PRUNED, "Quantized1", "Quantized1"]
    assert opened[1].deviations == -1.5
    assert len(opened) == 3
    assert [each.plan for each in found] == [IndexPlan()]


def measured_by_deviations(promised_at):
    """Exact search takes 100 us; another 1 us, and keeps every promise from so many deviations on."""

    def measured(index, queries):
        lower = 1.0 if index._fast is None or index.plan.deviations >= promised_at else 0.5
        return Measured(lower, lower, len(queries.vectors), 100.0 if index._fast is None else 1.0)

    return measured


class WithPlan(Index):
    """An index that knows its plan."""

    def __init__(self, files, vectors, plan, available):
        self.plan = plan
        super().__init__(files, vectors, plan, available)


@pytest.fixture
def one_ladder(monkeypatch):
    monkeypatch.setattr("engine.choice.families", lambda *_: [Family("Quantized1", (SETTINGS,), 0.0)])
    monkeypatch.setattr("engine.choice.Index", WithPlan)
    monkeypatch.setattr("engine.choice.alone_microseconds", lambda index, queries: 1.0)


SETTINGS = tuple(f"deviations={c / 100}" for c in range(40, 70))


def test_the_settings_that_tuning_tried_are_kept_with_their_numbers(draft, vectors, monkeypatch, one_ladder):
    monkeypatch.setattr("engine.choice.measure", measured_by_deviations(0.43))
    queries = {"user": some_queries(41, 1)}
    chosen, exact = choose(draft, vectors, np.ones(N, dtype=bool), queries, 0.9, 0.0)
    assert [trial.search_parameters for trial in chosen.trials] == list(SETTINGS[:4])
    assert [trial.measured["user"].lower for trial in chosen.trials] == [0.5, 0.5, 0.5, 1.0]
    assert {trial.measured["user"].queries for trial in chosen.trials} == {21}
    assert chosen.measured["user"].queries == 20
    assert chosen.is_judged
    assert exact.trials == ()


def test_a_search_that_never_kept_the_promise_is_told_of_too_with_a_bounded_number_of_settings(
    draft, vectors, monkeypatch, one_ladder
):
    monkeypatch.setattr("engine.choice.measure", measured_by_deviations(1.0))
    queries = {"user": some_queries(41, 1)}
    exact, failed = choose(draft, vectors, np.ones(N, dtype=bool), queries, 0.9, 0.0)
    assert exact.plan == IndexPlan()
    assert (failed.plan, failed.kept, failed.is_judged) == (IndexPlan("Quantized1", SETTINGS[-1]), False, False)
    assert [trial.search_parameters for trial in failed.trials] == list(SETTINGS[-16:])


def test_an_index_that_faiss_cannot_build_is_left_out(draft, vectors, monkeypatch):
    def fail(*_):
        raise IndexUnsupported("no such thing")

    monkeypatch.setattr("engine.index.build_faiss", fail)
    told = []
    queries = {"user": some_queries(40, 1)}
    found = choose(draft, vectors, np.ones(N, dtype=bool), queries, 0.99, 1e9, IndexLines(told.append))
    assert all(each.plan.factory in (PRUNED, *QUANTIZED) for each in found)
    assert sum("left out: no such thing" in each for each in told) == 3


def test_without_queries_the_exact_search_is_taken(draft, vectors):
    assert [each.plan for each in choose(draft, vectors, np.ones(N, dtype=bool), {}, 0.99, 60.0)] == [IndexPlan()]


def test_the_reach_misses_no_more_of_the_best_rows_than_it_may(draft, vectors):
    exact = Index(draft, vectors, IndexPlan())
    queries = {"user": some_queries(200, 5).answered(exact)}
    norms = np.linalg.norm(vectors, axis=1)
    reaches = []
    for share in (0.2, 0.05, 0.001):
        reach = needed_reach(vectors, queries, share)
        missed = [
            (reach * norms[rows] * np.linalg.norm(query) < scores[-1]).mean()
            for query, (rows, scores) in zip(queries["user"].vectors, queries["user"].best, strict=True)
        ]
        assert np.mean(missed) <= share
        reaches.append(reach)
    assert reaches == sorted(reaches)
    assert 0.3 < reaches[0] < reaches[-1] <= 1.0
    assert needed_reach(vectors, {}, 0.9) == 0.0


def test_the_same_reach_is_not_tuned_for_twice(draft, vectors, monkeypatch):
    monkeypatch.setattr("engine.choice.needed_reach", lambda *_: 0.9)
    found = choose(draft, vectors, np.ones(N, dtype=bool), {"user": some_queries(60, 1)}, 0.5, 0.0)
    assert sorted(each.plan.factory for each in found) == [PRUNED, "Quantized1"]


def test_a_kind_with_one_query_judges_and_does_not_tune(draft, vectors):
    queries = {"user": some_queries(60, 1), "cart": some_queries(1, 2)}
    found = choose(draft, vectors, np.ones(N, dtype=bool), queries, 0.5, 0.0)
    judged = [each for each in found if each.is_judged]
    assert {kind: each.queries for kind, each in judged[0].measured.items()} == {"user": 30, "cart": 1}
    assert all(set(trial.measured) == {"user"} for each in found for trial in each.trials)
