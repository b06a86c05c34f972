"""Every answer of a snapshot against brute force in float64 over the arrays that the release was made of."""

from __future__ import annotations

import dataclasses
import math
from collections import namedtuple

import made_filters
import numpy as np
import pytest
import reference
import reference_filters
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_release import COPIES, DISLIKES_USER, ENCODER, EVERYTHING_USER, SOLD_OUT_ROWS, ZERO_ROW, publish, small_shop

from engine import restrictions
from engine.encoders import RidgeEncoder
from engine.errors import InvalidQuery, ReleaseCorrupt, UnknownItem, UnknownUser
from engine.filters import All, AnyOf, Exists, Not, Range
from engine.ids import IdTable
from engine.parts import DensePart
from engine.plan import IndexPlan
from engine.queries import CartQuery, Repeat, SimilarQuery, Source, UserQuery
from engine.release import Release
from engine.repository import Repository
from engine.retrieval import Snapshot

Served = namedtuple("Served", "shop snapshot exact tolerance", defaults=[2e-5])
"""With packed vectors the shop has those that stand in the release, and the twin's are theirs within the tolerance, in
units of the largest score."""
PACKED = {"searched exactly, in int16": ("int16", 5e-4), "searched exactly, in int8": ("int8", 5e-2)}
Expected = namedtuple("Expected", "source vector excluded only unknown")
"""What a query comes to: a float64 vector (None: popularity) and sets of rows (only, None: all)."""


@pytest.fixture(params=[0, 5, 1_000], ids=lambda few: f"lists of up to {few} rows")
def few(request, monkeypatch):
    """How long a list may be before it becomes a mask."""
    monkeypatch.setattr(restrictions, "FEW_ALLOWED", request.param)
    monkeypatch.setattr(restrictions, "FEW_DENIED", request.param)


@pytest.fixture(scope="module", params=["small, scanned", "searched exactly", "searched in a graph", *PACKED])
def served(request, shop, snapshot, tmp_path_factory):
    if request.param == "small, scanned":
        return Served(shop, snapshot, exact=True)
    exact = request.param == "searched exactly"
    large = small_shop(n_items=700, seed=2)
    repository = Repository(tmp_path_factory.mktemp("large"))
    if request.param in PACKED:
        vector_format, tolerance = PACKED[request.param]
        publish(repository, large, vectors=vector_format)
        release = Release(repository.current_path())
        part = DensePart.of(release.manifest)
        encoder, user_vectors = part.encoder(release), part.user_vectors(release)[:]
        large = dataclasses.replace(
            large, item_vectors=encoder.item_vectors[:], spectrum=encoder.spectrum, user_vectors=user_vectors
        )
        return Served(large, Snapshot.open(repository.current_path()), True, tolerance)
    publish(repository, large, plan=IndexPlan("Flat") if exact else IndexPlan("HNSW32", "efSearch=64"))
    return Served(large, Snapshot.open(repository.current_path()), exact)


# The twin.


def history_of(shop, user_id):
    """{row: value}, empty for a user who is unknown."""
    if user_id not in shop.user_ids:
        return {}
    user = shop.user_ids.index(user_id)
    entries = slice(shop.indptr[user], shop.indptr[user + 1])
    return dict(zip(shop.indices[entries].tolist(), shop.values[entries].tolist(), strict=True))


def known_rows(shop, item_ids):
    rows = {item_id: row for row, item_id in enumerate(shop.item_ids)}
    return {rows[item_id] for item_id in item_ids if item_id in rows}


def unknown_ids(shop, item_ids):
    return tuple(dict.fromkeys(item_id for item_id in item_ids if item_id not in shop.item_ids))


def fold_in(shop, entries):
    """The user vector of {row: value} by the normal equations."""
    n_items = len(shop.item_ids)
    rows = sorted(entries)
    weights, targets = reference.dense([0, len(rows)], rows, [entries[row] for row in rows], n_items)
    a0, regularization, nu = ENCODER.values()
    penalty = reference.row_penalty(len(rows), a0, regularization, nu, n_items)
    return reference.solve_row(weights[0], targets[0], shop.item_vectors, a0, penalty)


def liked(entries):
    return {row for row, value in entries.items() if value > 0}


def for_user(shop, query):
    entries, recent = history_of(shop, query.user_id), known_rows(shop, query.recent_item_ids)
    unknown = unknown_ids(shop, query.recent_item_ids)
    excluded = known_rows(shop, query.exclude_item_ids)
    known = query.user_id in shop.user_ids
    entries |= {row: max(entries.get(row, 0), 1) for row in recent}
    only = liked(entries) if query.repeat is Repeat.ONLY else None
    if query.repeat is Repeat.NEVER:
        excluded |= set(entries)
    if liked(entries):
        return Expected(Source.PERSONAL, fold_in(shop, entries), excluded, only, unknown)
    return UnknownUser if query.strict and not known else Expected(Source.POPULAR, None, excluded, only, unknown)


def weights_of(shop, query, cart, entries):
    """{row: weight} of a cart, by the sums of its quantities, beside what the history counts."""
    weights = dict.fromkeys(cart, 1.0)
    if query.quantities:
        sums = dict.fromkeys(cart, 0)
        for item_id, quantity in zip(query.item_ids, query.quantities, strict=True):
            if item_id in shop.item_ids:
                sums[shop.item_ids.index(item_id)] += quantity
        weights = {row: 1 + math.log(quantity) for row, quantity in sums.items()}
    history = {row: value * query.history_weight for row, value in entries.items()} if query.history_weight else {}
    return history | {row: max(weight, history.get(row, 0)) for row, weight in weights.items()}


def for_cart(shop, query):
    entries, cart = history_of(shop, query.user_id), known_rows(shop, query.item_ids)
    if query.user_id is None and query.repeat is Repeat.ONLY:
        return InvalidQuery
    if query.strict and query.user_id is not None and query.user_id not in shop.user_ids:
        return UnknownUser
    if query.strict and not cart:
        return UnknownItem
    unknown = unknown_ids(shop, query.item_ids)
    excluded = known_rows(shop, query.exclude_item_ids) | cart
    only = liked(entries) if query.repeat is Repeat.ONLY else None
    if query.repeat is Repeat.NEVER:
        excluded |= set(entries)
    if cart:
        return Expected(Source.CART, fold_in(shop, weights_of(shop, query, cart, entries)), excluded, only, unknown)
    if liked(entries):
        return Expected(Source.PERSONAL, fold_in(shop, entries), excluded, only, unknown)
    return Expected(Source.POPULAR, None, excluded, only, unknown)


def check(served, query, answer, expected):
    """The answer has the expected source and unknown ids, and is the best there is of what is allowed."""
    shop = served.shop
    n_items = len(shop.item_ids)
    counts = np.bincount(shop.indices, minlength=n_items).astype(np.float64)
    truth = counts if expected.vector is None else shop.item_vectors.astype(np.float64) @ expected.vector
    tolerance = served.tolerance * np.abs(truth).max() + 1e-9
    allowed = set(np.flatnonzero(shop.available).tolist()) - expected.excluded
    if expected.only is not None:
        allowed &= expected.only
    if query.allowed_item_ids:
        allowed &= known_rows(shop, query.allowed_item_ids)
    if query.filter is not None:
        items = reference_filters.items(shop.attributes, n_items)
        allowed = {row for row in allowed if reference_filters.meets(items[row], query.filter)}
    rows = [shop.item_ids.index(item_id) for item_id in answer.item_ids]

    assert answer.source is expected.source
    assert answer.unknown_item_ids == expected.unknown
    assert len(rows) == len(answer.scores) == min(query.limit, len(allowed))
    assert len(set(rows)) == len(rows)
    assert set(rows) <= allowed
    assert answer.scores.dtype == np.float32
    np.testing.assert_allclose(answer.scores, truth[rows], rtol=0, atol=tolerance)
    places = list(zip((-answer.scores).tolist(), rows, strict=True))
    assert places == sorted(places)
    left = allowed - set(rows)
    if left and rows and (served.exact or expected.vector is None or expected.only is not None):
        assert max(truth[row] for row in left) <= truth[rows].min() + tolerance
        # What has the same vector (or count) has the same score, so only larger rows of its kind may be left out.
        kind = [
            float(count) if expected.vector is None else v.tobytes()
            for count, v in zip(counts, shop.item_vectors, strict=True)
        ]
        assert all(row > rows[-1] for row in left if kind[row] == kind[rows[-1]])


def answer_to(snapshot, query):
    if isinstance(query, UserQuery):
        return snapshot.recommend_for_users([query])[0]
    return snapshot.recommend_for_carts([query])[0]


def ask(served, query):
    """Ask, and check against the twin; returns the answer, or None where both refuse."""
    twin = for_user if isinstance(query, UserQuery) else for_cart
    expected = twin(served.shop, query)
    if isinstance(expected, type):
        with pytest.raises(expected):
            answer_to(served.snapshot, query)
        return None
    answer = answer_to(served.snapshot, query)
    check(served, query, answer, expected)
    return answer


# Any query.

N_USERS, N_ITEMS = 40, 60
users = st.one_of(st.integers(0, N_USERS - 1).map(lambda n: f"u{n}"), st.sampled_from(["nobody", "", "U1"]))
items = st.one_of(st.integers(0, N_ITEMS - 1).map(lambda n: f"i{n:02}"), st.sampled_from(["gone", "", "i"]))
limits = st.one_of(st.integers(1, 30), st.just(1000))
excludes = st.one_of(
    st.lists(items, max_size=8),
    st.just([f"i{n:02}" for n in range(N_ITEMS)]),
    st.just([f"i{n:02}" for n in range(3, 2000)]),
)
repeats = st.sampled_from(Repeat)
restricted = {
    "filter": st.none() | made_filters.filters,
    "allowed_item_ids": st.just(()) | st.lists(items, max_size=8) | st.just([f"i{n:02}" for n in range(7, 500)]),
}

user_queries = st.builds(
    UserQuery,
    users,
    limits,
    excludes,
    recent_item_ids=st.lists(items, max_size=6),
    repeat=repeats,
    strict=st.booleans(),
    **restricted,
)
cart_queries = st.lists(st.tuples(items, st.integers(1, 9)), max_size=12).flatmap(
    lambda cart: st.builds(
        CartQuery,
        st.just([item_id for item_id, _ in cart]),
        st.none() | users,
        limits,
        excludes,
        repeat=repeats,
        strict=st.booleans(),
        quantities=st.just(()) | st.just([quantity for _, quantity in cart]),
        history_weight=st.sampled_from([0.0, 0.3, 1.0]),
        **restricted,
    )
)


@settings(max_examples=100, deadline=None)
@given(user_queries)
def test_any_user_query_is_answered_as_by_brute_force(served, query):
    ask(served, query)


@settings(max_examples=100, deadline=None)
@given(cart_queries)
def test_any_cart_query_is_answered_as_by_brute_force(served, query):
    answer = ask(served, query)
    assert answer is None or not set(answer.item_ids) & set(query.item_ids)


@settings(max_examples=60, deadline=None)
@given(items, limits, excludes, st.fixed_dictionaries(restricted))
def test_items_like_one_are_the_answer_to_a_cart_of_it(served, item_id, limit, exclude, options):
    query = SimilarQuery(item_id, limit, exclude, **options)
    if item_id not in served.shop.item_ids:
        with pytest.raises(UnknownItem, match=repr(item_id)):
            served.snapshot.similar_items(query)
    else:
        similar = served.snapshot.similar_items(query)
        cart = ask(served, CartQuery([item_id], limit=limit, exclude_item_ids=exclude, **options))
        assert similar.source is Source.SIMILAR
        assert item_id not in similar.item_ids
        assert similar.item_ids == cart.item_ids
        assert similar.scores.tobytes() == cart.scores.tobytes()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_batch_equals_its_singles_bit_for_bit(served, data):
    for queries, together in (
        (data.draw(st.lists(user_queries, max_size=8)), served.snapshot.recommend_for_users),
        (data.draw(st.lists(cart_queries, max_size=8)), served.snapshot.recommend_for_carts),
    ):
        twin = for_user if together == served.snapshot.recommend_for_users else for_cart
        answerable = [query for query in queries if not isinstance(twin(served.shop, query), type)]
        for query, answer in zip(answerable, together(answerable), strict=True):
            alone = answer_to(served.snapshot, query)
            assert answer.item_ids == alone.item_ids
            assert answer.scores.tobytes() == alone.scores.tobytes()
            assert (answer.source, answer.unknown_item_ids) == (alone.source, alone.unknown_item_ids)


# Known users and their stored vectors.


def test_every_stored_vector_is_the_fold_in_of_its_history(served):
    """To 1e-5 relative; the stored one is the float64 solution of the objective, or packed."""
    shop = served.shop
    encoder = RidgeEncoder(shop.item_vectors, shop.spectrum, **ENCODER)
    for user, stored in enumerate(shop.user_vectors):
        entries = slice(shop.indptr[user], shop.indptr[user + 1])
        folded = encoder.encode(shop.indices[entries], shop.values[entries])
        assert np.linalg.norm(folded - stored) <= served.tolerance / 2 * np.linalg.norm(stored)


def test_a_user_whose_recent_items_are_old_news_gets_the_same_answer(served):
    """The first half of the users weighs everything 1, so an item seen again changes nothing."""
    for user_id in served.shop.user_ids[:10]:
        seen = [served.shop.item_ids[row] for row in history_of(served.shop, user_id)]
        stored = ask(served, UserQuery(user_id, 20))
        folded = ask(served, UserQuery(user_id, 20, recent_item_ids=seen[:1]))
        stranger = ask(served, UserQuery("nobody", 20, recent_item_ids=seen))
        for other in (folded, stranger):
            assert other.source is Source.PERSONAL
            tolerance = served.tolerance / 2 * np.abs(stored.scores).max()
            np.testing.assert_allclose(other.scores, stored.scores, rtol=0, atol=tolerance)


def test_a_recent_item_that_weighs_more_in_the_history_keeps_its_weight(served):
    user_id, entries = next(
        (user_id, entries)
        for user_id in served.shop.user_ids
        if max((entries := history_of(served.shop, user_id)).values()) > 1 and len(entries) > 3
    )
    heaviest = served.shop.item_ids[max(entries, key=entries.get)]
    stored, folded = (ask(served, UserQuery(user_id, 20, recent_item_ids=recent)) for recent in ([], [heaviest]))
    tolerance = served.tolerance / 2 * np.abs(stored.scores).max()
    np.testing.assert_allclose(folded.scores, stored.scores, rtol=0, atol=tolerance)


def test_recent_items_change_a_known_users_answer_and_do_not_come_back(served):
    before = ask(served, UserQuery("u1", 10))
    after = ask(served, UserQuery("u1", 10, recent_item_ids=before.item_ids[:3]))
    assert not set(after.item_ids) & set(before.item_ids[:3])
    assert after.scores[0] != before.scores[0]


def test_a_recent_item_that_was_disliked_counts_as_liked_now(served):
    user_id, entries = next((u, e) for u in served.shop.user_ids if min((e := history_of(served.shop, u)).values()) < 0)
    disliked = served.shop.item_ids[min(entries, key=entries.get)]
    assert disliked not in ask(served, UserQuery(user_id, 1000, repeat=Repeat.ONLY)).item_ids
    row = served.shop.item_ids.index(disliked)
    again = ask(served, UserQuery(user_id, 1000, repeat=Repeat.ONLY, recent_item_ids=[disliked]))
    assert (disliked in again.item_ids) == served.shop.available[row]


# Repeat.


def test_seen_items_come_back_as_repeat_says(served):
    for user_id in served.shop.user_ids[:6]:
        seen = {served.shop.item_ids[row] for row in history_of(served.shop, user_id)}
        never, mixed, only = (ask(served, UserQuery(user_id, 10**6, repeat=repeat)) for repeat in Repeat)
        assert not set(never.item_ids) & seen
        assert set(mixed.item_ids) == set(never.item_ids) | set(only.item_ids)
        assert set(only.item_ids) <= seen


def test_never_is_the_default_for_users_and_mix_for_carts(served):
    seen = {served.shop.item_ids[row] for row in history_of(served.shop, "u1")}
    assert not set(ask(served, UserQuery("u1", 10**6)).item_ids) & seen
    available = {served.shop.item_ids[row] for row in np.flatnonzero(served.shop.available)}
    cart = sorted(available - seen)[:2]
    assert set(ask(served, CartQuery(cart, "u1", 10**6)).item_ids) == available - set(cart)


def test_an_item_of_the_cart_never_comes_back_even_where_only_seen_items_may(served):
    seen = [served.shop.item_ids[row] for row in history_of(served.shop, "u2")]
    for repeat in Repeat:
        answer = ask(served, CartQuery(seen[:2], "u2", 1000, repeat=repeat))
        assert not set(answer.item_ids) & set(seen[:2])


def test_a_user_who_has_everything_gets_nothing_new(served):
    assert ask(served, UserQuery(EVERYTHING_USER, 10)).item_ids == []
    assert len(ask(served, UserQuery(EVERYTHING_USER, 10, repeat=Repeat.MIX)).item_ids) == 10


def test_repeating_only_what_a_cart_without_user_has_is_refused_by_field(served):
    with pytest.raises(InvalidQuery) as refused:
        served.snapshot.recommend_for_carts([CartQuery(["i01"], repeat=Repeat.ONLY)])
    assert [each.field for each in refused.value.violations] == ["repeat"]


# Unknown users and items.


def test_an_unknown_user_gets_popular_items_with_counts_of_users_as_scores(served):
    answer = ask(served, UserQuery("nobody", 5))
    assert answer.source is Source.POPULAR
    buyers = np.bincount(served.shop.indices)[[served.shop.item_ids.index(item_id) for item_id in answer.item_ids]]
    assert answer.scores.tolist() == buyers.tolist()


def test_an_unknown_user_who_may_only_repeat_gets_nothing(served):
    assert ask(served, UserQuery("nobody", 5, repeat=Repeat.ONLY)).item_ids == []


def test_a_strict_query_for_an_unknown_user_is_refused_unless_a_recent_item_is_known(served):
    with pytest.raises(UnknownUser, match="'nobody'"):
        served.snapshot.recommend_for_users([UserQuery("nobody", strict=True, recent_item_ids=["gone"])])
    assert ask(served, UserQuery("nobody", strict=True, recent_item_ids=["gone", "i02"])).source is Source.PERSONAL


def test_a_strict_cart_is_refused_for_an_unknown_user_or_where_no_item_is_known(served):
    with pytest.raises(UnknownUser, match="'nobody'"):
        served.snapshot.recommend_for_carts([CartQuery(["i02"], "nobody", strict=True)])
    with pytest.raises(UnknownItem, match="none of the 2 items"):
        served.snapshot.recommend_for_carts([CartQuery(["gone", "lost"], "u1", strict=True)])
    assert ask(served, CartQuery(["gone", "i02"], strict=True)).source is Source.CART


def test_unknown_items_are_named_once_in_their_order_and_otherwise_ignored(served):
    answer = ask(served, CartQuery(["zz", "i02", "gone", "zz", "i02"], limit=7))
    assert answer.unknown_item_ids == ("zz", "gone")
    assert answer.item_ids == ask(served, CartQuery(["i02"], limit=7)).item_ids


def test_a_cart_of_unknown_items_falls_to_the_user_and_then_to_popularity(served):
    assert ask(served, CartQuery(["gone"], "u3")).source is Source.PERSONAL
    assert ask(served, CartQuery(["gone"], "nobody")).source is Source.POPULAR
    assert ask(served, CartQuery(["gone"])).source is Source.POPULAR
    assert ask(served, CartQuery([])).source is Source.POPULAR


def test_one_refused_query_refuses_its_batch(served):
    with pytest.raises(UnknownUser):
        served.snapshot.recommend_for_users([UserQuery("u1"), UserQuery("nobody", strict=True)])


def test_an_empty_batch_is_answered_with_nothing(served):
    assert served.snapshot.recommend_for_users([]) == []
    assert served.snapshot.recommend_for_carts([]) == []


# Exclusions, sold-out items, ties.


@pytest.mark.parametrize("left", [0, 1, 7, 20])
@pytest.mark.parametrize("query", [UserQuery("u1"), UserQuery("nobody"), CartQuery(["i02"]), CartQuery(["i02"], "u1")])
def test_exclude_lists_of_any_size_leave_exactly_the_rest(served, query, left):
    everything = ask(served, type(query)(**{**vars(query), "limit": 10**6})).item_ids
    excluded = [*everything[left:], "gone"]
    answer = ask(served, type(query)(**{**vars(query), "limit": 10, "exclude_item_ids": excluded}))
    assert len(answer.item_ids) == min(left, 10)
    assert set(answer.item_ids) <= set(everything[:left])


def test_sold_out_items_are_learned_from_and_never_shown(served):
    sold_out = {served.shop.item_ids[row] for row in SOLD_OUT_ROWS}
    for query in (
        UserQuery("nobody", 10**6),
        UserQuery("u1", 10**6, repeat=Repeat.MIX),
        CartQuery(["i02"], limit=10**6),
    ):
        assert not set(ask(served, query).item_ids) & sold_out
    assert ask(served, CartQuery(["i01"], limit=3)).source is Source.CART


def test_popular_items_are_found_behind_any_number_that_are_sold_out(tmp_path):
    shop = small_shop(n_items=400)
    least_popular = np.argsort(np.bincount(shop.indices, minlength=400), kind="stable")[:10]
    shop.available[:] = False
    shop.available[least_popular] = True
    repository = Repository(tmp_path)
    publish(repository, shop)
    served = Served(shop, Snapshot.open(repository.current_path()), exact=True)
    assert len(ask(served, UserQuery("nobody", 5)).item_ids) == 5
    assert len(ask(served, UserQuery("nobody", 11)).item_ids) == 10


def test_copies_of_an_item_score_the_same_and_stand_in_row_order(served):
    shop = served.shop
    answer = ask(served, CartQuery(["i02"], limit=10**6))
    places = {item_id: place for place, item_id in enumerate(answer.item_ids)}
    scores = dict(zip(answer.item_ids, answer.scores.tolist(), strict=True))
    pairs = [(shop.item_ids[source], shop.item_ids[row]) for row, source in COPIES]
    shown = [(first, second) for first, second in pairs if first in places and second in places]
    assert len(shown) >= 3
    for first, second in shown:
        assert scores[first] == scores[second]
        assert places[first] < places[second]


def test_a_tie_across_the_last_place_falls_to_the_smaller_row(served):
    """A cart of the item without a vector asks with the zero vector: every item scores 0, the smallest rows come."""
    allowed = set(np.flatnonzero(served.shop.available).tolist()) - {ZERO_ROW}
    answer = served.snapshot.recommend_for_carts([CartQuery([served.shop.item_ids[ZERO_ROW]], limit=5)])[0]
    assert answer.scores.tolist() == [0.0] * 5
    if served.exact:
        assert answer.item_ids == [served.shop.item_ids[row] for row in sorted(allowed)[:5]]


def test_someone_known_for_dislikes_alone_gets_what_is_popular_but_not_what_is_disliked(served):
    answer = ask(served, UserQuery(DISLIKES_USER, 8, strict=True))
    assert answer.source is Source.POPULAR
    disliked = {served.shop.item_ids[row] for row in history_of(served.shop, DISLIKES_USER)}
    assert disliked
    assert not disliked & set(answer.item_ids)


def test_a_cart_of_the_zero_vector_is_answered_in_full(served):
    answer = ask(served, CartQuery([served.shop.item_ids[ZERO_ROW]], limit=9))
    assert answer.scores.tolist() == [0.0] * 9


def test_titles_are_those_of_the_items_and_empty_otherwise(served):
    assert served.snapshot.titles(["i00", "gone", "i06", "i01"]) == ["Tasse № 0", "", "", "Tasse № 1"]
    assert served.snapshot.titles([]) == []


def test_a_history_that_names_rows_outside_the_catalogue_is_refused(repository):
    """Histories are mapped from files that are checked while they are served; the kernels do not look."""
    snapshot = Snapshot.open(repository.current_path())
    damaged = np.lib.format.open_memmap(repository.current_path() / "users" / "history.indices.npy", "r+")
    damaged[:] = 2_000_000_000
    with pytest.raises(ReleaseCorrupt, match="outside the 60 of the release"):
        Snapshot.open(repository.current_path())
    for repeat in Repeat:
        with pytest.raises(ReleaseCorrupt, match="outside the 60 of the release"):
            snapshot.recommend_for_users([UserQuery("u1", repeat=repeat)])


def test_what_a_batch_shares_is_looked_up_once(snapshot, monkeypatch):
    looked_up = []
    rows = IdTable.rows
    monkeypatch.setattr(IdTable, "rows", lambda self, ids: looked_up.append(len(ids)) or rows(self, ids))
    shared = {
        "exclude_item_ids": [f"i{n:02}" for n in range(7)],
        "allowed_item_ids": [f"i{n:02}" for n in range(5, 44)],
        "filter": Exists("price"),
    }
    answers = snapshot.recommend_for_users([UserQuery(f"u{n}", **shared) for n in range(5)])
    assert looked_up.count(7) == looked_up.count(39) == 1
    assert all(answer.item_ids for answer in answers)
    assert all(set(answer.item_ids) <= set(shared["allowed_item_ids"][2:]) for answer in answers)


# Filters, allow lists, long deny lists.


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user_queries, cart_queries)
def test_lists_that_became_masks_answer_the_same(served, few, user_query, cart_query):
    ask(served, user_query)
    ask(served, cart_query)


CHEAP_CUPS = All([AnyOf("category", ["cups"]), Range("price", max=14), Not(AnyOf("tags", ["blue"]))])


@pytest.mark.parametrize("query", [UserQuery("u1"), UserQuery("nobody"), CartQuery(["i02"]), CartQuery(["i02"], "u1")])
@pytest.mark.parametrize("repeat", Repeat)
@pytest.mark.parametrize("allowed", [(), ["i00", "i04", "i20", "gone"]])
def test_an_answer_is_full_and_holds_only_what_the_filter_lets_through(served, query, repeat, allowed):
    limits = {"limit": 1000, "repeat": repeat, "filter": CHEAP_CUPS, "allowed_item_ids": allowed}
    query = type(query)(**{**vars(query), **limits})
    answer = ask(served, query)
    if answer is not None and repeat is Repeat.MIX:
        assert answer.item_ids


def test_an_allow_list_of_unknown_items_allows_nothing(served):
    for query in (UserQuery("u1", allowed_item_ids=["gone"]), UserQuery("nobody", allowed_item_ids=["gone"])):
        assert ask(served, query).item_ids == []


def test_queries_of_a_batch_may_have_filters_of_their_own(served):
    filters = [None, Exists("price"), AnyOf("giftable", ["true"]), Exists("price"), CHEAP_CUPS]
    queries = [UserQuery(f"u{n}", limit, filter=each) for n, each in enumerate(filters) for limit in (3, 7)]
    for query, answer in zip(queries, served.snapshot.recommend_for_users(queries), strict=True):
        check(served, query, answer, for_user(served.shop, query))
        assert answer.scores.tobytes() == answer_to(served.snapshot, query).scores.tobytes()


def test_a_filter_about_an_attribute_that_the_release_lacks_is_refused_and_named(served):
    query = {"filter": Not(AnyOf("colour", ["red"]))}
    for ask_ in (
        lambda: served.snapshot.recommend_for_users([UserQuery("u1", **query)]),
        lambda: served.snapshot.recommend_for_carts([CartQuery(["i02"], **query)]),
        lambda: served.snapshot.similar_items(SimilarQuery("i02", **query)),
    ):
        with pytest.raises(InvalidQuery, match=r"filter\.not\.any_of\.attribute: is 'colour'.*'title', 'category'"):
            ask_()


def test_a_million_denied_items_leave_the_rest(served):
    left = ["i03", "i09", "i20", "i33"]
    denied = [item_id for n in range(1_000_000) if (item_id := f"i{n:02}") not in left]
    answer = ask(served, UserQuery("u1", 1000, denied, repeat=Repeat.MIX))
    assert set(answer.item_ids) == set(left)
