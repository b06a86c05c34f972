"""ALS against the twin written from the definition, its invariants, and what it does with bad numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_interactions import interactions_of, random_matrix

from engine.errors import UsageError
from trainer.als import train
from trainer.errors import TrainingDiverged
from trainer.options import AlsOptions

OPTIONS = AlsOptions(
    factors=6, epochs=4, regularization=0.02, unobserved_weight=0.1, momentum=0, tolerance=0, threads=1
)


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
    embeddings = train(interactions, options)
    users, items = reference.als(*parts(interactions), first_items(options, 18), options)
    # Vectors are the same up to one rotation; scores do not depend on it.
    expected = users @ items.T
    np.testing.assert_allclose(embeddings.user_vectors @ embeddings.item_vectors.T, expected, atol=5e-4)


def test_the_reported_loss_is_the_objective():
    interactions = interactions_of(random_matrix(25, 18, seed=2, negative=0.1))
    embeddings = train(interactions, OPTIONS)
    weights, targets, n_by_user, n_by_item = parts(interactions)
    users, items = np.zeros((25, OPTIONS.factors)), first_items(OPTIONS, 18)
    for loss in embeddings.losses:
        one = dataclasses.replace(OPTIONS, epochs=1)
        users, _ = reference.als(weights, targets, n_by_user, n_by_item, items, dataclasses.replace(one, epochs=0))
        _, items = reference.als(weights, targets, n_by_user, n_by_item, items, one)
        expected = reference.objective(weights, targets, users, items, n_by_user, n_by_item, OPTIONS)
        assert loss == pytest.approx(expected, rel=1e-4)


def test_the_default_tolerance_and_sixteen_bits_cost_nothing_that_can_be_seen():
    interactions = interactions_of(random_matrix(200, 90, seed=21, negative=0.1))
    options = dataclasses.replace(OPTIONS, factors=16, epochs=8)
    default = dataclasses.replace(options, tolerance=AlsOptions().tolerance)
    exact, loose = train(interactions, options), train(interactions, default)
    np.testing.assert_allclose(loose.losses[1:], exact.losses[1:], rtol=5e-4)
    assert loose.losses[-1] == pytest.approx(exact.losses[-1], rel=5e-4)


def test_each_epoch_tells_the_parts_of_the_objective_and_the_vectors_that_have_it():
    interactions = interactions_of(random_matrix(25, 18, seed=2, negative=0.1))
    weights, targets, n_by_user, n_by_item = parts(interactions)
    told = []

    def look(epoch):
        users, items = epoch.user_vectors.astype(np.float64), epoch.item_vectors.astype(np.float64)
        told.append(epoch.epoch)
        scores = users @ items.T
        assert epoch.observed == pytest.approx((weights * (targets - scores) ** 2).sum(), rel=1e-3)
        assert epoch.unobserved == pytest.approx(OPTIONS.unobserved_weight * (scores**2).sum(), rel=1e-3)
        expected = reference.objective(weights, targets, users, items, n_by_user, n_by_item, OPTIONS)
        assert epoch.loss == pytest.approx(expected, rel=1e-4)
        assert epoch.seconds > 0
        assert epoch.multiply_adds > 0

    train(interactions, OPTIONS, on_epoch=look)
    assert told == [1, 2, 3, 4]


def test_items_that_the_hook_returns_end_the_training_and_are_what_was_learned():
    interactions = interactions_of(random_matrix(25, 18, seed=2))
    kept = []

    def stop_after_three(epoch):
        kept.append(epoch.item_vectors.copy())
        return kept[1] if epoch.epoch == 3 else None

    embeddings = train(interactions, OPTIONS, on_epoch=stop_after_three)
    assert len(embeddings.losses) == 3
    scores = embeddings.item_vectors @ embeddings.item_vectors.T
    np.testing.assert_allclose(scores, kept[1] @ kept[1].T, atol=1e-4)


def test_training_goes_on_from_items_that_are_given():
    interactions = interactions_of(random_matrix(40, 30, seed=15))
    first = train(interactions, OPTIONS)
    second = train(interactions, dataclasses.replace(OPTIONS, epochs=1), initial_items=first.item_vectors)
    assert second.losses[0] < first.losses[-1]
    with pytest.raises(ValueError, match=r"initial_items has the shape \(30, 5\); expected \(30, 6\)"):
        train(interactions, OPTIONS, initial_items=first.item_vectors[:, :5])


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
    losses = np.array(train(interactions, options).losses)
    assert (np.diff(losses) <= 1e-5 * losses[:-1]).all()


@pytest.fixture
def small_blocks(monkeypatch):
    """Grams and rotations in many blocks, as large shops have them."""
    monkeypatch.setattr("trainer.eigenbasis._GRAM_ROWS", 7)
    monkeypatch.setattr("trainer.eigenbasis.ROTATION_FLOATS", 30)


def test_scores_are_the_same_when_sums_and_rotations_go_by_blocks(small_blocks):
    interactions = interactions_of(random_matrix(25, 18, seed=1))
    embeddings = train(interactions, OPTIONS)
    users, items = reference.als(*parts(interactions), first_items(OPTIONS, 18), OPTIONS)
    np.testing.assert_allclose(embeddings.user_vectors @ embeddings.item_vectors.T, users @ items.T, atol=2e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("tolerance", [0.0, 1e-4])
def test_blocks_and_chunks_give_the_same_bits_for_any_number_of_threads(small_blocks, monkeypatch, momentum, tolerance):
    monkeypatch.setattr("trainer.half_epoch._LEAST_CHUNK", 40)
    monkeypatch.setattr("trainer.momentum._BLOCK_FLOATS", 50)
    interactions = interactions_of(random_matrix(300, 120, seed=3))
    options = dataclasses.replace(OPTIONS, epochs=5, momentum=momentum, tolerance=tolerance)
    one, two = (train(interactions, dataclasses.replace(options, threads=threads)) for threads in (1, 3))
    np.testing.assert_array_equal(one.user_vectors, two.user_vectors)
    np.testing.assert_array_equal(one.item_vectors, two.item_vectors)


def test_the_same_seed_gives_the_same_bits_for_one_and_two_threads():
    interactions = interactions_of(random_matrix(300, 120, seed=3))
    one = train(interactions, OPTIONS)
    two = train(interactions, dataclasses.replace(OPTIONS, threads=2))
    np.testing.assert_array_equal(one.user_vectors, two.user_vectors)
    np.testing.assert_array_equal(one.item_vectors, two.item_vectors)
    assert one.losses == two.losses
    other = train(interactions, dataclasses.replace(OPTIONS, seed=7))
    assert not np.array_equal(one.item_vectors, other.item_vectors)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_permuting_users_permutes_their_vectors(seed):
    matrix = random_matrix(30, 12, seed=seed)
    order = np.random.default_rng(seed).permutation(30)
    plain, permuted = train(interactions_of(matrix), OPTIONS), train(interactions_of(matrix[order]), OPTIONS)
    scores = plain.user_vectors @ plain.item_vectors.T
    np.testing.assert_allclose(permuted.user_vectors @ permuted.item_vectors.T, scores[order], atol=1e-3)


def test_rows_without_entries_are_exactly_zero():
    embeddings = train(interactions_of(random_matrix(20, 10, seed=4)), OPTIONS)
    assert not embeddings.user_vectors[0].any()
    assert not embeddings.item_vectors[-1].any()


def test_a_history_folded_in_gives_the_stored_vector():
    interactions = interactions_of(random_matrix(40, 30, seed=5, negative=0.1))
    embeddings = train(interactions, OPTIONS)
    encoder = embeddings.encoder()
    for user in range(40):
        folded = encoder.encode(*interactions.by_user.row(user))
        np.testing.assert_allclose(folded, embeddings.user_vectors[user], rtol=1e-5, atol=1e-7)


def test_items_come_in_the_eigenbasis_of_their_gram_matrix_largest_first():
    embeddings = train(interactions_of(random_matrix(40, 30, seed=6)), OPTIONS)
    items = embeddings.item_vectors.astype(np.float64)
    np.testing.assert_allclose(items.T @ items, np.diag(embeddings.spectrum), atol=1e-4 * embeddings.spectrum[0])
    assert (np.diff(embeddings.spectrum) <= 0).all()


def test_two_groups_that_share_nothing_are_told_apart():
    matrix = np.zeros((40, 20))
    matrix[:20, :10] = np.random.default_rng(0).random((20, 10)) < 0.6
    matrix[20:, 10:] = np.random.default_rng(1).random((20, 10)) < 0.6
    options = dataclasses.replace(OPTIONS, factors=2, epochs=10, regularization=0.1)
    embeddings = train(interactions_of(matrix), options)
    scores = embeddings.user_vectors @ embeddings.item_vectors.T
    own = np.zeros((40, 20), dtype=bool)
    own[:20, :10] = own[20:, 10:] = True
    has_history = (matrix != 0).any(axis=1)[:, np.newaxis] & (matrix != 0).any(axis=0)
    assert scores[own & has_history].min() > np.abs(scores[~own]).max()


def test_a_weight_that_overflows_is_named_with_its_row():
    matrix = random_matrix(20, 10, seed=7)
    matrix[4, 3] = 1e38
    with pytest.raises(TrainingDiverged, match=r"epoch 1: the vector of user 'user 4' is not finite.*1e\+38"):
        train(interactions_of(matrix), OPTIONS)


def test_a_weight_that_is_not_a_number_is_named_with_its_user():
    matrix = random_matrix(20, 10, seed=8)
    matrix[5, 2] = np.nan
    with pytest.raises(TrainingDiverged, match="'user 5'"):
        train(interactions_of(matrix), OPTIONS)


def test_no_regularization_at_all_is_an_error_and_not_nonsense():
    options = dataclasses.replace(OPTIONS, regularization=0.0, unobserved_weight=0.0)
    with pytest.raises(TrainingDiverged, match="raise --regularization"):
        train(interactions_of(random_matrix(20, 10, seed=9)), options)


@pytest.mark.parametrize("change", [{"regularization": 1e308}, {"regularization_exponent": 500.0}])
def test_a_loss_that_is_not_finite_is_an_error(change):
    with pytest.raises(TrainingDiverged):
        train(interactions_of(random_matrix(20, 10, seed=9)), dataclasses.replace(OPTIONS, **change))


def test_progress_ends_at_the_whole_with_every_epoch_told():
    told = []
    train(interactions_of(random_matrix(20, 10, seed=10)), OPTIONS, on_progress=told.append)
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert told[-1].done == pytest.approx(1.0)
    assert {each.last.epoch for each in told if each.last} == set(range(1, OPTIONS.epochs + 1))
    assert told[0].last is None


def test_an_interrupt_stops_training():
    def interrupt(progress):
        if progress.last is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(interactions_of(random_matrix(60, 30, seed=11)), OPTIONS, on_progress=interrupt)


def test_without_an_unobserved_weight_it_follows_the_density():
    dense, sparse = (interactions_of(random_matrix(40, 30, seed=12, density=density)) for density in (0.5, 0.05))
    options = dataclasses.replace(OPTIONS, unobserved_weight=None)
    weights = [train(each, options).unobserved_weight for each in (dense, sparse)]
    for interactions, weight in zip((dense, sparse), weights, strict=True):
        density = interactions.n_entries / (40 * 30)
        assert weight == pytest.approx(4 * density ** (2 / 3), rel=1e-2)
    assert weights[0] > weights[1] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": 0}, "factors: found 0, expected a number of at least 1"),
        ({"epochs": -1}, "epochs: found -1, expected a number of at least 1"),
        ({"regularization": float("nan")}, "regularization: found nan, expected a finite number"),
        ({"tolerance": 1.0}, "tolerance: found 1.0, expected a number of at most 0.1"),
    ],
)
def test_options_that_a_program_made_are_held_to_their_bounds(change, message):
    with pytest.raises(UsageError, match=message):
        train(interactions_of(random_matrix(20, 10, seed=9)), dataclasses.replace(OPTIONS, **change))
