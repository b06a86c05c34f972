"""What a recommender is measured with, case by case, against the definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_cases import N_ITEMS, baskets_of, described, made, shown_of, taken_of

from trainer.cases import again_cases, cart_cases, cases_of, session_cases, user_cases
from trainer.errors import EvaluationError
from trainer.model_options import TASKS

TRAIN = made(
    [
        {0: (1.0, 10.0), 2: (2.0, 30.0), 5: (-1.0, 20.0)},
        {1: (1.0, 10.0), 3: (1.0, 10.0)},
        {4: (1.0, 10.0)},
    ]
)
TEST = made(
    [
        {2: 1.0, 3: 1.0, 6: 1.0},  # user 0: one that he has, one he has not, one that training does not know
        {0: 1.0, 1: -1.0},  # user 1: one liked, one disliked
        {2: 1.0},  # a stranger
        {0: -1.0},  # user 2 likes nothing
    ],
    items=[*(f"item {row}" for row in range(6)), "unheard of", "item 7"],
    users=["user 0", "user 1", "stranger", "user 2"],
)


def test_each_test_user_is_asked_for_with_the_history_that_training_has():
    cases = user_cases(TRAIN, TEST, repeats=False)
    assert described(cases) == (
        "user",
        [([0, 2, 5], [1.0, 2.0, -1.0], [2, 0, 1]), ([1, 3], [1.0, 1.0], [0, 0])],
        [[2, 3], [0]],
        [0, 1],
        [3, 1],
        [0.0, 0.0],
        [[0, 2, 5], [1, 3]],
        [0, 1],
    )
    assert cases.n_items == N_ITEMS


def test_repeats_are_the_same_cases_and_nothing_is_kept_from_the_list():
    first, again = (described(user_cases(TRAIN, TEST, repeats=repeats)) for repeats in (False, True))
    assert again == (*first[:6], None, first[7])


def test_what_is_taken_again_is_to_be_found_among_the_history_alone():
    cases = again_cases(TRAIN, TEST)
    assert cases.only_evidence
    assert described(cases) == ("user", [([0, 2, 5], [1.0, 2.0, -1.0], [2, 0, 1])], [[2]], [0], [1], [0.0], None, [0])
    new = made([{3: 1.0}], users=["user 0"])
    with pytest.raises(EvaluationError, match="no user of the test takes again what training has"):
        again_cases(TRAIN, new)


def test_users_of_a_history_are_asked_for_with_it_and_have_no_stored_row():
    history = made(
        [{3: 1.0}, {1: 0.5, 4: 2.0, 7: 1.0}], users=["nobody", "stranger"], items=[*"abcd", "item 4", *"efg"]
    )
    cases = user_cases(TRAIN, TEST, history, repeats=False)
    assert described(cases) == ("user", [([4], [2.0], [0])], [[2]], [0], [1], [0.0], [[4]], None)


def test_a_cart_hides_one_item_or_a_share_of_them_and_never_shows_it():
    generator = np.random.default_rng(0)
    listed = []
    for size in (2, 3, 4, 5, 6, 7, 8):
        items = generator.choice(N_ITEMS, size, replace=False).tolist()
        listed.append(dict(zip(items, generator.integers(0, 3, size).tolist(), strict=True)))
    test = made([{0: 1.0}], baskets=baskets_of(*listed))
    for share, n_hidden in ((0.0, [1] * 7), (0.5, [1, 1, 2, 2, 3, 3, 4]), (1.0, [1, 2, 3, 4, 5, 6, 7])):
        cases = cart_cases(TRAIN, test, share=share, seed=3)
        assert cases.kind == "cart"
        assert cases.users is None
        assert cases.held_out.n_relevant.tolist() == n_hidden
        assert cases.held_out.users.tolist() == list(range(7))
        for number, basket in enumerate(listed):
            shown, hidden = shown_of(cases.evidence[number]), cases.held_out.items[number].tolist()
            assert len(set(hidden)) == n_hidden[number]
            assert shown.keys().isdisjoint(hidden)
            assert shown.keys() | set(hidden) == basket.keys()
            assert cases.excluded.row(number)[0].tolist() == sorted(shown)
            places = {basket[item] for item in shown}
            assert shown == {item: sum(place > basket[item] for place in places) for item in shown}


def test_which_items_of_a_cart_are_hidden_is_a_matter_of_the_seed():
    test = made([{0: 1.0}], baskets=baskets_of(*[dict.fromkeys(range(N_ITEMS), 0)] * 20))
    found = [described(cart_cases(TRAIN, test, share=0.0, seed=seed)) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert {hidden for (hidden,) in found[0][2]} > {0, 1, 2}  # not always the same place


def test_items_that_training_never_saw_are_left_out_of_carts_and_sessions():
    names = ["item 5", "never", "item 1", "nor this"]
    baskets = baskets_of({0: 0, 1: 1, 2: 2}, {1: 0, 2: 1}, {1: 0, 3: 1})
    test = made([{0: 1.0}], n_items=4, items=names, baskets=baskets)
    cases = cart_cases(TRAIN, test, share=0.0, seed=0)
    ((shown,), (hidden,)) = cases.evidence[0].rows.tolist(), cases.held_out.items[0].tolist()
    assert {shown, hidden} == {5, 1}
    assert len(cases.evidence) == 1
    assert described(session_cases(TRAIN, test))[1:3] == ([([5], [1.0], [0])], [[1]])


def test_a_session_is_asked_for_each_item_from_those_before_it():
    test = made([{0: 1.0}], baskets=baskets_of({6: 0, 2: 1, 4: 1, 0: 3}, {3: 0, 1: 0}, {7: 1, 5: 0}))
    cases = session_cases(TRAIN, test)
    assert (cases.kind, cases.users) == ("cart", None)
    assert [shown_of(each) for each in cases.evidence] == [{6: 0}, {6: 0}, {2: 0, 4: 0, 6: 1}, {5: 0}]
    assert [each.tolist() for each in cases.held_out.items] == [[2], [4], [0], [7]]
    assert [cases.excluded.row(number)[0].tolist() for number in range(4)] == [[6], [6], [2, 4, 6], [5]]


def test_without_baskets_what_a_user_takes_is_one_in_the_order_of_its_times():
    rows = [{3: (1.0, 50.0), 0: (1.0, 70.0), 6: (1.0, 50.0)}, {2: (1.0, 1.0)}, {4: (2.0, np.nan), 1: (1.0, 9.0)}]
    test = made(rows, users=["x", "y", "z"])
    cases = session_cases(TRAIN, test)
    assert [shown_of(each) for each in cases.evidence] == [{3: 0, 6: 0}, {4: 0}]
    assert [each.tolist() for each in cases.held_out.items] == [[0], [1]]
    carts = cart_cases(TRAIN, test, share=0.0, seed=0)
    assert taken_of(carts) == [{0, 3, 6}, {1, 4}]


def test_what_a_user_dislikes_is_neither_shown_nor_hidden():
    test = made([{0: (1.0, 1.0), 3: (-1.0, 2.0), 5: (1.0, 3.0)}, {1: (-1.0, 1.0), 2: (1.0, 2.0)}])
    cases = session_cases(TRAIN, test)
    assert [shown_of(each) for each in cases.evidence] == [{0: 0}]
    assert [each.tolist() for each in cases.held_out.items] == [[5]]
    for seed in range(5):
        carts = cart_cases(TRAIN, test, share=0.0, seed=seed)
        assert taken_of(carts) == [{0, 5}]


def test_what_is_hidden_is_worth_its_price_in_training():
    prices = np.array([1, 2, np.nan, 8, 16, 32, 64, 128], dtype=np.float32)
    train = replace(TRAIN, prices=prices)
    test = made([{0: 1.0}], baskets=baskets_of({4: 0, 1: 1}, {4: 0, 2: 1}))
    cases = session_cases(train, test)
    assert cases.held_out.relevant_price.tolist() == [2.0, 0.0]
    np.testing.assert_array_equal(cases.held_out.prices, prices)
    assert cart_cases(train, test, share=0.0, seed=0).held_out.relevant_price.sum() > 0


def test_every_task_has_its_cases():
    test = replace(TEST, baskets=baskets_of({0: 0, 1: 1, 2: 2, 3: 3, 4: 4}, {2: 0, 3: 1, 4: 1, 5: 1}))
    expected = {
        "next": user_cases(TRAIN, test, repeats=False),
        "again": again_cases(TRAIN, test),
        "repeats": user_cases(TRAIN, test, repeats=True),
        "cart": cart_cases(TRAIN, test, share=0.0, seed=5),
        "half-cart": cart_cases(TRAIN, test, share=0.5, seed=5),
        "session": session_cases(TRAIN, test),
    }
    assert tuple(expected) == TASKS
    found = {task: described(cases_of(task, TRAIN, test, seed=5)) for task in TASKS}
    assert found == {task: described(each) for task, each in expected.items()}
    assert len({str(each) for each in found.values()}) == len(TASKS)


@pytest.mark.parametrize(
    ("task", "test", "message"),
    [
        ("next", made([{0: 1.0}], users=["x"]), "none of the 1 test users is among the 3 training users"),
        ("cart", made([{0: 1.0}], baskets=baskets_of({0: 0})), "has 2 items that training knows.*--basket-column"),
        ("half-cart", made([{0: 1.0}, {3: -1.0, 2: 1.0}]), "has 2 items that training knows"),
        ("session", made([{0: 1.0, 1: 1.0}]), "has two items at different times.*--timestamp-column"),
    ],
)
def test_a_test_that_has_no_case_of_a_task_is_refused(task, test, message):
    with pytest.raises(EvaluationError, match=message):
        cases_of(task, TRAIN, test)
