"""What parts count: known answers by construction, and the metric against the textbook's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from made_blends import N_ITEMS, OFF, cases_with, part_of
from made_recommender import made_part

from engine.kinds import ByKind
from engine.recommender import Recommender
from trainer.als import Embeddings
from trainer.blending import Setting, _Table, equal_settings, find_settings, with_settings
from trainer.learned import BOTH, DENSE_NAME, Learned
from trainer.options import AlsOptions

N_CASES = 60
"""Case n is asked with item n and others, all below 60; its answer is `answer_to(n)`, 60 or above."""


def answer_to(number):
    return 60 + (7 * number) % 60


def knowing(name, numbers, weight=1.0):
    """A part that knows the answers of some cases, and nothing else."""
    return part_of(name, {number: {answer_to(number): weight} for number in numbers})


def ignorant(name):
    """A part that gives each item ten others, of which none is ever an answer."""
    generator = np.random.default_rng(4)
    return part_of(
        name, {item: dict.fromkeys(generator.choice(60, 10, replace=False).tolist(), 1.0) for item in range(60)}
    )


def repeating():
    return part_of("repeat", {item: {item: 1.0} for item in range(N_ITEMS)})


def usual_cases(kind="user", *, repeats=False):
    return cases_with([{n: 0} for n in range(N_CASES)], [[answer_to(n)] for n in range(N_CASES)], kind, repeats=repeats)


def learned_of(*sparse, embeddings=None):
    return Learned(embeddings, sparse)


def test_a_part_that_knows_the_answers_beats_noise_and_takes_all_the_weight():
    told = []
    learned = learned_of(ignorant("noise"), knowing("knower", range(N_CASES)))
    found = find_settings(learned, [usual_cases(), usual_cases("cart")], None, told.append)
    assert found.settings == {"knower": Setting(BOTH, OFF)}
    assert found.metrics == {kind: {"noise": 0.0, "knower": 1.0, "blend": 1.0} for kind in ("user", "cart")}
    assert told == [
        f"{kind}s: weights knower 1: ndcg@20 1.0000 (alone: noise 0.0000, knower 1.0000)" for kind in ("user", "cart")
    ]


def test_a_useless_part_is_left_out_also_where_the_best_one_is_not_perfect():
    learned = learned_of(knowing("knower", range(0, N_CASES, 2)), ignorant("noise"))
    found = find_settings(learned, [usual_cases()], None)
    assert found.settings == {"knower": Setting(BOTH, OFF)}
    assert found.metrics["user"]["blend"] == 0.5


def test_parts_that_know_different_answers_both_count_whatever_the_size_of_their_scores():
    even, odd = knowing("even", range(0, N_CASES, 2)), knowing("odd", range(1, N_CASES, 2), weight=1000.0)
    found = find_settings(learned_of(ignorant("noise"), even, odd), [usual_cases()], None)
    assert found.settings.keys() == {"even", "odd"}
    assert found.metrics["user"] == {"noise": 0.0, "even": 0.5, "odd": 0.5, "blend": 1.0}


def test_weights_put_right_what_a_part_gets_wrong():
    # `loud` has every answer, below a wrong item; `right` knows half of the answers, with small scores.
    loud = part_of("loud", {n: {answer_to(n): 2.0, 60 + (answer_to(n) - 59) % 60: 3.0} for n in range(N_CASES)})
    right = knowing("right", range(0, N_CASES, 2), weight=0.001)
    found = find_settings(learned_of(loud, right), [usual_cases()], None)
    second = 1 / np.log2(3)
    assert found.settings["loud"].weight.user == 1
    assert found.settings["right"].weight.user * 0.001 > 1
    assert found.metrics["user"] == pytest.approx({"loud": second, "right": 0.5, "blend": (1 + second) / 2})


def test_what_a_part_adds_by_chance_in_a_single_case_is_not_enough():
    # One case of sixty: a gain of 1/60, and a standard error of as much.
    learned = learned_of(knowing("most", range(1, N_CASES)), knowing("one", [0]))
    assert find_settings(learned, [usual_cases()], None).settings.keys() == {"most"}
    learned = learned_of(knowing("most", range(2, N_CASES)), knowing("two", [0, 1]))
    assert find_settings(learned, [usual_cases()], None).settings.keys() == {"most", "two"}


def test_vectors_are_weighed_beside_sparse_parts():
    generator = np.random.default_rng(0)
    items = generator.normal(size=(N_ITEMS, 16)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    users = np.zeros((N_CASES + 5, 16), dtype=np.float32)
    rows = np.arange(N_CASES, dtype=np.int32) + 5  # the case's number is not the user's row
    for number in range(0, N_CASES, 2):
        users[rows[number]] = items[answer_to(number)]
    embeddings = Embeddings(users, items, np.square(items).sum(axis=0), 0.1, AlsOptions(factors=16), ())
    cases = replace(usual_cases(), users=rows)
    learned = learned_of(knowing("odd", range(1, N_CASES, 2)), ignorant("noise"), embeddings=embeddings)
    found = find_settings(learned, [cases], None)
    assert found.settings.keys() == {DENSE_NAME, "odd"}
    assert found.metrics["user"] == {DENSE_NAME: 0.5, "odd": 0.5, "noise": 0.0, "blend": 1.0}
    without_users = find_settings(learned_of(embeddings=embeddings), [usual_cases()], None)
    assert without_users.metrics["user"] != {DENSE_NAME: 0.5, "blend": 0.5}  # then the evidence is folded in


def forgetful_cases(kind, *, ordered):
    """The item of the case is the newest of four; that the others' answers are other ones is what makes it hard."""
    generator = np.random.default_rng(2)
    shown = []
    for number in range(N_CASES):
        others = generator.choice(np.delete(np.arange(N_CASES), number), 3, replace=False).tolist()
        ages = zip([number, *others], range(4) if ordered else [0] * 4, strict=True)
        shown.append(dict(ages))
    return cases_with(shown, [[answer_to(number)] for number in range(N_CASES)], kind)


def test_a_part_forgets_where_only_the_newest_item_tells_and_each_kind_by_itself():
    learned = learned_of(knowing("knower", range(N_CASES)))
    cases = [forgetful_cases("user", ordered=True), forgetful_cases("cart", ordered=False)]
    found = find_settings(learned, cases, None)
    # The least that parts them does: equally good ones fall to it.
    assert found.settings == {"knower": Setting(BOTH, ByKind(0.35, 0.0))}
    assert found.metrics["user"]["knower"] == 1.0
    assert found.metrics["cart"]["knower"] == pytest.approx(1 / np.log2(5))


def test_a_kind_without_cases_is_answered_as_the_other_one_is():
    learned = learned_of(knowing("even", range(0, N_CASES, 2)), knowing("odd", range(1, N_CASES, 2)))
    for kind in ("user", "cart"):
        found = find_settings(learned, [usual_cases(kind)], None)
        assert found.settings.keys() == {"even", "odd"}
        for setting in found.settings.values():
            assert setting.weight.user == setting.weight.cart > 0
        forgetful = find_settings(learned_of(*learned.sparse), [forgetful_cases(kind, ordered=True)], None)
        assert [set(each.recency) for each in forgetful.settings.values()] == [{0.35}, {0.35}]


def repeated_cases(share, users=None):
    """Half of the users, or another share, take again what they have, the others what the cases say."""
    n_again = int(share * N_CASES)
    hidden = [[n] if n < n_again else [answer_to(n)] for n in range(N_CASES)]
    return cases_with([{n: 0} for n in range(N_CASES)], hidden, repeats=True, users=users)


def test_what_repeats_is_weighed_by_repeats_alone_and_leaves_the_others_as_they_are():
    learned = learned_of(knowing("even", range(0, N_CASES, 2)), knowing("odd", range(1, N_CASES, 2)), repeating())
    cases = [usual_cases(), usual_cases("cart")]
    without, told = find_settings(learned, cases, None), []
    found = find_settings(learned, cases, repeated_cases(0.5), told.append)
    assert "repeat" not in without.settings
    repeat = found.settings["repeat"]
    assert {name: each for name, each in found.settings.items() if name != "repeat"} == dict(without.settings)
    assert repeat.weight.user > 0
    assert repeat.weight.cart == 0
    assert found.metrics["repeats"]["repeat"] == 0.5
    assert found.metrics["repeats"]["blend"] > 0.8
    assert told[-1].startswith("repeats: weights even ")
    available = np.ones(N_ITEMS, dtype=bool)
    queries = []
    for settings in (without.settings, found.settings):
        recommender = Recommender(None, with_settings(learned, settings).sparse, available)
        queries += [(recommender, recommender.query(each, "user")) for each in cases[0].evidence]
    for number in range(N_CASES):
        own = np.array([number], dtype=np.int32)
        (one, query), (other, again) = queries[number], queries[number + N_CASES]
        for mine, theirs in zip(one.scan(query, N_ITEMS, own), other.scan(again, N_ITEMS, own), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert other.scan(again, 2, np.empty(0, dtype=np.int32))[0].tolist() != one.scan(query, 2, own)[0].tolist()


def test_repeats_that_nobody_asks_for_are_left_out():
    learned = learned_of(knowing("knower", range(N_CASES)), repeating())
    found = find_settings(learned, [usual_cases()], usual_cases(repeats=True))
    assert found.settings.keys() == {"knower"}
    assert found.metrics["repeats"] == {"knower": 1.0, "repeat": 0.0, "blend": 1.0}


def test_a_useless_part_does_not_take_the_place_of_what_repeats():
    # `echo` knows who takes again what he has, and nothing new: it must not stand in for the part that is weighed.
    echo = part_of("echo", {item: {item: 1.0} for item in range(N_CASES // 2)})
    learned = learned_of(echo, knowing("knower", range(N_CASES)), repeating())
    found = find_settings(learned, [usual_cases()], repeated_cases(0.5))
    alone = find_settings(learned_of(*learned.sparse[1:]), [usual_cases()], repeated_cases(0.5))
    assert found.settings == alone.settings
    assert found.settings.keys() == {"knower", "repeat"}
    assert found.metrics["repeats"]["blend"] == alone.metrics["repeats"]["blend"]


def test_repeats_are_weighed_beside_what_answers_users_where_only_carts_had_cases():
    learned = learned_of(knowing("knower", range(N_CASES), weight=1000.0), repeating())
    found = find_settings(learned, [usual_cases("cart")], repeated_cases(0.75))
    with_users = find_settings(learned, [usual_cases("cart"), usual_cases()], repeated_cases(0.75))
    assert found.settings["knower"] == Setting(BOTH, OFF)
    assert found.settings["repeat"].weight.user == with_users.settings["repeat"].weight.user > 1


def test_the_same_cases_give_the_same_settings():
    learned = learned_of(*(made_part(f"part {n}", N_ITEMS, seed=n) for n in range(3)), repeating())
    cases = [forgetful_cases("user", ordered=True), forgetful_cases("cart", ordered=True)]
    first, again = (find_settings(learned, cases, repeated_cases(0.3)) for _ in range(2))
    assert first == again


def random_table(seed, n_relevant_beyond=0):
    """A table over parts of scores that are no round numbers, all above 0, and the cases."""
    generator = np.random.default_rng(seed)
    parts = []
    for number in range(3):
        rows = {
            item: dict(zip(range(N_ITEMS), generator.uniform(0.1, 1, N_ITEMS).tolist(), strict=True))
            for item in range(60)
        }
        parts.append(part_of(f"part {number}", rows))
    shown = [dict.fromkeys(generator.choice(60, 4, replace=False).tolist(), 0) for _ in range(25)]
    hidden = [
        np.setdiff1d(generator.choice(N_ITEMS, int(generator.integers(4, 40)), replace=False), list(items)).tolist()
        for items in shown
    ]
    cases = cases_with(shown, hidden)
    counted = replace(cases.held_out, n_relevant=cases.held_out.n_relevant + n_relevant_beyond)
    cases = replace(cases, held_out=counted)
    available = np.ones(N_ITEMS, dtype=bool)
    asked = {part.name: Recommender(None, [part], available) for part in parts}
    return _Table.of(asked, cases), cases, parts


@pytest.mark.parametrize("beyond", [0, 3])
def test_the_metric_is_the_textbooks_over_everything_that_parts_find(beyond):
    table, cases, parts = random_table(1, beyond)
    for weights in ({"part 0": 1.0}, {"part 0": 0.3, "part 2": 2.0}, {"part 0": 1.0, "part 1": 1.0, "part 2": 1.0}):
        found = table.ndcg(weights)
        for number, evidence in enumerate(cases.evidence):
            scores = np.zeros(N_ITEMS)
            for part in parts:
                for item in evidence.rows.tolist():
                    scores += weights.get(part.name, 0.0) * part.memory.weights_of(
                        item, np.arange(N_ITEMS, dtype=np.int32)
                    )
            ranking = [item for item in np.argsort(-scores).tolist() if item not in evidence.rows]
            relevant = [*cases.held_out.items[number].tolist(), *(f"unknown {n}" for n in range(beyond))]
            assert found[number] == pytest.approx(reference.metrics(ranking, relevant, 20)["ndcg"], abs=1e-6)
    assert len(np.unique(found)) > 10


def test_what_ties_with_an_answer_is_placed_above_it():
    part = part_of("ties", {0: {70: 1.0, 71: 1.0, 72: 2.0, 73: 1.0}})
    cases = cases_with([{0: 0}, {0: 0}, {1: 0}], [[70], [72], [70]])
    table = _Table.of({"ties": Recommender(None, [part], np.ones(N_ITEMS, dtype=bool))}, cases)
    np.testing.assert_allclose(table.ndcg({"ties": 1.0}), [1 / np.log2(5), 1.0, 0.0])
    assert table.scales() == {"ties": pytest.approx(np.sqrt((3 + 4) * 2 / 8))}


def test_answers_beyond_the_twentieth_place_are_worth_nothing():
    part = part_of("long", {0: {60 + place: 100.0 - place for place in range(30)}})
    cases = cases_with([{0: 0}] * 3, [[79], [80], [60, 80]])
    table = _Table.of({"long": Recommender(None, [part], np.ones(N_ITEMS, dtype=bool))}, cases)
    np.testing.assert_allclose(table.ndcg({"long": 1.0}), [1 / np.log2(21), 0.0, 1 / (1 + 1 / np.log2(3))])


def test_settings_are_put_into_the_parts_and_what_has_none_is_left_out():
    embeddings = Embeddings(*(np.ones((3, 2), dtype=np.float32),) * 2, np.ones(2), 0.1, AlsOptions(factors=2), (1.0,))
    learned = learned_of(knowing("a", [0]), knowing("b", [1]), embeddings=embeddings)
    setting = Setting(ByKind(2, 3), ByKind(0.5, 0))
    sparse_only = with_settings(learned, {"b": setting})
    assert sparse_only.embeddings is None
    (part,) = sparse_only.sparse
    assert (part.name, part.weight, part.encoder.recency, part.encoder.newest) == ("b", *vars(setting).values(), 200)
    assert part.memory is learned.sparse[1].memory
    both = with_settings(learned, {DENSE_NAME: setting, "a": setting})
    assert both.embeddings is embeddings
    assert (both.dense_weight, [each.name for each in both.sparse]) == (ByKind(2, 3), ["a"])


def test_parts_that_count_alike_have_scores_of_one_size():
    cases = usual_cases()
    everyone = range(len(cases.evidence))
    loud, quiet = knowing("loud", everyone, weight=8.0), knowing("quiet", everyone, weight=0.5)
    settings = equal_settings(learned_of(loud, quiet), cases)
    assert settings["quiet"].weight.user == pytest.approx(16 * settings["loud"].weight.user)
    assert all(each.weight.user == each.weight.cart and each.recency == OFF for each in settings.values())
