"""Users folded in while items are in training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_interactions import interactions_of, random_matrix

from trainer.als import train
from trainer.fold_in import fold_in
from trainer.half_epoch import Penalty, RowNotFinite
from trainer.options import AlsOptions

OPTIONS = AlsOptions(factors=6, epochs=3, regularization=0.02, unobserved_weight=0.1, threads=1)
PENALTY = Penalty(0.1, 0.02, 1.0)


def test_folding_the_training_users_in_gives_the_scores_of_training():
    interactions = interactions_of(random_matrix(40, 30, seed=1, negative=0.1))
    embeddings = train(interactions, OPTIONS)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0].astype(np.float32)
    before = embeddings.item_vectors @ rotation
    users, table = fold_in(interactions.by_user, before, PENALTY, threads=2)
    np.testing.assert_allclose(users @ table.vectors.T, embeddings.user_vectors @ embeddings.item_vectors.T, atol=1e-5)
    np.testing.assert_array_equal(before, embeddings.item_vectors @ rotation)


def test_a_history_that_is_not_finite_is_named_by_its_row():
    matrix = random_matrix(20, 10, seed=2)
    matrix[6, 3] = np.nan
    interactions = interactions_of(matrix)
    items = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    with pytest.raises(RowNotFinite) as caught:
        fold_in(interactions.by_user, items, dataclasses.replace(PENALTY), threads=1)
    assert caught.value.row == 6
