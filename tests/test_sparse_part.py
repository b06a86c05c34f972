"""Sparse parts of a release: stored, read, and answered with beside vectors and without."""

from __future__ import annotations

import numpy as np
import pytest
from made_recommender import made_evidence, made_part
from small_release import publish, small_shop

from engine.errors import InvalidQuery, ReleaseCorrupt, ReleaseIncompatible
from engine.kinds import ByKind
from engine.parts import DensePart, Sizes, part_names
from engine.queries import CartQuery, Repeat, SimilarQuery, Source, UserQuery
from engine.release import Release
from engine.repository import Repository
from engine.retrieval import Snapshot
from engine.sparse_part import read_sparse_parts

N_ITEMS = 60
NOBODY = np.empty(0, dtype=np.int32)


@pytest.fixture(scope="module")
def shop():
    return small_shop()


@pytest.fixture(scope="module")
def ages(shop):
    return np.random.default_rng(3).integers(0, 4, len(shop.indices)).astype(np.uint16)


@pytest.fixture(scope="module")
def parts():
    return [
        made_part("neighbours", N_ITEMS, weight=ByKind(0.25, 0.5), recency=ByKind(0.75, 0.5), newest=4, seed=1),
        made_part("rules", N_ITEMS, weight=ByKind(0.0, 0.125), n_rows=40, seed=2),
    ]


@pytest.fixture(scope="module")
def snapshot(shop, ages, parts, tmp_path_factory):
    repository = Repository(tmp_path_factory.mktemp("blend"))
    publish(repository, shop, sparse=parts, ages=ages)
    return Snapshot.open(repository.current_path())


@pytest.fixture
def directory(shop, ages, parts, tmp_path):
    repository = Repository(tmp_path)
    publish(repository, shop, sparse=parts, ages=ages)
    return repository.current_path()


def test_parts_are_read_as_they_were_stored(directory, parts):
    release = Release(directory)
    release.verify()
    assert part_names(release.manifest) == ["als", "neighbours", "rules"]
    for found, expected in zip(read_sparse_parts(release), parts, strict=True):
        assert (found.name, found.weight, found.encoder) == (expected.name, expected.weight, expected.encoder)
        for name, array in expected.memory.arrays().items():
            np.testing.assert_array_equal(found.memory.arrays()[name], array)


def test_a_damaged_memory_is_found_when_opening(directory):
    path = directory / "parts" / "1" / "weights.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReleaseCorrupt, match=r"parts/1/weights.npy has SHA-256"):
        Snapshot.open(directory)


def test_a_release_without_vectors_says_what_it_lacks():
    entry = {"name": "neighbours", "weight": 1.0, "encoder": {"kind": "bag"}, "memory": {"kind": "sparse"}}
    manifest = {"release_id": "r1", "sizes": {"users": 1, "items": 2, "entries": 3}, "parts": [entry], "index": {}}
    assert DensePart.if_any(manifest) is None
    assert Sizes.of(manifest) == Sizes(1, 2, 3)
    with pytest.raises(ReleaseIncompatible, match="r1 has no vectors, only 'neighbours': train with --model als"):
        DensePart.of(manifest)


def dense(part):
    matrix = np.zeros((N_ITEMS, N_ITEMS))
    for row in range(part.memory.n_rows):
        items, weights = part.memory.row(row)
        matrix[row, items] = weights
    return matrix


def bag_of(part, rows, weights, ages, kind):
    """The definition: the newest liked items, weighed by how old they are, as a row over all items."""
    bag = np.zeros(N_ITEMS)
    liked = sorted((age, row, weight) for row, weight, age in zip(rows, weights, ages, strict=True) if weight > 0)
    for age, row, weight in liked[: part.encoder.newest]:
        bag[row] = weight * (1 + age) ** -part.encoder.recency.of(kind)
    return bag


def best(scores, shop, limit):
    scores = np.where(shop.available, scores, -np.inf)
    return np.sort(scores[scores > -np.inf])[::-1][:limit]


def check(shop, snapshot, answer, scores):
    """The answer has the best scores there are, and each is that of its item."""
    rows = [shop.item_ids.index(item_id) for item_id in answer.item_ids]
    np.testing.assert_allclose(answer.scores, scores[rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answer.scores, best(scores, shop, len(rows)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("user", range(0, 36, 3))
@pytest.mark.parametrize("repeat", [Repeat.NEVER, Repeat.MIX])
def test_a_user_is_answered_by_the_sum_of_vector_and_neighbours(shop, ages, parts, snapshot, user, repeat):
    entries = slice(shop.indptr[user], shop.indptr[user + 1])
    history = shop.indices[entries]
    bag = bag_of(parts[0], history, shop.values[entries], ages[entries], "user")
    scores = shop.item_vectors.astype(np.float64) @ shop.user_vectors[user] + 0.25 * bag @ dense(parts[0])
    if repeat is Repeat.NEVER:
        scores[history] = -np.inf
    (answer,) = snapshot.recommend_for_users([UserQuery(shop.user_ids[user], 12, repeat=repeat)])
    check(shop, snapshot, answer, scores)


@pytest.mark.parametrize("without", [(), ("rules",), ("als",), ("als", "neighbours")])
def test_a_cart_is_answered_by_all_parts_but_those_switched_off_in_the_order_of_its_items(
    shop, parts, snapshot, without
):
    names = ["i50", "i07", "i03", "i20", "i45", "i07"]
    (answer,) = snapshot.recommend_for_carts([CartQuery(names, limit=15, without_parts=without, shares=True)])
    places = {row: len(names) - 1 - i for i, row in enumerate(map(shop.item_ids.index, names))}  # the last place counts
    order = sorted(places, key=places.get)
    rows, ages = np.array(order), np.arange(len(order))
    scores = np.zeros(N_ITEMS)
    if "als" not in without:
        vector = snapshot._recommender._dense.encoder.encode(
            np.sort(rows).astype(np.int32), np.ones(len(rows), dtype=np.float32)
        )
        scores += shop.item_vectors @ vector
    for part in parts:
        if part.name not in without:
            known = rows < part.memory.n_rows
            bag = bag_of(part, rows[known], np.ones(known.sum()), ages[known], "cart")
            scores += part.weight.cart * bag @ dense(part)
    scores[rows] = -np.inf
    check(shop, snapshot, answer, scores)
    assert sorted(answer.share_item_ids) == sorted(set(names))
    np.testing.assert_allclose(answer.shares.sum(axis=1), answer.scores, rtol=1e-5, atol=1e-6)


def test_items_like_one_are_those_of_a_cart_of_it(shop, snapshot):
    like = snapshot.similar_items(SimilarQuery("i20", limit=9, without_parts=("rules",)))
    (cart,) = snapshot.recommend_for_carts([CartQuery(["i20"], limit=9, without_parts=("rules",))])
    assert like.item_ids == cart.item_ids
    np.testing.assert_array_equal(like.scores, cart.scores)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("sessions",), r"without_parts\[0\]: is 'sessions'; this release has 'als', 'neighbours', 'rules'"),
        (("als", "neighbours"), "without_parts: leaves no part that answers for a user"),
    ],
)
def test_parts_that_cannot_be_switched_off_are_refused(snapshot, names, message):
    with pytest.raises(InvalidQuery, match=message):
        snapshot.recommend_for_users([UserQuery("u1", without_parts=names)])


def test_scores_of_more_items_than_can_be_told_are_not_split(shop, snapshot):
    query = CartQuery(shop.item_ids[:50], limit=1000, shares=True)
    assert snapshot.recommend_for_carts([query])[0].shares.shape[1] == 50
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("engine.retrieval.MAX_SHARES", 49_999)
        with pytest.raises(InvalidQuery, match=r"limit: is 1,000, too many .* for the 50 items .*, 999 at most"):
            snapshot.recommend_for_carts([query])


def test_a_part_splits_its_scores_among_liked_items_only(parts):
    part = parts[0]
    for seed in range(5):
        evidence = made_evidence(N_ITEMS, 9, np.random.default_rng(seed))
        everything = np.arange(N_ITEMS, dtype=np.int32)
        shares = part.shares(evidence, "user", everything)
        bag = bag_of(part, evidence.rows, evidence.weights, evidence.ages, "user")
        np.testing.assert_allclose(shares, (bag[evidence.rows, np.newaxis] * dense(part)[evidence.rows]).T, rtol=1e-6)


@pytest.mark.parametrize("vectors", ["int16", "int8"])
def test_shares_add_up_where_stored_vectors_are_packed(shop, ages, parts, vectors, tmp_path):
    repository = Repository(tmp_path)
    publish(repository, shop, sparse=parts, ages=ages, vectors=vectors)
    packed = Snapshot.open(repository.current_path())
    answers = packed.recommend_for_users([UserQuery(f"u{user}", 20, shares=True) for user in range(30)])
    personal = [answer for answer in answers if answer.source is Source.PERSONAL]
    assert len(personal) > 20
    for answer in personal:
        largest = np.abs(answer.scores).max()
        np.testing.assert_allclose(answer.shares.sum(axis=1), answer.scores, rtol=1e-5, atol=1e-5 * largest)
