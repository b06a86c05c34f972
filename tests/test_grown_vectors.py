"""Vectors of new items and of all users, against the definition in float64 and full matrices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from made_interactions import interactions_of, random_matrix

from engine.encoders import RidgeEncoder
from engine.ids import IdTable
from trainer import half_epoch
from trainer.als import train
from trainer.errors import TrainingDiverged
from trainer.grown_vectors import PASSES, Trained, grown_vectors
from trainer.growth import NewEntries, Support, grow
from trainer.half_epoch import Penalty
from trainer.options import AlsOptions

OPTIONS = AlsOptions(
    factors=6, epochs=4, regularization=0.02, regularization_exponent=0.8, unobserved_weight=0.1, threads=1
)
PENALTY = Penalty(0.1, 0.02, 0.8)
N_USERS, N_ITEMS = 40, 30


@dataclasses.dataclass(frozen=True)
class Case:
    """A training on the first users and items of a matrix, and what the rest of it adds."""

    matrix: np.ndarray
    trained: Trained
    growth: object
    user_ids: IdTable
    item_ids: IdTable

    def vectors(self, threads=1, passes=PASSES):
        return grown_vectors(self.growth, self.trained, self.user_ids, self.item_ids, threads, passes=passes)


def case_of(matrix, seen, passes=PASSES):
    """`seen` bool, of the shape of the first N_USERS x N_ITEMS: the entries that training had."""
    before = np.where(seen, matrix[:N_USERS, :N_ITEMS], 0)
    interactions = interactions_of(before)
    embeddings = train(interactions, OPTIONS)
    trained = Trained(embeddings.user_vectors, embeddings.item_vectors, embeddings.spectrum, PENALTY)
    rest = matrix.copy()
    rest[:N_USERS, :N_ITEMS] -= before
    users, items = (each.astype(np.int32) for each in np.nonzero(rest))
    user_rows, item_rows = (np.arange(n, dtype=np.int32) for n in matrix.shape)
    user_rows[N_USERS:], item_rows[N_ITEMS:] = -1, -1
    new = NewEntries(
        users=users,
        items=items,
        values=rest[users, items].astype(np.float32),
        user_rows=user_rows,
        item_rows=item_rows,
        user_tells=np.append(embeddings.user_vectors.any(axis=1), np.zeros(len(user_rows) - N_USERS, dtype=bool)),
        item_tells=np.append(embeddings.item_vectors.any(axis=1), np.zeros(len(item_rows) - N_ITEMS, dtype=bool)),
    )
    grown = grow(interactions.by_user, new, Support(), passes)
    user_ids, item_ids = (
        IdTable.of(f"{side}{row}" for row in range(n)) for side, n in zip("ui", matrix.shape, strict=True)
    )
    return Case(matrix, trained, grown, user_ids, item_ids)


def made_case(seed=1, negative=0.1, more_users=6, more_items=5):
    """Known and unknown users with known and new items, so that nothing is left out."""
    matrix = random_matrix(N_USERS + more_users, N_ITEMS + more_items, seed, density=0.3, negative=negative)
    generator = np.random.default_rng(seed)
    matrix[5 : 5 + more_items, N_ITEMS:] += 3 * np.eye(more_items)  # who has a vector likes each new item
    matrix[N_USERS:, 2] = 1
    seen = generator.random((N_USERS, N_ITEMS)) < 0.8
    return case_of(matrix, seen)


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_vectors_are_the_solutions_of_the_objective_by_its_definition(passes):
    case = made_case()
    assert not any(case.growth.left_out.values())
    weights, targets = np.abs(case.matrix), (case.matrix > 0).astype(float)
    users, items = reference.fold_items_in(weights, targets, case.trained.item_vectors, passes, OPTIONS)
    found_users, table = case.vectors(passes=passes)
    np.testing.assert_allclose(found_users @ table.vectors.T, users @ items.T, atol=2e-5)
    np.testing.assert_allclose(table.vectors @ table.vectors.T, items @ items.T, atol=2e-5)
    assert np.linalg.norm(items[N_ITEMS:], axis=1).min() > 0.05


def test_the_items_stand_in_the_eigenbasis_of_their_gram_matrix():
    _, table = made_case().vectors()
    gram = table.vectors.astype(np.float64).T @ table.vectors
    np.testing.assert_allclose(gram, np.diag(table.spectrum), atol=1e-5 * table.spectrum[0])
    assert (np.diff(table.spectrum) <= 0).all()


def test_the_trained_items_are_turned_and_nothing_else():
    case = made_case()
    _, table = case.vectors()
    old = case.trained.item_vectors
    np.testing.assert_allclose(table.vectors[:N_ITEMS] @ table.vectors[:N_ITEMS].T, old @ old.T, atol=1e-5)


def test_folding_a_grown_history_in_gives_the_grown_vector():
    case = made_case()
    users, table = case.vectors()
    encoder = RidgeEncoder(table.vectors, table.spectrum, *dataclasses.astuple(PENALTY))
    for user in range(len(users)):
        np.testing.assert_allclose(encoder.encode(*case.growth.by_user.row(user)), users[user], atol=1e-6)


def test_the_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(half_epoch, "_LEAST_CHUNK", 20)
    case = made_case()
    users, table = case.vectors(1)
    for threads in (2, 3):
        again, same = case.vectors(threads)
        np.testing.assert_array_equal(users, again)
        np.testing.assert_array_equal(table.vectors, same.vectors)
        np.testing.assert_array_equal(table.spectrum, same.spectrum)


def test_a_copy_of_a_known_item_lies_where_a_training_puts_the_item():
    """The same users with the same weights: what training solved for the item is solved for its copy."""
    matrix = random_matrix(N_USERS, N_ITEMS + 1, seed=3, density=0.3)
    matrix[:, N_ITEMS] = matrix[:, 7]
    case = case_of(matrix, np.ones((N_USERS, N_ITEMS), dtype=bool))
    _, table = case.vectors()
    original, copy = table.vectors[7], table.vectors[N_ITEMS]
    cosine = original @ copy / np.linalg.norm(original) / np.linalg.norm(copy)
    assert cosine > 0.99
    # And so does a training with the copy: both of them, relative to the other items.
    whole = train(interactions_of(matrix), OPTIONS).item_vectors
    lengths = np.linalg.norm(whole, axis=1)
    assert np.linalg.norm(copy) == pytest.approx(np.linalg.norm(original), rel=0.15)
    assert lengths[N_ITEMS] == pytest.approx(lengths[7], rel=1e-3)


def test_unknown_users_pull_a_new_item_to_the_known_items_that_they_have():
    matrix = np.zeros((N_USERS + 4, N_ITEMS + 1))
    matrix[:20, :15] = random_matrix(20, 15, seed=4, density=0.6)
    matrix[20:N_USERS, 15:N_ITEMS] = random_matrix(20, 15, seed=5, density=0.6)
    matrix[N_USERS:, 15:20] = 1  # they have the second taste
    matrix[N_USERS:, N_ITEMS] = 1
    _, table = case_of(matrix, np.ones((N_USERS, N_ITEMS), dtype=bool)).vectors()
    scores = table.vectors[:N_ITEMS] @ table.vectors[N_ITEMS]
    assert scores[15:20].mean() > 5 * abs(scores[:15].mean())
    assert int(np.argmax(scores)) in range(15, 20)


def test_an_item_that_is_bought_with_new_items_only_gets_a_vector_by_way_of_them():
    """Known users have the item 30, a new one it and the item 31, and another one that and the item 32."""
    matrix = np.zeros((N_USERS + 2, N_ITEMS + 3))
    matrix[:N_USERS, :N_ITEMS] = random_matrix(N_USERS, N_ITEMS, seed=7, density=0.3)
    matrix[5:15, N_ITEMS] = 1
    matrix[N_USERS, N_ITEMS : N_ITEMS + 2] = 1
    matrix[N_USERS + 1, N_ITEMS + 1 :] = 1
    seen = np.ones((N_USERS, N_ITEMS), dtype=bool)
    for passes, n_items in ((1, 1), (2, 2), (3, 3), (4, 3)):
        case = case_of(matrix, seen, passes)
        assert case.growth.by_new_item.n_rows == n_items
        assert case.growth.left_out["items_without_evidence"] == 3 - n_items
        users, table = case.vectors(passes=passes)
        assert np.linalg.norm(table.vectors, axis=1)[N_ITEMS:].min() > 0.005
        assert users[N_USERS:].any(axis=1).all()


def test_each_pass_lowers_the_objective():
    case, losses = made_case(seed=9), []
    for passes in (1, 2, 3, 5):
        users, table = case.vectors(passes=passes)
        weights, targets = np.abs(case.matrix), (case.matrix > 0).astype(float)
        counts = ((weights > 0).sum(axis=1), (weights > 0).sum(axis=0))
        losses.append(reference.objective(weights, targets, users, table.vectors, *counts, OPTIONS))
    assert (np.diff(losses) < 0).all()


@pytest.mark.parametrize(("entry", "named"), [((8, 4), "user 'u8'"), ((8, N_ITEMS + 1), "item 'i31'")])
def test_what_is_not_finite_is_named(entry, named):
    matrix = random_matrix(N_USERS, N_ITEMS + 2, seed=6, density=0.3)
    matrix[5, N_ITEMS:] = 1
    seen = np.ones((N_USERS, N_ITEMS), dtype=bool)
    if entry[1] < N_ITEMS:
        seen[entry] = False
    matrix[entry] = np.inf
    case = case_of(matrix, seen)
    with pytest.raises(TrainingDiverged, match=named):
        case.vectors()
