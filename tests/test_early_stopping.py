"""Early stopping: what is held out, what is measured against the textbook, and which epoch is taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_interactions import interactions_of, random_matrix

from engine.errors import UsageError
from trainer import early_stopping
from trainer.als import train
from trainer.checkpoint import Checkpoint
from trainer.early_stopping import MIN_ENTRIES, MIN_NEW, EarlyStopping, hold_out_items
from trainer.errors import EvaluationError, TrainingDiverged
from trainer.options import AlsOptions

OPTIONS = AlsOptions(factors=8, epochs=40, regularization=0.0005, unobserved_weight=0.05, threads=1)


def tastes(seed=0, n_users=120, n_items=60):
    """Users of four tastes: something to be learned, and, with little regularization, soon too much."""
    generator = np.random.default_rng(seed)
    alike = (np.arange(n_users) % 4)[:, np.newaxis] == (np.arange(n_items) % 4)
    matrix = (generator.random((n_users, n_items)) < np.where(alike, 0.5, 0.05)) * generator.uniform(0.5, 2, n_items)
    matrix[generator.random((n_users, n_items)) < 0.01] = -1
    matrix[:4] = 0
    matrix[:4, 0] = matrix[4, 59] = 1
    return interactions_of(matrix)


class Stop(Exception):
    """What a test stops a training with."""


def learn(stopping, look=None, **others):
    """What trainer.training does with it; `look` sees each epoch first."""

    def hook(epoch):
        if look is not None:
            look(epoch)
        return stopping(epoch)

    return stopping.completed(train(stopping.training, stopping.options, on_epoch=hook, **others))


def scores(embeddings):
    return embeddings.user_vectors @ embeddings.item_vectors.T


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.02, 0.1, 0.3]), st.sampled_from([0.0, 0.5]))
def test_one_liked_entry_of_each_chosen_user_is_held_out_and_all_others_stay(seed, density, negative):
    interactions = interactions_of(random_matrix(40, 60, seed=seed, density=density, negative=negative))
    try:
        found = hold_out_items(interactions, np.random.default_rng(seed))
    except EvaluationError:
        sizes = np.diff(interactions.by_user.indptr)
        assert density < 0.1 or sizes.max() < MIN_ENTRIES
        return
    assert (np.diff(found.users) > 0).all()
    held_out = dict(zip(found.users.tolist(), found.items.tolist(), strict=True))
    for user in range(40):
        items, values = interactions.by_user.row(user)
        kept = items != held_out.get(user, -1)
        remaining = found.training.by_user.row(user)
        np.testing.assert_array_equal(remaining[0], items[kept])
        np.testing.assert_array_equal(remaining[1], values[kept])
        if user in held_out:
            assert len(items) >= MIN_ENTRIES
            assert values[~kept] > 0
    assert found.training.by_item.n_entries == found.training.n_entries == len(found.training.counts)
    had, has = interactions.popularity(), found.training.popularity()
    assert ((has > 0) == (had > 0)).all()
    assert found.training.item_ids is interactions.item_ids


def test_every_user_with_enough_entries_is_held_out_of_unless_there_are_too_many(monkeypatch):
    interactions = tastes()
    generator = np.random.default_rng(0)
    assert len(hold_out_items(interactions, generator).users) >= 110
    monkeypatch.setattr(early_stopping, "MAX_USERS", 30)
    first, second = hold_out_items(interactions, generator), hold_out_items(interactions, generator)
    assert len(first.users) == len(second.users) == 30
    assert set(first.users.tolist()) != set(second.users.tolist())


def test_the_seed_decides_what_is_held_out():
    one, same, other = (
        EarlyStopping(tastes(), dataclasses.replace(OPTIONS, seed=seed), 3).training.by_user.indices
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert one.tolist() != other.tolist()


def test_events_too_few_to_hold_anything_out_are_an_error():
    matrix = np.zeros((3, 10))
    matrix[0, :4] = matrix[1, 6:] = 1
    matrix[2] = -1
    with pytest.raises(EvaluationError, match=r"users with at least 5 entries.*: leave --early-stopping away"):
        EarlyStopping(interactions_of(matrix), OPTIONS, 3)


def test_only_entries_that_may_be_are_held_out():
    interactions = tastes()
    by_user = interactions.by_user
    may = np.random.default_rng(1).random(by_user.n_entries) < 0.2
    found = hold_out_items(interactions, np.random.default_rng(0), may)
    assert len(found.users) >= MIN_NEW
    for user, item in zip(found.users.tolist(), found.items.tolist(), strict=True):
        place = by_user.indptr[user] + int(np.searchsorted(by_user.row(user)[0], item))
        assert may[place]


def test_new_entries_too_few_to_be_measured_by_are_wrong_usage():
    interactions = tastes()
    may = np.zeros(interactions.n_entries, dtype=np.bool_)
    may[: interactions.n_entries // 5] = True
    with pytest.raises(
        UsageError, match=r"found \d+ users with one, expected at least 50: leave --early-stopping away"
    ):
        EarlyStopping(interactions, OPTIONS, 3, among=may)


def test_the_value_is_the_textbook_ndcg_of_users_folded_in_by_the_definition():
    interactions = tastes()
    stopping = EarlyStopping(interactions, OPTIONS, 1)
    validation, expected = hold_out_items(interactions, np.random.default_rng(OPTIONS.seed)), []
    by_user = validation.training.by_user
    weights, targets = reference.dense(by_user.indptr, by_user.indices, by_user.values, 60)

    def by_definition(epoch):
        items, values = epoch.item_vectors.astype(np.float64), []
        for user, wanted in zip(validation.users.tolist(), validation.items.tolist(), strict=True):
            history = by_user.row(user)[0]
            a0, exponent = OPTIONS.unobserved_weight, OPTIONS.regularization_exponent
            penalty = reference.row_penalty(len(history), a0, OPTIONS.regularization, exponent, 60)
            vector = reference.solve_row(weights[user], targets[user], items, a0, penalty)
            of_user = items @ vector
            of_user[history] = -np.inf
            values.append(reference.metrics(reference.best_rows(of_user, 20), [wanted], 20)["ndcg"])
        expected.append(np.mean(values))

    learn(stopping, by_definition)
    np.testing.assert_allclose(stopping.values, expected, atol=1e-3)  # two scores may be too near to tell
    assert stopping.values[0] > 0.2


@pytest.mark.parametrize("patience", [1, 3, 1000])
def test_training_ends_so_many_epochs_after_the_best_one_whose_items_it_takes(patience):
    stopping, seen = EarlyStopping(tastes(), OPTIONS, patience), []
    embeddings = learn(stopping, lambda epoch: seen.append(epoch.item_vectors.copy()))
    best = int(np.argmax(stopping.values)) + 1
    assert stopping.best_epoch == best < OPTIONS.epochs
    assert len(seen) == len(stopping.values) == min(best + patience, OPTIONS.epochs)
    assert len(embeddings.losses) == best
    grams = embeddings.item_vectors @ embeddings.item_vectors.T
    np.testing.assert_allclose(grams, seen[best - 1] @ seen[best - 1].T, atol=1e-4 * np.abs(grams).max())


def test_progress_rises_to_the_whole_of_a_training_that_ends_early():
    stopping, told = EarlyStopping(tastes(), OPTIONS, 2), []
    learn(stopping, on_progress=told.append)
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert told[-1].done == pytest.approx(1.0)
    assert told[-1].last.epoch == len(stopping.values) < OPTIONS.epochs


def test_the_users_have_their_whole_histories_back():
    interactions = tastes()
    stopping = EarlyStopping(interactions, OPTIONS, 1)
    embeddings = learn(stopping)
    encoder = embeddings.encoder()
    for user in range(interactions.n_users):
        folded_in = encoder.encode(*interactions.by_user.row(user))
        np.testing.assert_array_equal(embeddings.user_vectors[user], folded_in)
    assert stopping.n_users > 100


def test_the_unobserved_weight_is_that_of_all_entries():
    interactions = tastes()
    stopping = EarlyStopping(interactions, dataclasses.replace(OPTIONS, unobserved_weight=None), 1)
    whole = AlsOptions().unobserved_weight_for(120, 60, interactions.n_entries)
    part = AlsOptions().unobserved_weight_for(120, 60, stopping.training.n_entries)
    assert learn(stopping).unobserved_weight == whole != part


def test_threads_change_no_bit():
    one, two = (EarlyStopping(tastes(), dataclasses.replace(OPTIONS, threads=threads), 2) for threads in (1, 2))
    first, second = learn(one), learn(two)
    assert one.values == two.values
    np.testing.assert_array_equal(first.item_vectors, second.item_vectors)
    np.testing.assert_array_equal(first.user_vectors, second.user_vectors)


def test_a_training_that_was_stopped_after_any_epoch_goes_on_to_the_same_bits(tmp_path):
    whole = EarlyStopping(tastes(), OPTIONS, 3)
    expected = learn(whole)
    for epoch in range(1, len(whole.values)):
        path = tmp_path / f"{epoch}.npz"

        def interrupt(progress, epoch=epoch):
            if progress.last is not None and progress.last.epoch == epoch:
                raise Stop

        first, second = EarlyStopping(tastes(), OPTIONS, 3), EarlyStopping(tastes(), OPTIONS, 3)
        with pytest.raises(Stop):
            learn(first, checkpoint=Checkpoint(path, companion=first), on_progress=interrupt)
        found = learn(second, checkpoint=Checkpoint(path, companion=second))
        assert second.values == whole.values
        np.testing.assert_array_equal(found.item_vectors, expected.item_vectors)
        np.testing.assert_array_equal(found.user_vectors, expected.user_vectors)
        assert found.losses == expected.losses


def test_it_describes_the_last_value_and_the_best():
    stopping = EarlyStopping(tastes(), OPTIONS, 3)
    assert stopping.described() == ""
    stopping.values = [0.25, 0.5]
    assert stopping.described() == "ndcg@20 0.5000"
    stopping.values = [0.25, 0.5, 0.125]
    assert stopping.described() == "ndcg@20 0.1250, best 0.5000"


def test_a_weight_that_overflows_only_in_what_was_held_out_is_named_with_its_user():
    interactions = tastes()
    held_out = hold_out_items(interactions, np.random.default_rng(OPTIONS.seed))
    user, item = int(held_out.users[5]), int(held_out.items[5])
    items, values = interactions.by_user.row(user)
    values[items == item] = 1e38
    stopping = EarlyStopping(interactions, OPTIONS, 1)
    with pytest.raises(TrainingDiverged, match=f"the vector of user 'user {user}' is not finite.*lower them"):
        learn(stopping)
