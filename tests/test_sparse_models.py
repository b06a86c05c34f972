"""Parts learned from made interactions: what each answers, which options reach it, the same bits for any threads."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from made_cases import made
from made_contexts import contexts_from
from made_interactions import interactions_of, random_matrix

from engine.encoders import BagEncoder
from engine.errors import UsageError
from engine.evidence import Evidence
from engine.kinds import ByKind
from engine.recommender import Recommender
from engine.session_encoder import SessionEncoder
from trainer.contexts import is_ordered
from trainer.interactions import Baskets
from trainer.learned import BOTH
from trainer.model_options import NEIGHBOURS, PARTS_OF, REGRESSION, REPEAT, SESSIONS, ModelOptions
from trainer.sparse_models import NEWEST, learn_parts

EVERY = (REGRESSION, NEIGHBOURS, SESSIONS, REPEAT)
N_ITEMS, GROUP = 24, 4
DAY = 86_400.0


def baskets_from(listed, *, seconds=None):
    """Baskets of lists of items, which came at once, or of {item: place}."""
    rows = [sorted(each.items() if isinstance(each, dict) else [(item, 0) for item in each]) for each in listed]
    return Baskets(
        indptr=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        indices=np.array([item for each in rows for item, _ in each], dtype=np.int32),
        user_rows=np.zeros(len(rows), dtype=np.int32),
        seconds=np.full(len(rows), np.nan) if seconds is None else np.array(seconds, dtype=np.float64),
        places=np.array([place for each in rows for _, place in each], dtype=np.int32),
    )


def grouped(*, as_baskets):
    """Items 0 to 3 go together, 4 to 7, and so on: 40 contexts of three of a group."""
    generator = np.random.default_rng(0)
    groups = [np.arange(N_ITEMS).reshape(-1, GROUP)[n % (N_ITEMS // GROUP)] for n in range(40)]
    taken = [sorted(generator.choice(group, 3, replace=False).tolist()) for group in groups]
    if not as_baskets:
        return made([dict.fromkeys(items, 1.0) for items in taken], n_items=N_ITEMS)
    found = made([dict.fromkeys(range(N_ITEMS), 1.0)], n_items=N_ITEMS)
    return replace(found, baskets=baskets_from(taken))


def only(interactions, name, neighbours=100, **options):
    (part,) = learn_parts(interactions, ModelOptions(**options), {name: neighbours}, 1)
    return part


def rows_of(part):
    """The memory as {row: {item: weight}}."""
    memory = part.memory
    pairs = ((row, *memory.row(row)) for row in range(memory.n_rows))
    return {row: dict(zip(items.tolist(), weights.tolist(), strict=True)) for row, items, weights in pairs}


def scored(part, items):
    """{item: score} of what is answered to items, those themselves left out."""
    rows = np.array(sorted(items), dtype=np.int32)
    recommender = Recommender(None, [part], np.ones(N_ITEMS, dtype=bool))
    query = recommender.query(Evidence.of_rows(rows), "cart")
    found, scores = recommender.search([query], N_ITEMS, [rows], None)[0]
    return dict(zip(found.tolist(), scores.tolist(), strict=True))


@pytest.mark.parametrize("as_baskets", [True, False])
@pytest.mark.parametrize("name", [NEIGHBOURS, REGRESSION, SESSIONS])
def test_every_part_answers_with_what_goes_together(name, as_baskets):
    part = only(grouped(as_baskets=as_baskets), name)
    for first in range(0, N_ITEMS, GROUP):
        group = set(range(first, first + GROUP))
        best = {item for item, score in scored(part, [first, first + 1]).items() if score > 0}
        assert best == group - {first, first + 1}


def test_what_is_taken_again_is_each_item_itself():
    part = only(grouped(as_baskets=True), REPEAT)
    assert rows_of(part) == {item: {item: 1.0} for item in range(N_ITEMS)}
    assert set(scored(part, [3, 5]).values()) == {0.0}


def test_parts_are_those_asked_for_in_one_order_and_count_alike():
    interactions = grouped(as_baskets=True)
    for names in (EVERY, EVERY[::-1], (SESSIONS, NEIGHBOURS), (REPEAT,), ()):
        parts = learn_parts(interactions, ModelOptions(), dict.fromkeys(names, 100), 1)
        assert [part.name for part in parts] == [name for name in EVERY if name in names]
        for part in parts:
            assert (part.weight, part.encoder.recency, part.encoder.newest) == (BOTH, ByKind(0, 0), NEWEST)
            assert isinstance(part.encoder, SessionEncoder if part.name == SESSIONS else BagEncoder)
    assert set(EVERY) == set().union(*PARTS_OF.values()) - {"als"}


def test_what_is_being_learned_is_told_with_what_it_is_learned_from():
    for as_baskets, word in ((True, "baskets"), (False, "histories")):
        told = []
        learn_parts(grouped(as_baskets=as_baskets), ModelOptions(), dict.fromkeys(EVERY, 100), 1, told.append)
        assert told == [
            "regression: foretelling each of 24 items from others",
            f"neighbours: counting pairs of 40 {word}",
            f"sessions: indexing 40 {word}",
        ]


@pytest.mark.parametrize(
    ("listed", "ordered"),
    [
        ([((0, 1), (0, 0)), ((2, 3), (0, 0))], False),
        ([((0, 1), (0, 1)), ((2, 3), (0, 0)), ((4, 5, 6), (0, 0, 3))], True),
        ([((0, 1), (0, 1)), ((2, 3), (0, 0))], False),  # half is not most
        ([((0, 1), (0, 1)), *[((item,), (0,)) for item in range(5)]], True),  # of one item says nothing
        ([((0,), (0,)), ((1,), (0,))], False),
        ([], False),
    ],
)
def test_contexts_have_an_order_where_most_of_them_have(listed, ordered):
    assert is_ordered(contexts_from([(*each, 1.0) for each in listed])) is ordered


def in_order():
    """Baskets in which item 0 is followed by 1, then 2."""
    found = made([dict.fromkeys(range(4), 1.0)], n_items=4)
    return replace(found, baskets=baskets_from([{0: 0, 1: 1, 2: 2}] * 5 + [{0: 0, 3: 1}]))


def test_neighbours_look_ahead_where_baskets_have_an_order():
    rows = rows_of(only(in_order(), NEIGHBOURS, backward_weight=0.0))
    assert rows[0].keys() == {1, 2, 3}
    assert rows[1].keys() == {2}
    assert rows[3] == {}
    assert only(in_order(), NEIGHBOURS).memory.row(2)[0].tolist() == [0, 1, 3]  # 3 in two steps, by 0
    near, far = (rows_of(only(in_order(), NEIGHBOURS, distance_damping=damping))[0] for damping in (0.0, 4.0))
    assert near[2] / near[1] > 3 * far[2] / far[1]


def test_without_an_order_neighbours_go_both_ways_and_no_further():
    unordered = replace(in_order(), baskets=baskets_from([[0, 1, 2]] * 5 + [[0, 3]]))
    rows = rows_of(only(unordered, NEIGHBOURS, backward_weight=0.0, distance_damping=8.0))
    assert {row: set(items) for row, items in rows.items()} == {0: {1, 2, 3}, 1: {0, 2}, 2: {0, 1}, 3: {0}}


def test_no_more_neighbours_are_kept_than_asked_for():
    generator = np.random.default_rng(1)
    interactions = interactions_of((generator.random((60, N_ITEMS)) < 0.4).astype(float))
    for name in (NEIGHBOURS, REGRESSION):
        for most in (1, 5):
            part = only(interactions, name, neighbours=most)
            assert np.diff(part.memory.indptr).max() == most
    few, many = (rows_of(only(interactions, REGRESSION, predictors=n)) for n in (1, 20))
    n_sources = [sum(item in row for row in rows.values()) for rows in (few, many) for item in range(N_ITEMS)]
    assert max(n_sources[:N_ITEMS]) <= 1 < max(n_sources[N_ITEMS:])


def test_a_larger_penalty_leaves_less_of_a_regression():
    sums = [
        np.abs(only(grouped(as_baskets=True), REGRESSION, penalty=penalty).memory.weights).sum()
        for penalty in (0.1, 1.0, 100.0)
    ]
    assert sums[0] > 2 * sums[1] > 20 * sums[2] > 0


def test_as_many_sessions_answer_as_are_asked_for():
    interactions = grouped(as_baskets=True)
    evidence = Evidence.of_rows(np.array([0, 1], dtype=np.int32))
    for nearest in (1, 3):
        part = only(interactions, SESSIONS, nearest_sessions=nearest)
        assert part.encoder.nearest == nearest
        assert len(part.bag(evidence, "cart").rows) == nearest


def factors_of(interactions, **options):
    """What each session counts, oldest first."""
    return only(interactions, SESSIONS, **options).encoder.postings.factors.tolist()


def test_large_baskets_count_less_but_where_they_have_an_order():
    unordered = replace(in_order(), baskets=baskets_from([[0, 1, 2, 3], [0, 1]]))
    ordered = replace(in_order(), baskets=baskets_from([{0: 0, 1: 1, 2: 2, 3: 3}, {0: 0, 1: 1}]))
    assert factors_of(unordered) == pytest.approx([4**-0.5, 2**-0.5])
    assert factors_of(ordered) == [1, 1]
    for each in (unordered, ordered):
        assert factors_of(each, size_damping=1.0) == pytest.approx([1 / 4, 1 / 2])
        assert factors_of(each, size_damping=0.0) == [1, 1]


def test_old_baskets_count_less_with_a_half_life_which_needs_times():
    timed = replace(in_order(), baskets=baskets_from([[0, 1], [0, 2], [1, 2]], seconds=[30 * DAY, 0.0, 20 * DAY]))
    settings = {"context_half_life_days": 10.0, "size_damping": 0.0}
    assert factors_of(timed, **settings) == pytest.approx([1 / 8, 1 / 2, 1])
    assert factors_of(timed, size_damping=0.0) == [1, 1, 1]
    for name in (NEIGHBOURS, REGRESSION, SESSIONS):
        with pytest.raises(UsageError, match=r"a half-life needs times.*--timestamp-column"):
            only(in_order(), name, context_half_life_days=10.0)
    assert only(in_order(), REPEAT, context_half_life_days=10.0).memory.n_rows == 4


def test_histories_count_beside_baskets_as_much_as_they_are_told_to():
    # Items 0 and 1 are in baskets together; that 2 goes with 0 is known from histories alone.
    both = replace(made([{0: 1.0, 2: 1.0}] * 3, n_items=4), baskets=baskets_from([[0, 1]] * 3))
    assert rows_of(only(both, NEIGHBOURS))[0].keys() == {1}
    little, much = (rows_of(only(both, NEIGHBOURS, history_weight=weight))[0] for weight in (0.1, 2.0))
    assert little.keys() == much.keys() == {1, 2}
    assert little[2] < little[1]
    assert much[2] > much[1]


def test_the_bits_are_the_same_for_any_number_of_threads():
    interactions = interactions_of(random_matrix(400, 150, seed=3, density=0.08, negative=0.1))
    one = learn_parts(interactions, ModelOptions(), dict.fromkeys(EVERY, 10), 1)
    assert [part.memory.n_entries > 140 for part in one] == [True] * len(EVERY)
    for threads in (2, 3):
        for mine, theirs in zip(
            one, learn_parts(interactions, ModelOptions(), dict.fromkeys(EVERY, 10), threads), strict=True
        ):
            for name, array in mine.memory.arrays().items():
                np.testing.assert_array_equal(array, theirs.memory.arrays()[name])


def test_histories_are_the_contexts_where_they_are_asked_for():
    both = replace(made([{0: 1.0, 2: 1.0}] * 3, n_items=4), baskets=baskets_from([[0, 1]] * 3))
    for name in (NEIGHBOURS, REGRESSION):
        assert rows_of(only(both, name))[0].keys() == {1}
        assert rows_of(only(both, name, contexts="histories"))[0].keys() == {2}
    assert rows_of(only(both, SESSIONS, contexts="histories"))[0].keys() == {0, 2}
    with pytest.raises(UsageError, match="found no basket of two items or more"):
        only(made([{0: 1.0, 2: 1.0}], n_items=4), NEIGHBOURS, contexts="baskets")


@pytest.mark.parametrize("similarity", ["cosine", "confidence", "lift"])
def test_a_similarity_that_is_asked_for_is_that_of_its_exponents(similarity):
    interactions = grouped(as_baskets=True)
    rows = rows_of(only(interactions, NEIGHBOURS, similarity=similarity, size_damping=0.0))
    sets = [set(basket) for basket in listed_baskets(interactions)]
    held = {item: sum(item in each for each in sets) for item in range(N_ITEMS)}
    alpha, beta = {"cosine": (0.5, 0.5), "confidence": (1, 0), "lift": (1, 1)}[similarity]
    for item, found in rows.items():
        for other, weight in found.items():
            both = sum({item, other} <= each for each in sets)
            assert weight == pytest.approx(both / (held[item] ** alpha * held[other] ** beta) * both / (both + 10))


def test_bm25_is_the_product_of_the_weights_that_two_items_have_in_each_basket():
    sizes = [[0, 1], [0, 1, 2], [0, 3], [1, 2, 3, 4, 5], [0, 1, 4]]
    interactions = replace(made([dict.fromkeys(range(6), 1.0)], n_items=6), baskets=baskets_from(sizes))
    rows = rows_of(only(interactions, NEIGHBOURS, similarity="bm25"))
    mean = np.mean([len(each) for each in sizes])
    matrix = np.zeros((len(sizes), 6))
    for number, basket in enumerate(sizes):
        matrix[number, basket] = 2.2 / (1 + 1.2 * (0.25 + 0.75 * len(basket) / mean))
    matrix *= np.log1p(len(sizes) / (matrix > 0).sum(axis=0))
    expected = matrix.T @ matrix
    for item, found in rows.items():
        others = {other for other in range(6) if other != item and expected[item, other] > 0}
        assert found.keys() == others
        for other, weight in found.items():
            assert weight == pytest.approx(expected[item, other], rel=1e-5)


def listed_baskets(interactions):
    baskets = interactions.baskets
    return [baskets.indices[a:b].tolist() for a, b in itertools.pairwise(baskets.indptr.tolist())]


def test_the_penalty_is_larger_for_histories_where_none_is_given():
    for as_baskets, penalty in ((True, 1.0), (False, 3.0)):
        given = rows_of(only(grouped(as_baskets=as_baskets), REGRESSION, penalty=penalty))
        assert rows_of(only(grouped(as_baskets=as_baskets), REGRESSION)) == given
