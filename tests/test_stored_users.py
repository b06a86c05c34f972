"""Many users at once, as columns, against the same users asked one by one through the general way."""

from __future__ import annotations

import numpy as np
import pytest
from made_recommender import made_part
from small_release import DISLIKES_USER, EVERYTHING_USER, publish, small_shop

from engine.errors import ReleaseCorrupt
from engine.kinds import ByKind
from engine.plan import IndexPlan
from engine.queries import Source, UserQuery
from engine.repository import Repository
from engine.retrieval import Snapshot

PLANS = {
    "exact": IndexPlan(),
    "products of matrices": IndexPlan(matrix_queries=4),
    "one bit": IndexPlan("Quantized1", "deviations=3,reach=1"),
    "a graph": IndexPlan("HNSW32", "efSearch=64"),
}
ASKED = ["u3", "nobody", DISLIKES_USER, "u11", EVERYTHING_USER, "u3", "", "u0"][:6]


def opened(directory, **options):
    repository = Repository(directory)
    publish(repository, small_shop(n_items=200, factors=16), **options)
    return Snapshot.open(repository.current_path())


@pytest.mark.parametrize("vectors", ["float32", "int16", "int8"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("limit", [1, 20, 1000])
def test_columns_are_the_answers_to_each(tmp_path, plan, vectors, limit):
    snapshot = opened(tmp_path, plan=plan, vectors=vectors)
    for user_ids in (ASKED, ASKED[:1], ASKED[1:2], [f"u{row}" for row in range(40)]):
        answered = snapshot.answer_users(user_ids, limit)
        for i, user_id in enumerate(user_ids):
            (expected,) = snapshot.recommend_for_users([UserQuery(user_id, limit)])
            rows, scores = answered.found[i]
            assert [snapshot.item_ids[row] for row in rows.tolist()] == expected.item_ids
            assert scores.tobytes() == expected.scores.tobytes()
            assert answered.personal[i] == (expected.source is Source.PERSONAL)
            assert len(rows) > 0 or user_id == EVERYTHING_USER


def test_the_weight_of_the_part_counts(tmp_path):
    heavy = opened(tmp_path / "heavy", weight=ByKind(2.5, 1.0))
    light = opened(tmp_path / "light")
    np.testing.assert_allclose(
        heavy.answer_users(["u3"], 20).found.scores, 2.5 * light.answer_users(["u3"], 20).found.scores, rtol=1e-6
    )


def test_users_of_several_parts_are_not_answered_here(tmp_path):
    assert opened(tmp_path, sparse=[made_part("neighbours", 200)]).answer_users(["u3"], 20) is None


def test_parts_that_do_not_count_for_users_do_not_matter(tmp_path):
    snapshot = opened(tmp_path, sparse=[made_part("neighbours", 200, weight=ByKind(0.0, 1.0))])
    assert snapshot.answer_users(["u3"], 20) is not None


def test_every_search_is_told_to_the_watch(tmp_path):
    repository = Repository(tmp_path)
    release_id = publish(repository, small_shop(n_items=200, factors=16))
    told = []

    def watch(release_id, index, queries, k, excluded, allowed, found):
        told.extend((release_id, k, excluded[i].tolist(), found[i][0].tolist()) for i in range(len(queries)))

    snapshot = Snapshot.open(repository.current_path(), watch)
    answered = snapshot.answer_users(["u3", "nobody", "u11"], 5)
    shop = small_shop(n_items=200, factors=16)
    histories = [shop.indices[shop.indptr[user] : shop.indptr[user + 1]].tolist() for user in (3, 11)]
    assert told == [(release_id, 5, histories[0], answered.found[0][0].tolist()),
                    (release_id, 5, histories[1], answered.found[2][0].tolist())]  # fmt: skip


def test_a_damaged_scale_is_found(tmp_path):
    snapshot = opened(tmp_path, vectors="int8")
    arrays = list(snapshot._stored._arrays)
    arrays[6] = np.full(len(arrays[6]), np.nan, dtype=np.float32)
    snapshot._stored._arrays = tuple(arrays)
    with pytest.raises(ReleaseCorrupt, match="scale"):
        snapshot.answer_users(["u3"], 20)
