from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_contexts import contexts_from, listed
from made_interactions import interactions_of
from made_rows import read_rows

from engine.errors import UsageError
from trainer.contexts import Contexts, ContextSettings, contexts_of, of_baskets, of_histories, stacked
from trainer.interactions import read_interactions
from trainer.shop import bundled_shop

DAY = 86_400.0
T0 = 1.6e9

values = st.sampled_from([0.0, 1.0, 2.5, -1.0])
times = st.sampled_from([np.nan, T0, T0 + DAY, T0 + 2 * DAY, T0 + 3 * DAY])
histories_with_times = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.tuples(values, times), min_size=6, max_size=6), min_size=n, max_size=n)
)


def interactions_with(rows):
    """Interactions of (value, time) of every user and item."""
    table = np.array(rows, dtype=np.float64)
    matrix = table[:, :, 0]
    return replace(interactions_of(matrix), last_times=table[:, :, 1][np.nonzero(matrix)])


def items_of(contexts, item_ids):
    return [item_ids.take(np.array(items)) for items, _, _ in listed(contexts)]


@settings(max_examples=150, deadline=None)
@given(rows=histories_with_times, most=st.integers(1, 7))
def test_histories_are_the_newest_liked_items_in_their_order(rows, most):
    contexts = of_histories(interactions_with(rows), most)
    wanted, newest = [], []
    for history in rows:
        liked = [(item, -np.inf if np.isnan(t) else t) for item, (value, t) in enumerate(history) if value > 0]
        kept = sorted(liked, key=lambda each: (-each[1], each[0]))[:most]
        in_order = sorted(kept, key=lambda each: (each[1], each[0]))
        distinct = sorted({time for _, time in kept})
        if kept:
            wanted.append((tuple(item for item, _ in in_order), tuple(distinct.index(t) for _, t in in_order), 1.0))
            newest.append(distinct[-1] if distinct[-1] > -np.inf else np.nan)
    assert listed(contexts) == wanted
    np.testing.assert_array_equal(contexts.seconds, newest)
    assert contexts.indptr.dtype == np.int64
    assert contexts.indices.dtype == contexts.places.dtype == np.int32
    assert (contexts.seconds.dtype, contexts.weights.dtype) == (np.float64, np.float32)


@settings(max_examples=100, deadline=None)
@given(rows=histories_with_times)
def test_ages_count_the_distinct_newer_times_of_the_user(rows):
    interactions = interactions_with(rows)
    ages = iter(interactions.ages().tolist())
    for history in rows:
        known = [-np.inf if np.isnan(time) else time for value, time in history if value != 0]
        for time in known:
            assert next(ages) == len({other for other in known if other > time})
    assert next(ages, None) is None
    assert interactions.ages().dtype == np.int32


def test_a_basket_is_a_context_in_the_order_of_its_times(tmp_path):
    at = {"tea": 30.0, "cup": 10.0, "pot": 20.0, "jug": 10.0, "hat": None}
    rows = [
        {"user_id": "ann", "item_id": item, "basket_id": "b", "timestamp": seconds and T0 + seconds}
        for item, seconds in at.items()
    ]
    rows.append({"user_id": "ann", "item_id": "cup", "basket_id": "b", "timestamp": T0 + 5})
    rows += [{"user_id": "bob", "item_id": item, "basket_id": "c"} for item in ("tea", "pot")]
    found = read_rows(tmp_path / "e.parquet", rows)
    contexts = of_baskets(found.baskets, found.n_items)
    assert [set(each) for each in items_of(contexts, found.item_ids)] == [set(at), {"tea", "pot"}]
    (first, places, _), (_, unknown, _) = listed(contexts)
    by_item = dict(zip(found.item_ids.take(np.array(first)), places, strict=True))
    assert by_item == {"hat": 0, "cup": 1, "jug": 1, "pot": 2, "tea": 3}
    assert list(places) == sorted(places)
    assert list(unknown) == [0, 0]
    newest = of_baskets(found.baskets, found.n_items, 2)
    assert [set(each) for each in items_of(newest, found.item_ids)] == [{"pot", "tea"}, {"tea", "pot"}]
    (single, _, _), (smaller, _, _) = listed(of_baskets(found.baskets, found.n_items, 1))
    assert found.item_ids.take(np.array(single)) == ["tea"]
    assert smaller == (min(found.item_ids.rows(["tea", "pot"]).tolist()),)
    np.testing.assert_array_equal(contexts.seconds, [T0 + 30, np.nan])
    assert contexts.weights.tolist() == [1.0, 1.0]


def test_baskets_and_histories_stand_together_weighed_as_they_should(tmp_path):
    rows = [
        {"user_id": user, "item_id": item, "basket_id": basket, "timestamp": T0 + day * DAY}
        for user, item, basket, day in [("ann", "tea", "a", 0), ("ann", "cup", "a", 0), ("ann", "pot", None, 10)]
    ]
    found = read_rows(tmp_path / "e.parquet", rows)
    only_baskets = contexts_of(found)
    assert [set(each) for each in items_of(only_baskets, found.item_ids)] == [{"tea", "cup"}]
    both = contexts_of(found, ContextSettings(history_weight=0.5, half_life_days=5, size_damping=1.0))
    assert [set(each) for each in items_of(both, found.item_ids)] == [{"tea", "cup"}, {"tea", "cup", "pot"}]
    assert both.weights.tolist() == pytest.approx([0.25 / 2, 0.5 / 3])
    assert both.seconds.tolist() == [T0, T0 + 10 * DAY]
    weights = dict(zip(found.item_ids.take(np.arange(3)), both.item_weights().tolist(), strict=True))
    assert weights == pytest.approx({"tea": 0.125 + 1 / 6, "cup": 0.125 + 1 / 6, "pot": 1 / 6})
    newest_item = contexts_of(found, ContextSettings(history_weight=1.0, most_items=1))
    assert [len(each) for each in items_of(newest_item, found.item_ids)] == [1, 1]
    assert items_of(newest_item, found.item_ids)[1] == ["pot"]


def test_where_no_event_names_a_basket_histories_are_the_contexts_whatever_they_weigh(tmp_path):
    rows = [{"user_id": user, "item_id": item} for user, item in [("ann", "tea"), ("ann", "cup"), ("bob", "tea")]]
    found = read_rows(tmp_path / "e.parquet", rows)
    contexts = contexts_of(found, ContextSettings(history_weight=0.1))
    assert [set(each) for each in items_of(contexts, found.item_ids)] == [{"tea", "cup"}, {"tea"}]
    assert contexts.weights.tolist() == [1.0, 1.0]


def test_stacking_keeps_every_context_and_no_context_is_none():
    made = [((2, 0), (0, 3), 1.0), ((1,), (0,), 0.5)]
    nothing = contexts_from([])
    assert listed(stacked([contexts_from(made), nothing, contexts_from(made[::-1])])) == [*made, *made[::-1]]
    assert len(nothing) == 0
    assert nothing.item_weights().tolist() == [0.0] * nothing.n_items


def test_weights_are_halved_by_age_and_stay_where_no_time_is_known():
    contexts = replace(
        contexts_from([((0, 1), (0, 0), 1.0), ((0, 1), (0, 0), 3.0), ((1, 2), (0, 0), 2.0)]),
        seconds=np.array([T0, np.nan, T0 + 60 * DAY]),
    )
    assert contexts.decayed(30).weights.tolist() == [0.25, 3.0, 2.0]
    assert contexts.damped(0.5).weights.tolist() == pytest.approx((np.array([1, 3, 2]) / np.sqrt(2)).tolist())


def test_a_half_life_without_any_time_says_what_is_missing():
    contexts = interactions_of(np.ones((2, 3)))
    with pytest.raises(UsageError, match=r"a half-life needs times.*--timestamp-column"):
        contexts_of(contexts, ContextSettings(half_life_days=30))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"history_weight": -1.0}, "history_weight is -1.0; expected from 0"),
        ({"most_items": 0}, "most_items is 0; expected from 1"),
        ({"half_life_days": 0.0}, "half_life_days is 0.0; expected from 0.001"),
        ({"size_damping": float("nan")}, "size_damping is nan; expected from 0 to 4"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        ContextSettings(**wrong)


def test_the_bundled_shop_has_a_context_for_each_basket_and_each_customer():
    bundled = bundled_shop()
    shop = read_interactions([str(bundled.events)], bundled.columns, cleaning=bundled.cleaning)
    both: Contexts = contexts_of(shop, ContextSettings(history_weight=1.0))
    assert len(both) == len(shop.baskets) + shop.n_users
    sizes = np.diff(both.indptr)
    assert sizes[: len(shop.baskets)].min() == 2
    assert sizes[len(shop.baskets) :].max() == 500
    assert not np.isnan(both.seconds).any()
    starts = both.indptr[:-1]
    assert not both.places[starts].any()
    rises = np.diff(both.places.astype(np.int64) * shop.n_items + both.indices) > 0
    assert rises[np.setdiff1d(np.arange(len(rises)), starts[1:] - 1)].all()
    histories = of_histories(shop)
    assert np.maximum.reduceat(histories.places, histories.indptr[:-1]).max() > 50
