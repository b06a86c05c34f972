"""benchmarks.carts, sessions and blends: what is shown, what is to be found, and nothing of the test while tuning."""

from __future__ import annotations

import sys
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks import blends, carts, sessions
from benchmarks.asked import measured, newest_of, one_to_find, scorer_of, weigh
from benchmarks.behaviours import Part, last_purchases_out
from benchmarks.cart_models import RuleModel, rules_of
from engine.evidence import Evidence
from trainer.interactions import read_interactions
from trainer.metrics import parse_metrics

BASKETS = [[0, 1], [0, 1, 2], [0, 2], [1, 2, 3], [0, 1, 3], [3, 4]]


def ids_of(interactions, rows):
    return [int(interactions.item_ids[row]) for row in rows]


def test_an_item_that_came_twice_counts_once_and_by_its_newest_place():
    found = newest_of(np.array([7, 3, 7, -1, 5], dtype=np.int32), np.arange(5))
    assert found.rows.tolist() == [3, 5, 7]
    assert found.ages.tolist() == [2, 0, 1]
    assert found.weights.tolist() == [1, 1, 1]
    assert not len(newest_of(np.array([-1], dtype=np.int32), np.arange(1)).rows)


@pytest.mark.parametrize("may_return", [True, False])
def test_a_target_that_training_does_not_know_is_asked_for_and_never_found(may_return):
    shown = [Evidence.of_rows(np.array([0, 1], dtype=np.int32)), Evidence.of_rows(np.array([2], dtype=np.int32))]
    cases = one_to_find("user", shown, np.array([1, -1]), 4, may_return=may_return)

    class Falling:
        n_items = 4

        def scores(self, queries):
            return np.tile(np.arange(4, 0, -1, dtype=np.float32), (len(queries), 1))

    found = measured(Falling(), cases, parse_metrics("hr@2"))["hr@2"]
    assert found.tolist() == ([1, 0] if may_return else [0, 0])


@pytest.mark.parametrize("is_sum", [True, False])
@pytest.mark.parametrize("measure", ["confidence", "lift", "cosine"])
def test_rules_are_those_that_counting_baskets_gives(tmp_path, measure, is_sum):
    rows = [(basket, item) for basket, items in enumerate(BASKETS) for item in items]
    columns = {"user_id": [b for b, _ in rows], "basket_id": [b for b, _ in rows], "item_id": [i for _, i in rows]}
    parquet.write_table(pa.table(columns), tmp_path / "events.parquet")
    train = read_interactions([str(tmp_path / "events.parquet")])
    setting = {"measure": measure, "least_count": 2, "sum_or_max": "sum" if is_sum else "max", "rules": 10}
    model = RuleModel.of(rules_of(train), train.n_items, setting)
    cart = [0, 3]
    (scores,) = model.cart_scores([train.item_ids.rows([str(item) for item in cart])])

    def share(*items):
        return sum(set(items) <= set(basket) for basket in BASKETS) / len(BASKETS)

    def strength(source, target):
        both = share(source, target)
        if source == target or both * len(BASKETS) < 2:
            return 0.0
        products = {"confidence": share(source), "lift": share(source) * share(target)}
        return both / products.get(measure, np.sqrt(share(source) * share(target)))

    for row, target in enumerate(ids_of(train, range(train.n_items))):
        strengths = [strength(source, target) for source in cart]
        assert scores[row] == pytest.approx(sum(strengths) if is_sum else max(strengths), rel=1e-6)


def test_sessions_are_read_in_their_order_and_the_validation_is_of_sessions_that_its_training_lacks():
    made = sessions.made_sessions(seed=1)
    ((_, test),) = made.tests.items()
    validation = made.validation
    assert validation.train.n_users + round(test.train.n_users * sessions.VALIDATION_SHARE) == test.train.n_users
    read = sessions.read_ordered([np.array([5, 9, 5, 7]), np.array([7, 5])])
    by_age = [[ids_of(read, [row])[0] for row in read.by_user.row(user)[0]] for user in range(2)]
    assert by_age == [[5, 7, 9], [5, 7]]
    assert read.ages().tolist() == [1, 0, 2, 0, 1]
    assert validation.cases.excluded is not None
    assert validation.repeats is not None
    assert validation.repeats.excluded is None
    assert test.cases.excluded is None


def test_strict_models_of_users_know_neither_the_last_item_nor_the_one_before():
    generator = np.random.default_rng(3)
    users = [generator.permutation(40)[: generator.integers(4, 9)].astype(np.int32) for _ in range(30)]
    asked = sessions.of_users("made", users, parse_metrics("hr@10"), seed=1)
    strict, known = asked.tests["made strict"], asked.tests["made"]
    for user, items in enumerate(users):
        assert sorted(ids_of(strict.train, history(strict.train, user))) == sorted(items[:-2].tolist())
        assert sorted(ids_of(known.train, history(known.train, user))) == sorted(items[:-1].tolist())
        for test in (strict, known):
            shown = ids_of(test.train, test.cases.evidence[user].rows)
            assert set(shown) == set(items[:-1].tolist()) & set(ids_of(test.train, range(test.train.n_items)))
            assert ids_of(test.train, test.cases.held_out.items[user]) in ([items[-1]], [])
    assert asked.validation.train is strict.train


def history(train, user):
    return train.by_user.row(train.user_ids.row(str(user)))[0]


def test_what_follows_on_a_ring_is_found_by_neighbours_that_know_the_order():
    made = sessions.made_sessions(seed=2)
    ((_, test),) = made.tests.items()
    means = {}
    for model in (sessions.NEIGHBOURS, sessions.ALS):
        learned = sessions.only(sessions.learned_all(made.validation.train, seed=2), model)
        found = weigh(learned, made.validation)
        learned = sessions.with_found(sessions.only(sessions.learned_all(test.train, seed=2), model), found)
        numbers = measured(scorer_of(learned, test.cases, test.train.n_items), test.cases, parse_metrics("hr@2"))
        means[model] = numbers["hr@2"].mean()
    assert means[sessions.NEIGHBOURS] > 0.6
    assert means[sessions.NEIGHBOURS] > 2 * means[sessions.ALS]


def test_the_validation_holds_each_last_purchase_and_no_event_of_it(tmp_path):
    folder = blends.made_behaviours(tmp_path, seed=4)
    part = Part(folder / "train_events.parquet", folder / "test_buy.parquet")
    (tmp_path / "left").mkdir()
    left = last_purchases_out(part, tmp_path / "left")
    events = duckdb.sql(f"SELECT * FROM read_parquet('{part.events}')").fetchall()
    kept = duckdb.sql(f"SELECT * FROM read_parquet('{left.events}')").fetchall()
    held_out = duckdb.sql(f"SELECT * FROM read_parquet('{left.purchases}')").fetchall()
    last = {}
    for user, item, kind, seconds in events:
        if kind == "buy":
            last[user] = max(last.get(user, (0, 0)), (seconds, item))
    assert sorted(held_out) == sorted((user, item) for user, (_, item) in last.items())
    pairs = set(held_out)
    assert sorted(kept) == sorted(event for event in events if event[:2] not in pairs)
    train = left.train({"view": 0.5, "cart": 0.5, "weighting": "binary"})
    cases = left.cases(train)
    for evidence, items in zip(cases.evidence, cases.held_out.items, strict=True):
        assert not np.isin(items, evidence.rows).any()


def test_what_is_absent_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    for benchmark in (sessions, blends):
        rows = tmp_path / f"{benchmark.__name__}.jsonl"
        monkeypatch.setattr(sys, "argv", ["benchmark", "--data", str(tmp_path), "--json", str(rows)])
        benchmark.main()
        assert not rows.read_text()
    told = capsys.readouterr().out
    for name in ("diginetica", "Beauty", "gowalla", "retailrocket"):
        assert f"{name}" in told
    assert told.count("is absent") == 4


def test_how_many_times_as_much_a_blend_finds_is_said_in_words():
    found = {"blend": 0.3, "blend-default": 0.2, "ials": 0.1, "ials-baskets": 0.05, "rules": 0.25}
    assert carts.in_words("shop", found).splitlines() == [
        "shop: blend finds 3.000 times what ials finds",
        "shop: blend-default finds 2.000 times what ials finds",
        "shop: blend finds 1.200 times what rules finds",
        "shop: blend-default finds 0.800 times what rules finds",
    ]


def test_sessions_of_a_file_come_back_as_they_are(tmp_path):
    lists = [[1, 2], [3, 4, 5], [6]]
    parquet.write_table(pa.table({"items": pa.array(lists, pa.list_(pa.int32()))}), tmp_path / "sessions.parquet")
    found = sessions.lists_of(tmp_path / "sessions.parquet", "items")
    assert [each.tolist() for each in found] == lists
    assert all(first.dtype == second.dtype for first, second in pairwise(found))
