"""What evaluation ranks by: the same scores as those that serving finds the best of."""

from __future__ import annotations

import numpy as np
import pytest
from made_recommender import made_evidence, made_part

from engine.index import Index
from engine.kinds import ByKind
from engine.recommender import DenseMemory, Recommender
from trainer.als import Embeddings
from trainer.cases import Cases
from trainer.evaluate import HeldOut
from trainer.learned import DENSE_NAME, Learned
from trainer.options import AlsOptions
from trainer.parts_scorer import PartsScorer, case_scorer

N_ITEMS = 80


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(0)
    items = generator.normal(size=(N_ITEMS, 8)).astype(np.float32)
    users = generator.normal(size=(6, 8)).astype(np.float32)
    return Embeddings(users, items, np.square(items).sum(axis=0), 0.1, AlsOptions(factors=8), (1.0,))


@pytest.fixture(params=["vectors", "neighbours", "both"])
def learned(request, embeddings):
    parts = (made_part("neighbours", N_ITEMS, weight=ByKind(2, 0.5), recency=ByKind(1, 0)),)
    dense = None if request.param == "neighbours" else embeddings
    return Learned(dense, () if request.param == "vectors" else parts, ByKind(0.5, 3))


def recommender_of(learned):
    available, embeddings = np.ones(N_ITEMS, dtype=bool), learned.embeddings
    if embeddings is None:
        return Recommender(None, learned.sparse, available)
    index = Index.in_memory(embeddings.item_vectors)
    dense = DenseMemory(DENSE_NAME, learned.dense_weight, embeddings.encoder(), embeddings.user_vectors, index)
    return Recommender(dense, learned.sparse, available)


def held_out(n_queries):
    numbers, nothing = np.arange(n_queries, dtype=np.int32), np.zeros(n_queries)
    items = tuple(np.array([0], dtype=np.int32) for _ in range(n_queries))
    return HeldOut(numbers, items, np.ones(n_queries, dtype=np.int64), nothing, np.full(N_ITEMS, np.nan), 0, 0)


def of_all(recommender, query):
    rows, scores = recommender.scan(query, N_ITEMS, np.empty(0, dtype=np.int32))
    return scores[np.argsort(rows)]


def test_carts_score_as_when_serving(learned):
    generator = np.random.default_rng(1)
    carts = [made_evidence(N_ITEMS, size, generator) for size in (1, 3, 10)]
    recommender = recommender_of(learned)
    cases = Cases("cart", carts, held_out(3), None)
    found = case_scorer(learned, cases).scores(np.array([2, 0, 1], dtype=np.int32))
    for scores, place in zip(found, (2, 0, 1), strict=True):
        expected = of_all(recommender, recommender.query(carts[place], "cart"))
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_users_score_as_when_serving(learned, embeddings):
    generator = np.random.default_rng(2)
    histories = [made_evidence(N_ITEMS, 7, generator) for _ in range(6)]
    recommender = recommender_of(learned)
    scorer = PartsScorer(learned, N_ITEMS, "user", histories.__getitem__, embeddings.user_vectors)
    for user, scores in enumerate(scorer.scores(np.arange(6, dtype=np.int32))):
        expected = of_all(recommender, recommender.query(histories[user], "user", user=user))
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_where_nothing_but_the_evidence_may_be_listed_all_else_has_no_score(learned):
    generator = np.random.default_rng(3)
    carts = [made_evidence(N_ITEMS, size, generator) for size in (2, 5)]
    free, bound = (Cases("cart", carts, held_out(2), None, only_evidence=only) for only in (False, True))
    everything = np.array([0, 1], dtype=np.int32)
    for cart, whole, part in zip(
        carts,
        case_scorer(learned, free).scores(everything),
        case_scorer(learned, bound).scores(everything),
        strict=True,
    ):
        assert np.flatnonzero(part > -np.inf).tolist() == cart.rows.tolist()
        np.testing.assert_array_equal(part[cart.rows], whole[cart.rows])
