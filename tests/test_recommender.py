"""Weighted sums of parts against brute force over every item: vectors, bags, and both."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import reference
from made_recommender import made_dense, made_evidence, made_part

from engine.evidence import Evidence
from engine.kinds import ByKind
from engine.recommender import Query, Recommender

N_ITEMS = 300
NOTHING = np.empty(0, dtype=np.int32)
WEIGHTS = {"als": ByKind(1, 2), "neighbours": ByKind(3, 1), "others": ByKind(0, -2)}


@pytest.fixture(params=["all available", "some sold out"])
def available(request):
    if request.param == "all available":
        return np.ones(N_ITEMS, dtype=bool)
    return np.random.default_rng(5).random(N_ITEMS) < 0.8


@pytest.fixture(params=["als", "neighbours", "als+neighbours", "neighbours+others", "als+neighbours+others"])
def parts(request, available):
    """The dense part, or None, and sparse ones."""
    names = request.param.split("+")
    dense = made_dense(N_ITEMS, available, weight=WEIGHTS["als"]) if "als" in names else None
    recency = ByKind(1.0, 0.0)
    sparse = [
        made_part(name, N_ITEMS, weight=WEIGHTS[name], recency=recency, seed=seed)
        for seed, name in enumerate(names)
        if name != "als"
    ]
    return dense, sparse


def all_scores(query, dense):
    """The definition, over all items, in float64."""
    scores = np.zeros(N_ITEMS)
    if query.vector is not None:
        scores += dense.encoder.item_vectors.astype(np.float64) @ query.vector
    for memory, (rows, weights) in query.bags:
        for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
            items, entries = memory.row(row)
            scores[items] += float(weight) * entries.astype(np.float64)
    return scores


def whole_numbers(query):
    """The same query with whole numbers, so that sums have no rounding and ties are ties."""
    vector = None if query.vector is None else np.rint(100 * query.vector).astype(np.float32)
    bags = tuple((memory, bag._replace(weights=np.rint(bag.weights))) for memory, bag in query.bags)
    return Query(vector, bags)


@pytest.mark.parametrize("kind", ["user", "cart"])
@pytest.mark.parametrize("masked", [None, 0.5, 0.05], ids=["unfiltered", "half", "few"])
def test_the_best_of_a_sum_are_those_of_brute_force_ties_included(parts, available, kind, masked):
    generator = np.random.default_rng(1)
    dense, sparse = parts
    recommender = Recommender(dense, sparse, available)
    queries = [
        whole_numbers(recommender.query(made_evidence(N_ITEMS, size, generator), kind))
        for size in (1, 2, 5, 10, 30, 100)
    ]
    excluded = [np.sort(generator.choice(N_ITEMS, 20, replace=False)).astype(np.int32) for _ in queries]
    allowed = None if masked is None else generator.random(N_ITEMS) < masked
    for k in (1, 20, N_ITEMS):
        found = recommender.search(queries, k, excluded, allowed)
        for query, out, (rows, scores) in zip(queries, excluded, found, strict=True):
            expected = all_scores(query, dense)
            expected[~available] = -np.inf
            expected[out] = -np.inf
            if allowed is not None:
                expected[~allowed] = -np.inf
            assert rows.tolist() == reference.best_rows(expected, k)
            np.testing.assert_array_equal(scores, expected[rows])


def test_a_search_of_all_items_one_by_one_and_one_that_stops_early_agree_to_the_last_bit(parts, available):
    generator = np.random.default_rng(2)
    recommender = Recommender(*parts, available)
    for size in (1, 4, 40):
        query = recommender.query(made_evidence(N_ITEMS, size, generator), "user")
        out = np.sort(generator.choice(N_ITEMS, 9, replace=False)).astype(np.int32)
        (found,) = recommender.search([query], 15, [out], None)
        for other in (recommender.scan(query, 15, out), recommender.exact(query, 15, out)):
            np.testing.assert_array_equal(found[0], other[0])
            np.testing.assert_array_equal(found[1], other[1])


@pytest.mark.parametrize("kind", ["user", "cart"])
def test_shares_add_up_to_each_score(parts, available, kind):
    generator = np.random.default_rng(3)
    recommender = Recommender(*parts, available)
    for size in (1, 3, 12):
        evidence = made_evidence(N_ITEMS, size, generator)
        rows, scores = recommender.scan(recommender.query(evidence, kind), 25, NOTHING)
        shares = recommender.shares(evidence, kind, rows)
        assert shares.shape == (25, size)
        np.testing.assert_allclose(shares.sum(axis=1), scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max())
        assert not shares[:, evidence.weights < 0].any()


def test_a_part_that_is_switched_off_does_not_count(available):
    dense, neighbours = made_dense(N_ITEMS, available), made_part("neighbours", N_ITEMS)
    both = Recommender(dense, [neighbours], available)
    evidence = made_evidence(N_ITEMS, 6, np.random.default_rng(4))
    for names, alone in (
        (["als"], Recommender(None, [neighbours], available)),
        (["neighbours"], Recommender(dense, [], available)),
    ):
        found = both.scan(both.query(evidence, "cart", without=names), 10, NOTHING)
        expected = alone.scan(alone.query(evidence, "cart"), 10, NOTHING)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_allclose(
            both.shares(evidence, "cart", found[0], names), alone.shares(evidence, "cart", found[0])
        )


def test_whether_a_kind_of_query_is_answered_is_known_from_the_weights(available):
    dense = made_dense(N_ITEMS, available, weight=ByKind(1, 0))
    recommender = Recommender(dense, [made_part("neighbours", N_ITEMS, weight=ByKind(0, 1))], available)
    assert recommender.answers("user")
    assert recommender.answers("cart")
    assert not recommender.answers("user", ["als"])
    assert recommender.answers("cart", ["als"])


def test_a_stored_user_is_asked_for_with_the_stored_vector(available):
    dense = made_dense(N_ITEMS, available, weight=ByKind(2, 1))
    query = Recommender(dense, [], available).query(Evidence.of_rows(NOTHING), "user", user=3)
    np.testing.assert_array_equal(query.vector, 2 * dense.user_vectors[3])


def test_items_after_the_last_row_of_a_memory_have_no_neighbours(available):
    part = made_part("neighbours", N_ITEMS, n_rows=100)
    recommender = Recommender(None, [part], available)
    known, new = np.array([5, 99], dtype=np.int32), np.array([100, 299], dtype=np.int32)
    both = Evidence.of_rows(np.concatenate([known, new]))
    ((_, bag),) = recommender.query(both, "cart").bags
    assert bag.rows.tolist() == known.tolist()
    shares = recommender.shares(both, "cart", np.arange(50, dtype=np.int32))
    assert not shares[:, 2:].any()
    assert shares[:, :2].any()


def test_threads_do_not_share_a_scratch(parts, available):
    """Each of them asks its own queries, over and over, and gets what one thread alone gets."""
    generator = np.random.default_rng(6)
    recommender = Recommender(*parts, available)
    queries = [recommender.query(made_evidence(N_ITEMS, 20, generator), "user") for _ in range(4)]
    expected = [recommender.exact(query, 10, NOTHING) for query in queries]
    wrong = []

    def ask(i):
        for _ in range(200):
            rows, scores = recommender.exact(queries[i], 10, NOTHING)
            if rows.tolist() != expected[i][0].tolist() or scores.tolist() != expected[i][1].tolist():
                wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_index_is_watched_where_vectors_alone_are_asked(available):
    seen = []
    dense, part = made_dense(N_ITEMS, available), made_part("neighbours", N_ITEMS)
    recommender = Recommender(dense, [part], available, lambda *search: seen.append(search))
    evidence = made_evidence(N_ITEMS, 5, np.random.default_rng(8))
    blended = recommender.query(evidence, "cart")
    alone = recommender.query(evidence, "cart", without=["neighbours"])
    found = recommender.search([blended, alone, blended], 5, [NOTHING] * 3, None)
    ((queries, k, excluded, allowed, searched),) = seen
    np.testing.assert_array_equal(queries, alone.vector[np.newaxis])
    assert (k, len(excluded), allowed) == (5, 1, None)
    assert searched[0] is found[1]
