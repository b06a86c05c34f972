"""benchmarks/rivals.py, arithmetic.py: the rivals minimize our objective, which is computed as the reference does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_interactions import interactions_of, random_matrix
from reference import als, dense, objective
from threadpoolctl import threadpool_limits

from benchmarks import arithmetic
from benchmarks.interleaved import TrainerFailed, Worker
from benchmarks.made_sets import made_set
from benchmarks.rivals import RIVALS, Entries, Setting
from trainer.options import AlsOptions

OPTIONS = AlsOptions(factors=6, epochs=3, unobserved_weight=0.2, regularization=0.05, threads=2)
EXACT = ("implicit-cholesky", "irspack-cholesky")
INEXACT = ("implicit-cg", "irspack-cg", "irspack-ialspp")


@pytest.fixture(scope="module")
def by_user():
    return made_set(60, 40, 420, seed=1)


def trained(name, by_user, epochs):
    """User and item vectors of a rival after some epochs, the first items, and the options in our terms."""
    rival = RIVALS[name]
    if not rival.is_installed:
        pytest.skip(f"{rival.library} is absent; `make bench` installs it")
    options = replace(OPTIONS, epochs=epochs, regularization_exponent=rival.exponent)
    setting = Setting(
        factors=options.factors,
        unobserved_weight=options.unobserved_weight,
        regularization=options.regularization,
        exponent=options.regularization_exponent,
        epochs=epochs,
        threads=2,
        init_scale=1.0,
    )
    seen = []
    with threadpool_limits(1, "blas"):
        run = rival.prepare(Entries(by_user.indptr, by_user.indices, by_user.n_columns), setting)
        run(lambda vectors, seconds=None: seen.append(tuple(np.array(each) for each in vectors())))
    assert len(seen) == epochs
    return *seen[-1], setting.first_items(by_user.n_columns), options


def loss(by_user, users, items, options):
    return arithmetic.objective(
        by_user,
        users,
        items,
        options.unobserved_weight,
        options.regularization,
        options.regularization_exponent,
    )


def full(by_user):
    weights, targets = dense(by_user.indptr, by_user.indices, by_user.values, by_user.n_columns)
    return weights, targets, np.diff(by_user.indptr), (weights > 0).sum(axis=0)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_objective_is_that_of_the_reference_weights_and_negative_feedback_included(exponent, threads):
    by_user = interactions_of(random_matrix(30, 20, seed=2, negative=0.1)).by_user
    generator = np.random.default_rng(3)
    users, items = (generator.standard_normal((n, 5), dtype=np.float32) for n in (30, 20))
    weights, targets, n_by_user, n_by_item = full(by_user)
    options = replace(OPTIONS, regularization_exponent=exponent)
    expected = objective(weights, targets, users, items, n_by_user, n_by_item, options)
    found = arithmetic.objective(by_user, users, items, 0.2, 0.05, exponent, threads)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore")  # of the libraries' own imports
@pytest.mark.parametrize("name", EXACT)
def test_a_rival_that_solves_exactly_gives_the_vectors_of_the_reference(name, by_user):
    users, items, first, options = trained(name, by_user, 3)
    weights, targets, n_by_user, n_by_item = full(by_user)
    expected_users, expected_items = als(weights, targets, n_by_user, n_by_item, first, options)
    np.testing.assert_allclose(items, expected_items, rtol=2e-3, atol=2e-4)
    improved = loss(by_user, expected_users, expected_items, options)
    assert improved < loss(by_user, users, items, options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*EXACT, *INEXACT])
def test_where_a_rival_converges_our_objective_cannot_be_lowered(name, by_user):
    users, items, _, options = trained(name, by_user, 400)
    best_users, best_items = als(*full(by_user), items, replace(options, epochs=5))
    before, after = (loss(by_user, *each, options) for each in ((users, items), (best_users, best_items)))
    assert before == pytest.approx(after, rel=1e-4)
    assert before < 0.9 * by_user.n_entries


@pytest.mark.filterwarnings("ignore")
def test_implicit_at_another_nu_is_refused(by_user):
    rival = RIVALS["implicit-cg"]
    if not rival.is_installed:
        pytest.skip("implicit is absent; `make bench` installs it")
    with pytest.raises(ValueError, match="knows nu 0 only, found 1"):
        rival.prepare(Entries(by_user.indptr, by_user.indices, 40), Setting(4, 0.1, 0.1, 1.0, 1, 1))


def test_a_trainer_that_cannot_train_is_reported_and_leaves_nothing_behind(by_user, tmp_path):
    for part in ("indptr", "indices"):
        np.save(tmp_path / f"{part}.npy", getattr(by_user, part))
    np.save(tmp_path / "n_items.npy", by_user.n_columns)
    worker = Worker("nearcart-default", tmp_path, Setting(4, 0.0, 0.0, 1.0, 1, 1))
    with pytest.raises(TrainerFailed, match="nearcart-default ended early"):
        worker.epoch()
    worker.stop()


def test_the_counted_operations_are_those_of_the_formula_written_out():
    by_user = made_set(40, 20, 200, seed=4)
    d, cells = 8, 60
    fixed = 2 * cells * d * d
    entries = 2 * by_user.n_entries
    assert arithmetic.epoch_flops("implicit-cg", by_user, d, None) == 4 * (4 * entries * d + 2 * cells * d * d) + fixed
    expected = entries * (2 * d * d + 2 * d) + cells * (d**3 / 3 + 2 * d * d) + fixed
    assert arithmetic.epoch_flops("implicit-cholesky", by_user, d, None) == pytest.approx(expected)
    assert arithmetic.epoch_flops("nearcart-default", by_user, d, 1e6) == 2e6 + 2 * fixed
