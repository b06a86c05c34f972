"""Nearest sessions as a part: against the definition, its shares, and damaged postings."""

from __future__ import annotations

import numpy as np
import pytest
from made_recommender import made_evidence, made_sessions
from small_release import publish, small_shop

from engine.errors import ReleaseCorrupt
from engine.evidence import Evidence
from engine.kinds import ByKind
from engine.queries import CartQuery
from engine.recommender import Recommender
from engine.release import Release
from engine.repository import Repository
from engine.retrieval import Snapshot
from engine.session_encoder import Postings
from engine.sparse_part import read_sparse_parts

N_ITEMS = 60
EVERYTHING = np.arange(N_ITEMS, dtype=np.int32)


def nearest_by_definition(encoder, evidence, kind):
    """{session: score} of the nearest, every session and every shared item visited."""
    postings, scores = encoder.postings, {}
    for session, factor in enumerate(postings.factors.tolist()):
        shared = 0.0
        for item, weight, age in zip(evidence.rows, evidence.weights, evidence.ages, strict=True):
            stands = session in postings.sessions[postings.indptr[item] : postings.indptr[item + 1]]
            if stands and weight > 0:
                shared += weight * postings.item_weights[item] * (1 + age) ** -encoder.recency.of(kind)
        if shared:
            scores[session] = (factor * shared) ** encoder.sharpness
    best = sorted(scores.items(), key=lambda pair: (-pair[1], -pair[0]))[: encoder.nearest]
    return dict(best)


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["user", "cart"])
def test_evidence_becomes_its_nearest_sessions(sharpness, kind):
    part = made_sessions("sessions", N_ITEMS, recency=ByKind(1.0, 0.0), sharpness=sharpness)
    for seed in range(20):
        evidence = made_evidence(N_ITEMS, 8, np.random.default_rng(seed))
        rows, scores = part.bag(evidence, kind)
        expected = nearest_by_definition(part.encoder, evidence, kind)
        assert sorted(rows.tolist()) == sorted(expected)
        np.testing.assert_allclose(scores, [expected[row] for row in rows.tolist()], rtol=1e-5)


@pytest.mark.parametrize("sharpness", [1.0, 1.7])
def test_shares_of_sessions_add_up_to_each_score(sharpness):
    part = made_sessions("sessions", N_ITEMS, weight=ByKind(2, 0.5), recency=ByKind(0.5, 0), sharpness=sharpness)
    recommender = Recommender(None, [part], np.ones(N_ITEMS, dtype=bool))
    for seed in range(10):
        evidence = made_evidence(N_ITEMS, 8, np.random.default_rng(seed))
        rows, scores = recommender.scan(recommender.query(evidence, "user"), N_ITEMS, EVERYTHING[:0])
        shares = recommender.shares(evidence, "user", rows)
        np.testing.assert_allclose(shares.sum(axis=1), scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max(initial=1e-9))


def test_an_item_alone_gives_all_that_a_session_gives():
    part = made_sessions("sessions", N_ITEMS, sharpness=2.0)
    evidence = Evidence.of_rows(np.array([7, 30], dtype=np.int32))
    shares = part.shares(evidence, "cart", EVERYTHING)
    for column, row in enumerate((7, 30)):
        alone = part.shares(Evidence.of_rows(np.array([row], dtype=np.int32)), "cart", EVERYTHING)
        shared = set(part.bag(Evidence.of_rows(np.array([37 - row], dtype=np.int32)), "cart").rows.tolist())
        if not shared & set(part.bag(Evidence.of_rows(np.array([row], dtype=np.int32)), "cart").rows.tolist()):
            np.testing.assert_allclose(shares[:, column], alone[:, 0], rtol=1e-6)


def test_sessions_are_read_as_they_were_stored_and_answer(tmp_path):
    shop, part = small_shop(), made_sessions("sessions", N_ITEMS, weight=ByKind(0, 3), sharpness=1.5)
    repository = Repository(tmp_path)
    publish(repository, shop, sparse=[part])
    release = Release(repository.current_path())
    (found,) = read_sparse_parts(release)
    assert (found.name, found.weight) == (part.name, part.weight)
    assert (found.encoder.nearest, found.encoder.sharpness, found.encoder.newest) == (6, 1.5, 1000)
    for name, array in part.encoder.postings.arrays().items():
        np.testing.assert_array_equal(found.encoder.postings.arrays()[name], array)
    snapshot = Snapshot.open(repository.current_path())
    (answer,) = snapshot.recommend_for_carts([CartQuery(["i03", "i20"], limit=5, without_parts=["als"], shares=True)])
    np.testing.assert_allclose(answer.shares.sum(axis=1), answer.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("sessions", 25), ("factors", 0.0), ("item_weights", -1.0)])
def test_postings_that_would_make_a_kernel_read_elsewhere_or_loop_are_refused(name, value):
    arrays = made_sessions("sessions", N_ITEMS).encoder.postings.arrays()
    arrays[name] = arrays[name].copy()
    arrays[name][0] = value
    with pytest.raises(ReleaseCorrupt):
        Postings.read(lambda each, dtype, shape: arrays[each], N_ITEMS, len(arrays["sessions"]), 25)
