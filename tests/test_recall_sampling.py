"""A server's estimate of its own recall: right for good and bad searches, bounded, by release, and never in the way."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
from small_release import publish, small_shop

from engine.index import Index, add_index, add_table, recalls
from engine.plan import IndexPlan
from engine.queries import CartQuery, SimilarQuery, UserQuery
from engine.recall_sampling import WINDOW, RecallSampler
from engine.release import Draft
from engine.repository import Repository
from engine.retrieval import Snapshot

N, FACTORS, K = 12_000, 16, 20
NOTHING = np.empty(0, dtype=np.int32)


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    with Draft(tmp_path_factory.mktemp("draft"), "r") as draft:
        yield draft


@pytest.fixture(scope="module")
def vectors(draft):
    vectors = np.random.default_rng(0).normal(size=(N, FACTORS)).astype(np.float32)
    add_table(draft, vectors)
    return vectors


def sampled(index, queries, excluded, allowed=None, *, share=1.0, draw=lambda: 0.5):
    """The sampler that was told of each of these searches, after it has repeated all of them."""
    sampler = RecallSampler(share, lambda: "r", draw, waiting=len(queries) + 1)
    for query, rows in zip(queries, excluded, strict=True):
        found = index.search(query[np.newaxis], K, [rows], allowed)
        sampler("r", index, query[np.newaxis], K, [rows], allowed, found)
    repeat_all(sampler)
    return sampler


def repeat_all(sampler):
    while sampler._waiting.qsize():
        sampler._repeat_one()


def some_queries(n):
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(n, FACTORS)).astype(np.float32)
    return vectors, [np.sort(generator.choice(N, 30, replace=False)).astype(np.int32) for _ in range(n)]


def test_an_exact_index_is_found_to_be_exact(draft, vectors):
    found = sampled(Index(draft, vectors, IndexPlan()), *some_queries(40)).recalls("r")
    assert found.tolist() == [1.0] * 40


def test_a_bad_index_is_found_out_with_the_recall_that_calibration_measures(draft, vectors):
    queries, excluded = some_queries(40)
    plan = IndexPlan("Quantized1", "deviations=-4")
    add_index(draft, vectors, plan)
    index = Index(draft, vectors, plan)
    found = sampled(index, queries, excluded).recalls("r")
    np.testing.assert_array_equal(found, recalls(index, queries, K, excluded))
    assert found.mean() < 0.95


def test_searches_are_repeated_with_their_filter_and_exclusions(draft, vectors):
    """An index that forgets either gives better scores than it should: recall would stay 1, so ask the scan itself."""
    available = np.random.default_rng(2).random(N) < 0.9
    allowed = np.random.default_rng(3).random(N) < 0.5
    index = Index(draft, vectors, IndexPlan(), available)
    queries, excluded = some_queries(10)
    for query, rows in zip(queries, excluded, strict=True):
        truth = vectors.astype(np.float64) @ query.astype(np.float64)
        truth[~(available & allowed)] = -np.inf
        truth[rows] = -np.inf
        found = index.scan(query, K, rows, allowed)
        assert found[0].tolist() == np.argsort(-truth)[:K].tolist()
        assert index.scan(query, K, NOTHING)[1][0] >= found[1][0]
    assert sampled(index, queries, excluded, allowed).recalls("r").tolist() == [1.0] * 10


class Broken:
    """An exact path that lost its best row, and says so only to who scores everything."""

    def __init__(self, index):
        self._index = index
        self.scan = index.scan

    def search(self, queries, k, excluded, allowed):
        return [(rows[1:], scores[1:]) for rows, scores in self._index.search(queries, k + 1, excluded, allowed)]


def test_an_exact_search_that_is_broken_shows(draft, vectors):
    index = Broken(Index(draft, vectors, IndexPlan()))
    assert sampled(index, *some_queries(5)).recalls("r").tolist() == [19 / 20] * 5


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_is_of_queries_also_of_those_in_a_batch(draft, vectors, share):
    index, (queries, excluded) = Index(draft, vectors, IndexPlan()), some_queries(40)
    draws = iter(np.arange(40) / 40)
    sampler = RecallSampler(share, lambda: "r", lambda: next(draws))
    sampler("r", index, queries, K, excluded, None, index.search(queries, K, excluded))
    assert sampler.n_sampled == 40 * share
    assert next(draws, None) is None


def fill(sampler, index, n, release_id="r"):
    queries, excluded = some_queries(1)
    for _ in range(n):
        sampler(release_id, index, queries, K, excluded, None, [(NOTHING, np.zeros(K, dtype=np.float32))])


class Counted:
    """Finds that every answer was right."""

    def scan(self, query, k, excluded, allowed):
        return np.arange(k, dtype=np.int32), np.zeros(k, dtype=np.float32)


class Wrong(Counted):
    """Finds that every answer was wrong."""

    def scan(self, query, k, excluded, allowed):
        return np.arange(k, dtype=np.int32), np.ones(k, dtype=np.float32)


def test_what_does_not_fit_in_the_queue_is_dropped_and_counted():
    sampler = RecallSampler(1.0, lambda: "r", waiting=3)
    fill(sampler, Counted(), 10)
    assert (sampler.n_sampled, sampler.n_dropped) == (10, 7)
    repeat_all(sampler)
    assert len(sampler.recalls("r")) == 3


def test_the_window_moves():
    sampler = RecallSampler(1.0, lambda: "r", waiting=2 * WINDOW)
    fill(sampler, Wrong(), 300)
    fill(sampler, Counted(), WINDOW - 100)
    repeat_all(sampler)
    assert sampler.recalls("r").mean() == 1 - 200 / 1000 + 100 / 1000


def test_another_release_begins_another_window_and_late_searches_of_the_old_one_are_left_out():
    live = ["old"]
    sampler = RecallSampler(1.0, lambda: live[0])
    fill(sampler, Wrong(), 5, "old")
    repeat_all(sampler)
    assert len(sampler.recalls("old")) == 5
    assert len(sampler.recalls("new")) == 0
    live[0] = "new"
    fill(sampler, Counted(), 2, "new")
    fill(sampler, Wrong(), 1, "old")
    repeat_all(sampler)
    assert sampler.recalls("new").tolist() == [1.0, 1.0]
    assert len(sampler.recalls("old")) == 0


def test_a_search_of_a_release_that_is_not_live_any_more_is_not_repeated():
    """With millions of items each scan takes long, and holds its release."""

    class Forbidden:
        def scan(self, query, k, excluded, allowed):
            raise AssertionError

    live = ["old"]
    sampler = RecallSampler(1.0, lambda: live[0])
    fill(sampler, Forbidden(), 3, "old")
    live[0] = "new"
    repeat_all(sampler)
    assert sampler.n_sampled == 3


def test_searches_of_a_release_that_is_warmed_before_it_serves_are_not_drawn():
    sampler = RecallSampler(1.0, lambda: "old")
    fill(sampler, Counted(), 3, "new")
    assert sampler.n_sampled == 0


def test_after_the_end_nothing_is_held():
    sampler = RecallSampler(1.0, lambda: "r")
    index = Counted()
    held = weakref.ref(index)
    fill(sampler, index, 3)
    sampler.stop()
    fill(sampler, index, 3)
    del index
    assert held() is None


def test_a_search_that_cannot_be_repeated_does_not_end_the_sampling(caplog):
    class Failing:
        def scan(self, query, k, excluded, allowed):
            raise MemoryError

    sampler = RecallSampler(1.0, lambda: "r")
    fill(sampler, Failing(), 1)
    fill(sampler, Counted(), 1)
    repeat_all(sampler)
    assert sampler.recalls("r").tolist() == [1.0]
    assert [record.message for record in caplog.records] == ["a sampled search could not be repeated"]


def test_a_release_that_was_sampled_is_not_held_while_nothing_is_asked():
    sampler = RecallSampler(1.0, lambda: "r")
    sampler.start()
    index = Counted()
    gone, held = threading.Event(), weakref.ref(index)
    weakref.finalize(index, gone.set)
    fill(sampler, index, 1)
    del index
    assert gone.wait(10)
    assert held() is None
    sampler.stop()


@pytest.mark.parametrize("waiting", [1, 64])
def test_stopping_ends_the_thread_also_when_the_queue_is_full(waiting):
    entered, leave = threading.Event(), threading.Event()

    class Slow(Counted):
        def scan(self, query, k, excluded, allowed):
            entered.set()
            assert leave.wait(10)
            return super().scan(query, k, excluded, allowed)

    sampler = RecallSampler(1.0, lambda: "r", waiting=waiting)
    sampler.start()
    fill(sampler, Slow(), 1)
    assert entered.wait(10)
    fill(sampler, Slow(), 1)
    threading.Timer(0.05, leave.set).start()
    sampler.stop()
    assert not sampler.is_busy
    assert len(sampler.recalls("r")) == 1


def test_a_sampler_that_never_started_stops():
    sampler = RecallSampler(1.0, lambda: "r")
    sampler.stop()
    assert not sampler.is_busy


def test_a_snapshot_tells_of_every_search_of_its_index_and_of_nothing_else(tmp_path):
    shop = small_shop(n_items=3000, seed=3)
    repository = Repository(tmp_path)
    publish(repository, shop)
    sampler = RecallSampler(1.0, lambda: repository.current())
    snapshot = Snapshot.open(repository.current_path(), sampler)
    assert sampler.n_sampled == 0
    snapshot.recommend_for_users([UserQuery("u1"), UserQuery("u2"), UserQuery("a stranger")])
    snapshot.recommend_for_carts([CartQuery(["i100"], exclude_item_ids=["i101"])])
    snapshot.recommend_for_users([UserQuery("u3", allowed_item_ids=["i100", "i101"])])
    snapshot.similar_items(SimilarQuery("i100", limit=5))
    assert sampler.n_sampled == 4
    repeat_all(sampler)
    assert sampler.recalls(snapshot.release_id).tolist() == [1.0] * 4
