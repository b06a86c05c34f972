"""Every metric against the textbook, one user at a time, and against ranx where the definitions are the same."""

from __future__ import annotations

import importlib

import numba
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UsageError
from trainer.errors import EvaluationError
from trainer.metrics import Catalogue, Ranking, measure, parse_metrics

N_ITEMS = 16
OF_HITS = ("recall@{k}", "recall@{k}/min", "precision@{k}", "ndcg@{k}", "map@{k}", "mrr@{k}", "hr@{k}")
OF_ITEMS = ("revenue@{k}", "novelty@{k}", "diversity@{k}", "coverage@{k}")
WITHIN_ONE = {"recall", "recall/min", "precision", "ndcg", "map", "mrr", "hr", "revenue", "coverage"}


def metrics_at(k, *templates):
    return parse_metrics(",".join(template.format(k=k) for template in templates))


def hits_of(*rows, n_relevant):
    hits = np.array(rows, dtype=bool)
    listed = np.arange(hits.size, dtype=np.int32).reshape(hits.shape)
    return Ranking(listed, hits, np.array(n_relevant), np.zeros(len(hits)))


def ranking_of(lists, relevant, depth, catalogue=None, known_prices=None):
    """A Ranking from a list of items and a set of relevant items for each user."""
    rows = np.full((len(lists), depth), -1, dtype=np.int32)
    for user, items in enumerate(lists):
        rows[user, : len(items)] = items[:depth]
    hits = np.array([[item in wanted for item in row] for row, wanted in zip(rows.tolist(), relevant, strict=True)])
    prices = known_prices or {}
    relevant_price = np.array([sum(prices.get(item, 0.0) for item in wanted) for wanted in relevant])
    return Ranking(rows, hits, np.array([len(wanted) for wanted in relevant]), relevant_price, catalogue)


def random_case(seed, *, n_users=6, depth=8):
    """Lists of any length, and all that a textbook needs: relevant sets, users by item, prices, vectors."""
    generator = np.random.default_rng(seed)
    lists = [generator.permutation(N_ITEMS)[: generator.integers(0, depth + 1)].tolist() for _ in range(n_users)]
    relevant = [set(generator.choice(N_ITEMS, generator.integers(1, 12), replace=False).tolist()) for _ in lists]
    users_by_item = [set(np.flatnonzero(generator.random(20) < 0.4).tolist()) | {0} for _ in range(N_ITEMS)]
    users_by_item[0] = set(range(20))
    prices = np.round(generator.uniform(0.5, 90, N_ITEMS), 2).astype(np.float32)
    prices[generator.random(N_ITEMS) < 0.4] = np.nan
    vectors = generator.normal(size=(N_ITEMS, 5)).astype(np.float32)
    vectors[3] = 0
    return lists, relevant, users_by_item, prices, vectors


def ranking_of_case(seed):
    lists, relevant, users_by_item, prices, vectors = random_case(seed)
    known = {item: float(price) for item, price in enumerate(prices) if not np.isnan(price)}
    catalogue = Catalogue(20, np.array([len(users) for users in users_by_item]), vectors, prices)
    return ranking_of(lists, relevant, 8, catalogue, known)


@given(
    ranking=st.permutations(range(12)),
    relevant=st.sets(st.integers(0, 15), min_size=1, max_size=10),
    k=st.integers(1, 12),
)
def test_each_metric_of_hits_is_the_textbooks(ranking, relevant, k):
    found = measure(metrics_at(k, *OF_HITS), ranking_of([ranking], [relevant], 12)).means
    expected = reference.metrics(ranking, relevant, k)
    assert found == pytest.approx(
        {(f"recall@{k}/min" if name == "recall/min" else f"{name}@{k}"): value for name, value in expected.items()}
    )


@pytest.mark.parametrize("k", [2, 5, 8])
@pytest.mark.parametrize("seed", range(5))
def test_each_metric_of_items_is_the_textbooks_for_every_user(seed, k):
    lists, relevant, users_by_item, prices, vectors = random_case(seed)
    found = measure(metrics_at(k, *OF_ITEMS), ranking_of_case(seed))
    known = [None if np.isnan(price) else float(price) for price in prices]
    expected = [
        reference.item_metrics(items, wanted, k, users_by_item, known, vectors)
        for items, wanted in zip(lists, relevant, strict=True)
    ]
    for kind in ("revenue", "novelty", "diversity"):
        by_user = [np.nan if row[kind] is None else row[kind] for row in expected]
        np.testing.assert_allclose(found.per_user[f"{kind}@{k}"], by_user, rtol=1e-5, atol=1e-6)
        assert found.means[f"{kind}@{k}"] == pytest.approx(np.nanmean(by_user), rel=1e-5)
    assert found.means[f"coverage@{k}"] == reference.coverage(lists, k, N_ITEMS)
    assert f"coverage@{k}" not in found.per_user


def test_each_metric_of_hits_is_that_of_ranx(monkeypatch):
    # The same definitions: recall, precision, ndcg (gain 0 or 1), mrr, hit_rate. They differ in map: ranx divides by
    # all relevant items, here by min(k, relevant items), so that k hits make 1; it is compared after that correction.
    # ranx has no recall@k/min.
    # Its kernels run as plain Python here: compiling them takes most of a minute, and warns of unsafe casts.
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    ranx = importlib.import_module("ranx")
    generator = np.random.default_rng(5)
    lists = [generator.permutation(40)[:10].tolist() for _ in range(30)]
    relevant = [set(generator.choice(50, generator.integers(1, 20), replace=False).tolist()) for _ in lists]
    qrels = ranx.Qrels({f"{u:02}": {f"{item}": 1 for item in wanted} for u, wanted in enumerate(relevant)})
    run = ranx.Run({f"{u:02}": {f"{item}": 10.0 - p for p, item in enumerate(row)} for u, row in enumerate(lists)})
    names = {"recall": "recall", "precision": "precision", "ndcg": "ndcg", "mrr": "mrr", "hr": "hit_rate", "map": "map"}
    for k in (5, 10):
        found = measure(metrics_at(k, *(f"{name}@{{k}}" for name in names)), ranking_of(lists, relevant, 10)).per_user
        theirs = ranx.evaluate(qrels, run, [f"{name}@{k}" for name in names.values()], return_mean=False)
        n_relevant = np.array([len(wanted) for wanted in relevant])
        theirs[f"map@{k}"] = theirs[f"map@{k}"] * n_relevant / np.minimum(n_relevant, k)
        for ours, name in names.items():
            np.testing.assert_allclose(found[f"{ours}@{k}"], theirs[f"{name}@{k}"], atol=1e-12, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 8))
def test_metrics_stay_within_their_bounds(seed, k):
    metrics = metrics_at(k, *OF_HITS, *OF_ITEMS)
    ranking = ranking_of_case(seed)
    for metric in metrics:
        values = np.atleast_1d(metric.of(ranking))
        values = values[~np.isnan(values)]
        highest = 1.0 if metric.kind in WITHIN_ONE else {"novelty": np.log2(20), "diversity": 2.0}[metric.kind]
        assert (values >= -1e-9).all(), metric.name
        assert (values <= highest + 1e-9).all(), metric.name


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_permuting_the_users_permutes_their_values_and_keeps_the_means(seed):
    ranking = ranking_of_case(seed)
    order = np.random.default_rng(seed).permutation(len(ranking.rows))
    permuted = Ranking(
        ranking.rows[order], ranking.hits[order], ranking.n_relevant[order], ranking.relevant_price[order],
        ranking.catalogue,
    )  # fmt: skip
    metrics = metrics_at(5, *OF_HITS, *OF_ITEMS)
    before, after = measure(metrics, ranking), measure(metrics, permuted)
    assert after.means == pytest.approx(before.means, rel=1e-12)
    for name, values in before.per_user.items():
        np.testing.assert_array_equal(after.per_user[name], values[order])


def test_the_mean_is_over_users():
    found = measure(parse_metrics("recall@2,hr@1"), hits_of([1, 0], [0, 0], n_relevant=[1, 4]))
    assert found.means == {"recall@2": 0.5, "hr@1": 0.5}
    assert found.per_user["recall@2"].tolist() == [1.0, 0.0]


def test_the_two_recalls_differ_where_a_user_has_more_test_items_than_places():
    found = measure(parse_metrics("recall@2,recall@2/min"), hits_of([1, 1], n_relevant=[10])).means
    assert found == {"recall@2": 0.2, "recall@2/min": 1.0}


def test_average_precision_counts_the_precision_at_each_hit():
    assert measure(parse_metrics("map@4"), hits_of([1, 0, 1, 0], n_relevant=[2])).means["map@4"] == (1 + 2 / 3) / 2
    assert measure(parse_metrics("map@2"), hits_of([1, 1], n_relevant=[10])).means["map@2"] == 1.0


def small_catalogue(prices):
    """Four items: the first two alike, the third at a right angle to them, the fourth opposite to the first."""
    vectors = np.array([[1, 0], [2, 0], [0, 3], [-1, 0]], dtype=np.float32)
    return Catalogue(8, np.array([8, 4, 2, 1]), vectors, np.array(prices, dtype=np.float32))


def test_the_metrics_of_items_are_known_for_a_list_made_by_hand():
    prices = [10.0, 30.0, np.nan, 5.0]
    ranking = ranking_of([[0, 1, 2], [3, 0]], [{1, 2}, {2}], 3, small_catalogue(prices), {0: 10.0, 1: 30.0, 3: 5.0})
    found = measure(parse_metrics("novelty@3,diversity@3,coverage@3,coverage@1,revenue@3"), ranking)
    assert found.per_user["novelty@3"].tolist() == [(0 + 1 + 2) / 3, (3 + 0) / 2]
    assert found.per_user["diversity@3"] == pytest.approx([2 / 3, 2.0])
    assert found.means["coverage@3"] == 1.0
    assert found.means["coverage@1"] == 0.5
    # The only priced item of the first user is found; the second user has none and does not count.
    assert found.per_user["revenue@3"][0] == 1.0
    assert np.isnan(found.per_user["revenue@3"][1])
    assert found.means["revenue@3"] == 1.0


def test_revenue_weighs_hits_by_their_price():
    prices = {0: 10.0, 1: 30.0, 2: 60.0}
    ranking = ranking_of([[1, 3]], [{0, 1, 2}], 2, small_catalogue([10, 30, 60, 5]), prices)
    assert measure(parse_metrics("revenue@2"), ranking).means["revenue@2"] == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["novelty@2", "diversity@2", "coverage@2", "revenue@2"])
def test_a_metric_of_items_is_refused_where_candidates_were_ranked(name):
    with pytest.raises(EvaluationError, match=rf"{name} is about lists from the whole catalogue.*recall@k"):
        measure(parse_metrics(name), hits_of([1, 0], n_relevant=[1]))


@pytest.mark.parametrize("name", ["revenue@2", "diversity@1"])
def test_a_metric_that_says_nothing_about_anybody_is_refused(name):
    ranking = ranking_of([[0, 1]], [{1}], 2, small_catalogue([np.nan] * 4))
    with pytest.raises(EvaluationError, match="says nothing about any of the 1 users"):
        measure(parse_metrics(name), ranking)


@pytest.mark.parametrize(
    "names", ["recal@20", "recall", "recall@0", "recall@-1", "ndcg@20/min", "map@5/min", "", ",", "hr@1.5"]
)
def test_an_unknown_metric_is_refused_with_the_known_ones(names):
    with pytest.raises(UsageError, match="expected"):
        parse_metrics(names)
