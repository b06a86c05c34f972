"""benchmarks.quality compares like with like: one ranking, the same carts, nothing of the test while tuning."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks import contenders, quality
from benchmarks.contenders import CONTENDERS, Budget, ItemKnn, Nearcart, Popular, best_of
from benchmarks.held_out_weeks import OF_USERS, Weeks, max_k, weeks
from benchmarks.made_sets import interactions_of
from benchmarks.real_shops import cut, real_shops
from trainer.evaluate import Scorer, catalogue_ranking
from trainer.interactions import Csr, read_interactions

BUDGET = Budget(trials=2, factors=(8,), epochs=2, seed=42)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    (shop,) = real_shops(tmp_path_factory.getbasetemp(), quick=True)
    return shop, *cut(shop.events, shop.columns, tmp_path_factory.mktemp("cut"))


@pytest.fixture(scope="module")
def validation(shop) -> Weeks:
    return quality.validation_weeks(*shop[:2], most_users=50, seed=42)


def planted():
    """Users 0 to 9 bought items 0 and 7 together; item 1 is what everybody has."""
    rows = [[0, 1, 7] if user < 10 else [1, 2 + user % 5] for user in range(40)]
    indptr = np.append(0, np.cumsum([len(row) for row in rows])).astype(np.int64)
    values = np.ones(indptr[-1], dtype=np.float32)
    return interactions_of(Csr(indptr, np.concatenate(rows).astype(np.int32), values, n_columns=8))


@pytest.mark.parametrize("similarity", ["cosine", "tfidf", "bm25"])
def test_item_knn_ranks_what_was_bought_together_first(similarity):
    pytest.importorskip("implicit", reason="the group `bench` is not installed")
    setting = {"similarity": similarity, "neighbours": 8, "weighting": "binary"}
    model = ItemKnn().fit(lambda weighting: planted(), setting, seed=1)
    (scores,) = model.cart_scores([np.array([0], dtype=np.int32)])
    scores[0] = -np.inf
    assert scores.argmax() == 7


def test_the_ranking_is_that_of_trainer_evaluate(validation):
    setting = best_of(Nearcart().tune(validation, BUDGET)).setting
    model = Nearcart().fit(validation.train_under, setting, seed=42)
    scorer = Scorer(model.embeddings.user_vectors, model.embeddings.item_vectors)
    history = validation.experiment.split.train.by_user
    expected = catalogue_ranking(scorer, history, validation.held_out, max_k(OF_USERS))
    found = validation.user_ranking(model)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.hits, expected.hits)
    np.testing.assert_array_equal(found.n_relevant, expected.n_relevant)


def test_the_search_of_nearcart_and_the_rivals_aim_at_the_same_number(validation):
    (trial,) = Popular().tune(validation, BUDGET)
    assert trial.aim == pytest.approx(validation.experiment.popularity(), abs=1e-12)


def test_a_hidden_item_is_in_none_of_the_carts_that_it_was_hidden_from_nor_is_a_history_to_be_found(validation):
    for shown, hidden in zip(validation.carts.shown, validation.carts.hidden, strict=True):
        assert 2 <= len(shown) <= 59
        assert hidden not in shown
    histories = validation.experiment.split.train.by_user
    for user, items in zip(validation.held_out.users.tolist(), validation.held_out.items, strict=True):
        assert len(items)
        assert not np.isin(items, histories.row(user)[0]).any()


def test_every_model_is_asked_the_same_carts_and_users(validation):
    asked: dict[str, list] = {}

    class Recorded:
        def __init__(self, name, model):
            self.name, self.model = name, model

        def user_scores(self, users):
            asked.setdefault(self.name, []).append(users.tolist())
            return self.model.user_scores(users)

        def cart_scores(self, carts):
            asked.setdefault(self.name, []).append([cart.tolist() for cart in carts])
            return self.model.cart_scores(carts)

    for contender in filter(contenders.is_installed, CONTENDERS):
        setting = best_of(contender.tune(validation, BUDGET)).setting
        validation.measured(Recorded(contender.name, contender.fit(validation.train_under, setting, seed=42)))
    first = next(iter(asked.values()))
    assert all(calls == first for calls in asked.values())


def test_nothing_that_tuning_sees_is_of_the_test_weeks(shop, validation):
    described, before, after = shop
    newest = np.nanmax(read_interactions([str(before)], described.columns, cleaning=described.cleaning).last_times)
    test = read_interactions([str(after)], described.columns, cleaning=described.cleaning)
    assert newest < np.nanmin(test.last_times)
    split = validation.experiment.split
    assert np.nanmax(split.train.last_times) < np.nanmin(split.test.last_times)
    assert np.nanmax(split.test.last_times) <= newest


def test_without_implicit_it_says_what_is_not_compared_and_measures_the_rest(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None if name == "implicit" else name)
    monkeypatch.setattr(sys, "argv", ["quality", "--quick", "--json", str(tmp_path / "rows.jsonl")])
    quality.main()
    told = capsys.readouterr().out
    assert "implicit is absent, so item-knn is not compared" in told
    assert "implicit is absent, so implicit-als is not compared" in told
    assert "hr@10      nearcart" in told
    assert "item-knn  " not in told


def test_weeks_without_a_limit_keep_every_user_who_took_something_new(shop):
    described, before, after = shop
    train, later = (
        read_interactions([str(path)], described.columns, cleaning=described.cleaning) for path in (before, after)
    )
    whole = weeks(described, train, later, most_users=0, seed=1)
    rows = train.user_ids.rows_of(later.user_ids.strings)
    items = train.item_ids.rows_of(later.item_ids.strings)
    expected = {}
    for user in np.flatnonzero(rows >= 0).tolist():
        taken = items[later.by_user.row(user)[0]]
        new = np.setdiff1d(taken[taken >= 0], train.by_user.row(int(rows[user]))[0])
        if len(new):
            expected[int(rows[user])] = new.tolist()
    found = zip(whole.held_out.users.tolist(), whole.held_out.items, strict=True)
    assert {user: sorted(new.tolist()) for user, new in found} == expected
