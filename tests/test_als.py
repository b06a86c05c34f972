"""ALS against the twin written from the definition, its invariants, and what it does with bad numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_interactions import interactions_of, random_matrix

from trainer.als import train_als
from trainer.errors import TrainingDiverged
from trainer.options import AlsOptions

OPTIONS = AlsOptions(factors=6, epochs=4, regularization=0.02, unobserved_weight=0.1, threads=1)


def first_items(options, n_items):
    generator = np.random.default_rng(options.seed)
    items = generator.standard_normal((n_items, options.factors), dtype=np.float32)
    return items * np.float32(options.init_scale / np.sqrt(options.factors))


def parts(interactions):
    by_user = interactions.by_user
    weights, targets = reference.dense(by_user.indptr, by_user.indices, by_user.values, by_user.n_columns)
    return weights, targets, np.diff(by_user.indptr), np.diff(interactions.by_item.indptr)


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("negative", [0.0, 0.2])
def test_scores_equal_those_of_plain_alternating_solves(nu, negative):
    interactions = interactions_of(random_matrix(25, 18, seed=1, negative=negative))
    options = dataclasses.replace(OPTIONS, regularization_exponent=nu)
    embeddings = train_als(interactions, options)
    users, items = reference.als(*parts(interactions), first_items(options, 18), options)
    # Vectors are the same up to one rotation; scores do not depend on it.
    expected = users @ items.T
    np.testing.assert_allclose(embeddings.user_vectors @ embeddings.item_vectors.T, expected, atol=2e-4)


def test_the_reported_loss_is_the_objective():
    interactions = interactions_of(random_matrix(25, 18, seed=2, negative=0.1))
    embeddings = train_als(interactions, OPTIONS)
    weights, targets, n_by_user, n_by_item = parts(interactions)
    users, items = np.zeros((25, OPTIONS.factors)), first_items(OPTIONS, 18)
    for loss in embeddings.losses:
        one = dataclasses.replace(OPTIONS, epochs=1)
        users, _ = reference.als(weights, targets, n_by_user, n_by_item, items, dataclasses.replace(one, epochs=0))
        _, items = reference.als(weights, targets, n_by_user, n_by_item, items, one)
        expected = reference.objective(weights, targets, users, items, n_by_user, n_by_item, OPTIONS)
        assert loss == pytest.approx(expected, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    nu=st.floats(0, 1),
    a0=st.floats(0.001, 1),
    regularization=st.floats(0.001, 1),
    negative=st.sampled_from([0.0, 0.3]),
)
def test_the_loss_never_rises(seed, nu, a0, regularization, negative):
    interactions = interactions_of(random_matrix(20, 15, seed=seed, negative=negative))
    options = dataclasses.replace(
        OPTIONS, regularization_exponent=nu, unobserved_weight=a0, regularization=regularization, epochs=6
    )
    losses = np.array(train_als(interactions, options).losses)
    assert (np.diff(losses) <= 1e-5 * losses[:-1]).all()


@pytest.fixture
def small_blocks(monkeypatch):
    """Grams and rotations in many blocks, as large shops have them."""
    monkeypatch.setattr("trainer.als._GRAM_ROWS", 7)
    monkeypatch.setattr("trainer.als._ROTATION_ROWS", 5)


def test_scores_are_the_same_when_sums_and_rotations_go_by_blocks(small_blocks):
    interactions = interactions_of(random_matrix(25, 18, seed=1))
    embeddings = train_als(interactions, OPTIONS)
    users, items = reference.als(*parts(interactions), first_items(OPTIONS, 18), OPTIONS)
    np.testing.assert_allclose(embeddings.user_vectors @ embeddings.item_vectors.T, users @ items.T, atol=2e-4)


def test_blocks_give_the_same_bits_for_one_and_two_threads(small_blocks):
    interactions = interactions_of(random_matrix(300, 120, seed=3))
    one, two = (train_als(interactions, dataclasses.replace(OPTIONS, threads=threads)) for threads in (1, 2))
    np.testing.assert_array_equal(one.user_vectors, two.user_vectors)
    np.testing.assert_array_equal(one.item_vectors, two.item_vectors)


def test_the_same_seed_gives_the_same_bits_for_one_and_two_threads():
    interactions = interactions_of(random_matrix(300, 120, seed=3))
    one = train_als(interactions, OPTIONS)
    two = train_als(interactions, dataclasses.replace(OPTIONS, threads=2))
    np.testing.assert_array_equal(one.user_vectors, two.user_vectors)
    np.testing.assert_array_equal(one.item_vectors, two.item_vectors)
    assert one.losses == two.losses
    other = train_als(interactions, dataclasses.replace(OPTIONS, seed=7))
    assert not np.array_equal(one.item_vectors, other.item_vectors)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_permuting_users_permutes_their_vectors(seed):
    matrix = random_matrix(30, 12, seed=seed)
    order = np.random.default_rng(seed).permutation(30)
    plain, permuted = train_als(interactions_of(matrix), OPTIONS), train_als(interactions_of(matrix[order]), OPTIONS)
    scores = plain.user_vectors @ plain.item_vectors.T
    np.testing.assert_allclose(permuted.user_vectors @ permuted.item_vectors.T, scores[order], atol=1e-3)


def test_rows_without_entries_are_exactly_zero():
    embeddings = train_als(interactions_of(random_matrix(20, 10, seed=4)), OPTIONS)
    assert not embeddings.user_vectors[0].any()
    assert not embeddings.item_vectors[-1].any()


def test_a_history_folded_in_gives_the_stored_vector():
    interactions = interactions_of(random_matrix(40, 30, seed=5, negative=0.1))
    embeddings = train_als(interactions, OPTIONS)
    encoder = embeddings.encoder()
    for user in range(40):
        folded = encoder.encode(*interactions.by_user.row(user))
        np.testing.assert_allclose(folded, embeddings.user_vectors[user], rtol=1e-5, atol=1e-7)


def test_items_come_in_the_eigenbasis_of_their_gram_matrix_largest_first():
    embeddings = train_als(interactions_of(random_matrix(40, 30, seed=6)), OPTIONS)
    items = embeddings.item_vectors.astype(np.float64)
    np.testing.assert_allclose(items.T @ items, np.diag(embeddings.spectrum), atol=1e-4 * embeddings.spectrum[0])
    assert (np.diff(embeddings.spectrum) <= 0).all()


def test_two_groups_that_share_nothing_are_told_apart():
    matrix = np.zeros((40, 20))
    matrix[:20, :10] = np.random.default_rng(0).random((20, 10)) < 0.6
    matrix[20:, 10:] = np.random.default_rng(1).random((20, 10)) < 0.6
    options = dataclasses.replace(OPTIONS, factors=2, epochs=10, regularization=0.1)
    embeddings = train_als(interactions_of(matrix), options)
    scores = embeddings.user_vectors @ embeddings.item_vectors.T
    own = np.zeros((40, 20), dtype=bool)
    own[:20, :10] = own[20:, 10:] = True
    has_history = (matrix != 0).any(axis=1)[:, np.newaxis] & (matrix != 0).any(axis=0)
    assert scores[own & has_history].min() > np.abs(scores[~own]).max()


def test_a_weight_that_overflows_is_named_with_its_row():
    matrix = random_matrix(20, 10, seed=7)
    matrix[4, 3] = 1e38
    with pytest.raises(TrainingDiverged, match=r"epoch 1: the vector of item 'item 3' is not finite.*1e\+38"):
        train_als(interactions_of(matrix), OPTIONS)


def test_a_weight_that_is_not_a_number_is_named_with_its_user():
    matrix = random_matrix(20, 10, seed=8)
    matrix[5, 2] = np.nan
    with pytest.raises(TrainingDiverged, match="'user 5'"):
        train_als(interactions_of(matrix), OPTIONS)


def test_no_regularization_at_all_is_an_error_and_not_nonsense():
    options = dataclasses.replace(OPTIONS, regularization=0.0, unobserved_weight=0.0)
    with pytest.raises(TrainingDiverged, match="raise --regularization"):
        train_als(interactions_of(random_matrix(20, 10, seed=9)), options)


@pytest.mark.parametrize("change", [{"regularization": 1e308}, {"regularization_exponent": 500.0}])
def test_a_loss_that_is_not_finite_is_an_error(change):
    with pytest.raises(TrainingDiverged):
        train_als(interactions_of(random_matrix(20, 10, seed=9)), dataclasses.replace(OPTIONS, **change))


def test_progress_ends_at_the_whole_with_every_epoch_told():
    told = []
    train_als(interactions_of(random_matrix(20, 10, seed=10)), OPTIONS, told.append)
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert told[-1].done == pytest.approx(1.0)
    assert {each.epoch for each in told} == set(range(OPTIONS.epochs + 1))
    assert told[-1].loss is not None


def test_an_interrupt_stops_training():
    def interrupt(progress):
        if progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_als(interactions_of(random_matrix(60, 30, seed=11)), OPTIONS, interrupt)


def test_without_an_unobserved_weight_it_follows_the_density():
    dense, sparse = (interactions_of(random_matrix(40, 30, seed=12, density=density)) for density in (0.5, 0.05))
    options = dataclasses.replace(OPTIONS, unobserved_weight=None)
    weights = [train_als(each, options).unobserved_weight for each in (dense, sparse)]
    for interactions, weight in zip((dense, sparse), weights, strict=True):
        density = interactions.n_entries / (40 * 30)
        assert weight == pytest.approx(4 * density ** (2 / 3), rel=1e-2)
    assert weights[0] > weights[1] > 0
