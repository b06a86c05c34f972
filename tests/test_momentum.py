"""Momentum: its schedule, its arithmetic, and what it does to the objective."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_interactions import interactions_of, random_matrix

from trainer.als import train
from trainer.momentum import extrapolate, share_of_last_step
from trainer.options import AlsOptions
from trainer.threads import Threads

OPTIONS = AlsOptions(factors=8, epochs=30, regularization=0.01, unobserved_weight=0.05, tolerance=0, threads=1)


@pytest.mark.parametrize(
    ("losses", "share"),
    [
        ([], 0),
        ([9.0], 0),
        ([9.0, 8.0], 1 / 3),
        ([9.0, 8.0, 8.0], 2 / 4),
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0], 0.7),
        ([9.0, 8.0, 8.5], 0),
        ([9.0, 8.0, 8.5, 8.0], 0),
        ([9.0, 8.0, 8.5, 8.0, 7.0], 1 / 3),
    ],
)
def test_the_share_grows_while_the_loss_falls_and_begins_anew_when_it_rises(losses, share):
    assert share_of_last_step(losses, 0.7) == pytest.approx(share)


def test_extrapolating_goes_on_in_the_direction_of_the_last_step():
    generator = np.random.default_rng(0)
    before, items = generator.normal(size=(2, 9000, 8)).astype(np.float32)
    expected = items + 0.6 * (items - before)
    with Threads(2) as pool:
        extrapolate(before, items, 0.6, pool)
    np.testing.assert_allclose(before, expected, atol=1e-5)


def test_with_momentum_fewer_epochs_reach_the_objective_of_many_plain_ones():
    generator = np.random.default_rng(4)
    likes = generator.normal(size=(150, 5)) @ generator.normal(size=(5, 90)) > 2.0
    interactions = interactions_of(likes.astype(float))
    plain = train(interactions, dataclasses.replace(OPTIONS, momentum=0)).losses
    fast = train(interactions, OPTIONS).losses
    reached = next(epoch for epoch, loss in enumerate(fast, start=1) if loss <= plain[-1] * (1 + 1e-9))
    assert reached <= 22
    assert fast[:2] == pytest.approx(plain[:2], rel=1e-12)


def test_the_vectors_with_momentum_have_the_loss_that_is_told():
    interactions = interactions_of(random_matrix(60, 40, seed=3, negative=0.1))
    told = []

    def look(epoch):
        scores = epoch.user_vectors.astype(np.float64) @ epoch.item_vectors.T.astype(np.float64)
        told.append((epoch.unobserved, OPTIONS.unobserved_weight * (scores**2).sum()))

    train(interactions, dataclasses.replace(OPTIONS, epochs=6), on_epoch=look)
    for unobserved, expected in told:
        assert unobserved == pytest.approx(expected, rel=1e-4)
