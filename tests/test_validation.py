"""What parts are weighed with: which cut suits which events, and which cases a cut gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_cases import baskets_of, described, made, shown_of, taken_of

from trainer import validation
from trainer.cleaning import Report
from trainer.splits import Split
from trainer.validation import histories_of, rule_for, validation_of

REPORT = Report(0, 0, ())
TRAIN = made([{0: (1.0, 1.0), 1: (1.0, 2.0)}, {2: (1.0, 1.0)}, {3: (1.0, 5.0), 4: (1.0, 5.0)}])


@pytest.fixture(autouse=True)
def _few_cases_are_enough(monkeypatch):
    monkeypatch.setattr(validation, "LEAST_CASES", 1)


def split_of(test, *, train=TRAIN, history=None):
    return Split(train, history, test, REPORT)


def many(n_users, seed=0):
    """Training and test of users who had two items and take two others, in one basket each."""
    generator = np.random.default_rng(seed)
    chosen = [generator.choice(8, 4, replace=False).tolist() for _ in range(n_users)]
    train = made([dict.fromkeys(items[:2], 1.0) for items in chosen])
    test = made([dict.fromkeys(items[2:], 1.0) for items in chosen])
    return split_of(replace(test, baskets=baskets_of(*(dict.fromkeys(each[2:], 0) for each in chosen))), train=train)


@pytest.mark.parametrize(
    ("events", "rule"),
    [
        (made([{0: 1.0}]), "random:0.1"),
        (made([{0: 1.0, 1: 1.0}], baskets=baskets_of({0: 0, 1: 0})), "random:0.1"),
        (made([{0: (1.0, 5.0), 1: 1.0}]), "last"),
        (made([{0: (1.0, 5.0)}], baskets=baskets_of()), "last"),
        (made([{0: (1.0, 5.0), 1: 1.0}], baskets=baskets_of({0: 0, 1: 0})), "basket"),
    ],
)
def test_the_cut_follows_from_what_the_events_name(events, rule):
    assert rule_for(events) == rule


def test_baskets_are_carts_and_users_are_asked_for_what_they_have_not():
    test = made([{0: 1.0, 5: 1.0}, {2: 1.0}, {1: 1.0, 6: 1.0}], baskets=baskets_of({0: 0, 4: 0}, {1: 0, 6: 0}))
    carts, users = (found := validation_of(split_of(test), most=50, seed=1)).cases
    assert (carts.kind, taken_of(carts)) == ("cart", [{0, 4}, {1, 6}])
    # User 1 takes only what he has: nothing new to be found, but a repeat.
    assert described(users) == (
        "user",
        [([0, 1], [1.0, 1.0], [1, 0]), ([3, 4], [1.0, 1.0], [0, 0])],
        [[5], [1, 6]],
        [0, 1],
        [1, 2],
        [0.0, 0.0],
        [[0, 1], [3, 4]],
        [0, 2],
    )
    assert found.repeats is not None
    assert found.repeats.kind == "user"
    assert found.repeats.excluded is None
    assert [each.tolist() for each in found.repeats.held_out.items] == [[0, 5], [2], [1, 6]]
    assert found.repeats.users.tolist() == [0, 1, 2]


def test_where_nothing_is_taken_again_there_are_no_repeats():
    test = made([{5: 1.0}, {0: 1.0}])
    found = validation_of(split_of(test), most=50, seed=1)
    assert [each.kind for each in found.cases] == ["user"]
    assert found.repeats is None


def test_where_everything_is_taken_again_there_are_only_repeats():
    test = made([{0: 1.0}, {2: 1.0}])
    found = validation_of(split_of(test), most=50, seed=1)
    assert found.cases == ()
    assert [each.tolist() for each in found.repeats.held_out.items] == [[0], [2]]


def test_without_baskets_there_are_no_carts():
    test = made([{5: 1.0, 0: 1.0}, {2: 1.0}])
    (users,) = validation_of(split_of(test), most=50, seed=1).cases
    assert users.kind == "user"
    assert [each.tolist() for each in users.held_out.items] == [[5]]


def test_histories_are_users_with_what_they_have():
    found = histories_of(made([{5: 1.0, 0: 1.0}, {2: 1.0}]), most=50, seed=1)
    assert [each.rows.tolist() for each in found.evidence] == [[0, 5], [2]]
    assert found.kind == "user"


def test_users_that_are_held_out_whole_have_their_history_and_no_stored_row():
    history = made([{3: 1.0, 6: 1.0}], users=["stranger"])
    test = made([{1: 1.0}], users=["stranger"])
    (users,) = validation_of(split_of(test, history=history), most=50, seed=1).cases
    assert users.users is None
    assert shown_of(users.evidence[0]) == {3: 0, 6: 0}
    assert [each.tolist() for each in users.held_out.items] == [[1]]


def test_a_test_about_strangers_to_training_has_no_cases_at_all():
    found = validation_of(split_of(made([{1: 1.0}], users=["stranger"])), most=50, seed=1)
    assert (found.cases, found.repeats) == ((), None)


def test_no_more_cases_are_drawn_than_asked_for_and_the_seed_says_which():
    split = many(200)
    everything = validation_of(split, most=200, seed=1)
    assert [len(each.evidence) for each in everything.cases] == [200, 200]
    drawn = [[described(each) for each in validation_of(split, most=60, seed=seed).cases] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))
    for few in drawn[0]:
        assert few[3] == list(range(60))
        assert all(len(few[place]) == 60 for place in (1, 2, 4, 5, 6))
    # Each case that is drawn is one of all, whole.
    users, few = described(everything.cases[1]), drawn[0][1]
    assert few[7] == sorted(few[7])
    assert len(set(few[7])) == 60
    for number, user in enumerate(few[7]):
        assert [few[place][number] for place in (1, 2, 4, 5, 6)] == [users[place][user] for place in (1, 2, 4, 5, 6)]


def test_fewer_cases_than_can_say_anything_are_none(monkeypatch):
    monkeypatch.setattr(validation, "LEAST_CASES", 20)
    assert validation_of(many(19), most=50, seed=1).cases == ()
    assert [len(each.evidence) for each in validation_of(many(20), most=50, seed=1).cases] == [20, 20]


def test_baskets_whose_items_come_one_after_another_are_asked_for_what_comes_next():
    test = replace(made([{5: 1.0, 0: 1.0, 6: 1.0}]), baskets=baskets_of({5: 0, 0: 1, 6: 2}))
    carts = validation_of(split_of(test), most=50, seed=1).cases[0]
    assert carts.kind == "cart"
    assert [shown_of(each) for each in carts.evidence] == [{5: 0}, {5: 1, 0: 0}]
    assert [each.tolist() for each in carts.held_out.items] == [[0], [6]]


def test_the_newest_baskets_are_held_out_where_hardly_a_user_has_two():
    sessions = made([{0: (1.0, 3600.0 * n), 1: (1.0, 3600.0 * n)} for n in range(101)])
    baskets = replace(baskets_of(*[{0: 0, 1: 0}] * 101), seconds=3600.0 * np.arange(101), user_rows=np.arange(101))
    assert rule_for(replace(sessions, baskets=baskets)) == "time:10.0h"
    again = replace(baskets, user_rows=np.minimum(np.arange(101), 50))
    assert rule_for(replace(sessions, baskets=again)) == "time:10.0h"
    twice = replace(baskets, user_rows=np.arange(101) // 2)
    assert rule_for(replace(sessions, baskets=twice)) == "basket"
