"""What a release expects to be answered is what brute force says, and a release that answers otherwise is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
from small_release import ENCODER, publish, small_shop

from engine import canaries
from engine.calibration import rebuild_index
from engine.canaries import N_QUERIES, SCORED, canary_scores
from engine.encoders import RidgeEncoder
from engine.errors import ReleaseCorrupt
from engine.faiss_search import build_faiss
from engine.index import Index
from engine.kinds import ByKind
from engine.manifest import MANIFEST, manifest_checksum
from engine.measurement import bags_of, cart_queries
from engine.plan import IndexPlan
from engine.recall import chance_of
from engine.recommender import DenseMemory, Recommender
from engine.release import INDEX_FILE, Release
from engine.repository import Repository
from engine.retrieval import Snapshot

GRAPH = IndexPlan("HNSW32", "efSearch=200")


@pytest.fixture(scope="module")
def large_shop():
    """Enough items that 20 of them are searched for, not scanned, however long a history is."""
    return small_shop(n_users=80, n_items=8000, seed=3)


@pytest.fixture
def large(large_shop, tmp_path):
    """A release with a graph, and the directory of it."""
    repository = Repository(tmp_path / "releases")
    publish(repository, large_shop, plan=GRAPH, promised_recall=0.9)
    return repository.current_path()


def resigned(directory, change, *names):
    """Change a release and vouch for it, as a program with a mistake would: `change` rewrites the files `names`."""
    manifest = json.loads((directory / MANIFEST).read_text())
    change(manifest)
    for name in names:
        content = (directory / name).read_bytes()
        manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del manifest["checksum"]
    manifest["checksum"] = manifest_checksum(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest))


def with_array(directory, name, change):
    """Replace one array by what `change` makes of it."""

    def replaced(manifest):
        np.save(directory / f"{name}.npy", change(np.load(directory / f"{name}.npy")))

    resigned(directory, replaced, f"{name}.npy")


# What is stored.


def recommender_of(shop, available):
    encoder = RidgeEncoder(shop.item_vectors, shop.spectrum, **ENCODER)
    index = Index.in_memory(shop.item_vectors, available)
    return Recommender(DenseMemory("als", ByKind(1, 1), encoder, shop.user_vectors, index), [], available)


def test_canaries_are_the_best_scores_of_the_first_carts_without_what_is_in_them(shop):
    vectors = cart_queries(RidgeEncoder(shop.item_vectors, shop.spectrum, **ENCODER), shop.carts).vectors
    scores = canary_scores(recommender_of(shop, shop.available), shop.carts)
    assert scores.shape == (8, 10)
    starts, rows = shop.carts
    for i, found in enumerate(scores):
        truth = shop.item_vectors.astype(np.float64) @ vectors[i].astype(np.float64)
        truth[~shop.available] = -np.inf
        truth[rows[starts[i] : starts[i + 1]]] = -np.inf
        np.testing.assert_allclose(found, np.sort(truth)[::-1][:10], rtol=1e-5, atol=1e-7)


def test_canaries_shorten_to_what_every_cart_leaves(shop):
    carts = [np.arange(58, dtype=np.int32), np.array([3], dtype=np.int32)]
    recommender = recommender_of(shop, np.ones(60, dtype=bool))
    assert canary_scores(recommender, bags_of(carts)).shape == (2, 2)
    assert canary_scores(recommender, bags_of([])).shape == (0, 0)


def test_canary_users_are_known_ones_far_from_one_another_with_their_best_scores(shop, small_repository):
    release = Release(small_repository.current_path())
    users = release.array("canaries/users", np.int32, (N_QUERIES,))
    scores = release.array("canaries/user_scores", np.float32, (N_QUERIES, 10))
    assert np.all(np.diff(users) > 0)
    assert users[0] < 5
    assert users[-1] > 30
    for user, found in zip(users.tolist(), scores, strict=True):
        entries = slice(shop.indptr[user], shop.indptr[user + 1])
        assert (shop.values[entries] > 0).any()
        assert 2 * (entries.stop - entries.start) <= len(shop.item_ids)
        truth = shop.item_vectors.astype(np.float64) @ shop.user_vectors[user].astype(np.float64)
        truth[~shop.available] = -np.inf
        truth[shop.indices[entries]] = -np.inf
        np.testing.assert_allclose(found, np.sort(truth)[::-1][:10], rtol=1e-5, atol=1e-7)


def test_a_shop_whose_users_have_everything_has_no_canary_users(tmp_path):
    shop = small_shop(n_users=4, n_items=16, factors=3, seed=1)
    everything = np.arange(5, dtype=np.int64) * 16, np.tile(np.arange(16, dtype=np.int32), 4), np.ones(64, np.float32)
    repository = Repository(tmp_path)
    publish(
        repository, dataclasses.replace(shop, **dict(zip(("indptr", "indices", "values"), everything, strict=True)))
    )
    assert len(Release(repository.current_path()).array("canaries/users", np.int32, (None,))) == 0
    Snapshot.open(repository.current_path())


# What is refused.


def test_user_vectors_of_another_training_are_refused(large):
    with_array(large, "parts/0/user_vectors", lambda vectors: vectors[::-1].copy())
    with pytest.raises(ReleaseCorrupt, match="canary user 0 scores"):
        Snapshot.open(large)


def test_histories_of_other_users_are_refused(large):
    """What a user has does not come back, so the best scores are others."""
    with_array(large, "users/history.indices", lambda rows: (rows + 4000) % 8000)
    with pytest.raises(ReleaseCorrupt, match="canary user"):
        Snapshot.open(large)


@pytest.mark.parametrize("rows", [[-1], [80], [2**31 - 1]])
def test_canary_users_that_are_no_users_are_refused(large, rows):
    with_array(large, "canaries/users", lambda users: np.concatenate([users[:-1], np.array(rows, dtype=np.int32)]))
    with pytest.raises(ReleaseCorrupt, match="none of the 80 users"):
        Snapshot.open(large)


def test_more_scores_than_carts_are_refused(large):
    with_array(large, "canaries/carts.indptr", lambda starts: np.append(starts[:3], starts[-1]))
    with pytest.raises(ReleaseCorrupt, match="fewer carts"):
        Snapshot.open(large)


@pytest.mark.parametrize("kind", ["user", "cart"])
def test_an_index_of_other_vectors_is_refused(large, large_shop, kind):
    """It is a sound file, its checksum fits, and exact search answers right: only asking it shows it."""
    other = np.random.default_rng(1).permutation(large_shop.item_vectors)

    def of_others(manifest):
        build_faiss(other, GRAPH, large / INDEX_FILE)

    Snapshot.open(large)
    resigned(large, of_others, INDEX_FILE)
    if kind == "user":  # carts are asked first
        with_array(large, "canaries/carts.indptr", lambda starts: starts[:1])
        with_array(large, "canaries/carts.indices", lambda rows: rows[:0])
        with_array(large, "canaries/scores", lambda scores: scores[:0])
    with pytest.raises(ReleaseCorrupt, match=rf"of the true top 20 of \d+ stored {kind} queries, and promises 0\.9"):
        Snapshot.open(large)


def test_a_search_that_was_made_worse_by_its_parameters_is_refused(tmp_path, large_shop):
    repository = Repository(tmp_path)
    publish(repository, large_shop, plan=IndexPlan("Quantized1", "deviations=4"), promised_recall=0.99)
    large = repository.current_path()
    Snapshot.open(large)
    resigned(large, lambda manifest: manifest["index"].update(search_parameters="deviations=-8"))
    with pytest.raises(ReleaseCorrupt, match="of the true top 20"):
        Snapshot.open(large)


def test_what_promised_little_is_served(large):
    """The check is of the promise, not of the search."""
    resigned(large, lambda manifest: manifest["index"].update(search_parameters="efSearch=1", promised_recall=0.0))
    Snapshot.open(large)


def test_a_release_from_before_there_were_canary_users_loads_as_it_did(large):
    def forget(manifest):
        for name in SCORED[1:]:
            del manifest["files"][f"{name}.npy"]
            (large / f"{name}.npy").unlink()
        manifest["index"].update(search_parameters="efSearch=1")

    resigned(large, forget)
    Snapshot.open(large)


def test_the_check_asks_a_bounded_number_of_queries(large, monkeypatch):
    asked = []
    recalls = canaries.recalls

    def counted(index, queries, k, excluded):
        asked.append((len(queries), k))
        return recalls(index, queries, k, excluded)

    monkeypatch.setattr(canaries, "recalls", counted)
    Snapshot.open(large)
    assert asked == [(10, 20), (N_QUERIES, 20)]  # the shop has ten carts


def test_an_exact_search_has_nothing_to_compare(small_repository, monkeypatch):
    monkeypatch.setattr(canaries, "recalls", lambda *arguments: pytest.fail("was asked"))
    Snapshot.open(small_repository.current_path())


def test_a_rebuilt_index_keeps_the_canaries_and_other_vectors_make_new_ones(large):
    repository = Repository(large.parent)
    old = Release(large).manifest["files"]
    kept, _ = rebuild_index(repository, large.name, IndexPlan("IVF16,Flat", "nprobe=16"), 0.9, promote=True)
    packed, _ = rebuild_index(repository, large.name, IndexPlan(), 0.9, promote=True, vectors="int8")
    for name in SCORED:
        assert Release(repository.path(kept)).manifest["files"][f"{name}.npy"] == old[f"{name}.npy"]
    for name in ("canaries/scores.npy", "canaries/user_scores.npy"):
        assert Release(repository.path(packed)).manifest["files"][name] != old[name]
    for each in (kept, packed):
        Snapshot.open(repository.path(each))


# The rule.


@pytest.mark.parametrize(("promised", "n"), [(0.99, 16), (0.9, 16), (0.5, 8), (0.99, 500)])
def test_the_chance_of_a_mean_is_never_more_probable_than_the_bound_says(promised, n):
    """Of recalls that are 0 or 1, the most uneven ones, the distribution of the mean is known: the binomial."""
    terms = [math.comb(n, k) * promised**k * (1 - promised) ** (n - k) for k in range(n + 1)]
    for k in range(n + 1):
        bound = chance_of(k / n, promised, n)
        assert sum(terms[: k + 1]) <= bound + 1e-12
        assert 0 <= bound <= 1
    means = [chance_of(k / n, promised, n) for k in range(n + 1)]
    assert means == sorted(means)


def test_a_mean_as_promised_or_better_is_no_surprise():
    assert chance_of(0.9, 0.9, 16) == chance_of(1.0, 0.9, 16) == chance_of(0.0, 0.0, 16) == 1.0
    assert chance_of(0.0, 0.99, 16) < 1e-30


def test_where_the_line_is():
    """The documentation says it: sixteen queries that were promised .99 are refused below .71, of .9 below .42."""
    for promised, line in ((0.99, 0.71), (0.9, 0.42)):
        assert chance_of(line + 0.01, promised, N_QUERIES) > 1e-5 > chance_of(line - 0.01, promised, N_QUERIES)
