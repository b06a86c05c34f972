"""Filters compiled to masks, against the same filters asked item by item (tests/reference_filters.py)."""

from __future__ import annotations

import datetime
import threading
from concurrent.futures import ThreadPoolExecutor

import made_filters
import numpy as np
import pytest
import reference_filters
from hypothesis import given, settings
from hypothesis import strategies as st
from small_release import lists_of

from engine.attributes import Dates
from engine.columns import column_of
from engine.errors import InvalidQuery, ReleaseCorrupt
from engine.filters import All, Any, AnyOf, Exists, NoneOf, Not, Range
from engine.ids import StringTable
from engine.masks import Cache, Masks


def masks_of(attributes, n_items, **options):
    return Masks({name: column_of(each, name) for name, each in attributes.items()}, n_items, **options)


@pytest.fixture
def small():
    """Four items: masks, and the attributes they stand on."""
    return masks_of(
        {
            "category": StringTable.of(["cups", "", "plates", "cups"]),
            "price": np.array([1.0, np.nan, 10.0, 2.5]),
            "giftable": np.array([True, False, False, True]),
            "added": Dates(np.array([0.0, 86_400.0, np.nan, 0.000001])),
            "tags": lists_of([["new", "blue"], [], ["blue", "blue"], [""]]),
        },
        4,
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_filter_selects_what_it_selects_item_by_item(data):
    n_items = data.draw(st.integers(0, 12))
    attributes = data.draw(made_filters.attributes(n_items))
    items = reference_filters.items(attributes, n_items)
    masks = masks_of(attributes, n_items)
    for filter in data.draw(st.lists(made_filters.filters, min_size=1, max_size=4)):
        expected = [reference_filters.meets(item, filter) for item in items]
        assert masks.mask(filter).tolist() == expected
        assert masks.mask(filter).tolist() == expected


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 1.0])
def test_a_range_of_few_or_many_items_selects_the_same(share):
    numbers = np.random.default_rng(1).permutation(20_000) / 20_000
    numbers[::7] = np.nan
    mask = masks_of({"price": numbers}, len(numbers)).mask(Range("price", 0.1, 0.1 + share))
    assert mask.tolist() == [0.1 <= number <= 0.1 + share for number in numbers.tolist()]


def test_a_text_of_more_values_than_sixteen_bits_number_is_found():
    masks = masks_of({"code": StringTable.of(f"c{row % 70_000}" for row in range(100_000))}, 100_000)
    assert np.flatnonzero(masks.mask(AnyOf("code", ["c29999", "c69999", "c70000"]))).tolist() == [
        29_999,
        69_999,
        99_999,
    ]


def test_every_kind_is_asked_in_its_own_way(small):
    cases = [
        (AnyOf("category", ["cups", "lamps"]), [0, 3]),
        (NoneOf("category", ["cups"]), [1, 2]),
        (AnyOf("price", ["1", "1e1"]), [0, 2]),
        (AnyOf("price", [2.5]), [3]),
        (Range("price", min=2.5), [2, 3]),
        (Range("price", max=2.5), [0, 3]),
        (AnyOf("giftable", [True]), [0, 3]),
        (NoneOf("giftable", ["true"]), [1, 2]),
        (AnyOf("added", ["1970-01-01", datetime.date(1970, 1, 2)]), [0, 1]),
        (AnyOf("added", ["1970-01-01T01:00:00+01:00"]), [0]),
        (Range("added", min_time=datetime.datetime(1970, 1, 1, microsecond=1)), [1, 3]),
        (AnyOf("tags", ["blue"]), [0, 2]),
        (Exists("tags"), [0, 2]),
        (Exists("price"), [0, 2, 3]),
        (Exists("added"), [0, 1, 3]),
        (Not(Exists("category")), [1]),
        (All([AnyOf("category", ["cups"]), Range("price", max=2)]), [0]),
        (Any([AnyOf("category", ["plates"]), Not(Exists("price"))]), [1, 2]),
    ]
    for filter, rows in cases:
        assert np.flatnonzero(small.mask(filter)).tolist() == rows, filter


BAD_FILTERS = {
    "an attribute that is not there": (
        All([Exists("price"), AnyOf("colour", ["red"])]),
        {"filter.all.filters[1].any_of.attribute": "is 'colour', which this release does not have; it has 'category'"},
    ),
    "a range of texts": (Range("category", min=1), {"filter.range": "the text attribute 'category'; only numbers"}),
    "a range of lists": (Range("tags", max=1), {"filter.range": "the list attribute 'tags'"}),
    "a range of booleans": (Not(Range("giftable", min=0)), {"filter.not.range": "the boolean attribute 'giftable'"}),
    "times of a number": (
        Range("price", min_time=datetime.datetime(2026, 1, 1)),
        {"filter.range": "'price', whose bounds are min and max"},
    ),
    "numbers of a date": (Range("added", min=0), {"filter.range": "'added', whose bounds are min_time and max_time"}),
    "a range without bounds": (Range("price"), {"filter.range": "give one of them or both"}),
    "words for a number": (
        Any([NoneOf("price", ["1", "cheap"])]),
        {"filter.any.filters[0].none_of.values[1]": "is 'cheap', expected a number, as the number attribute 'price'"},
    ),
    "NaN for a number": (AnyOf("price", ["nan"]), {"filter.any_of.values[0]": "expected a number"}),
    "words for a date": (AnyOf("added", ["soon"]), {"filter.any_of.values[0]": "expected a date in ISO 8601"}),
    "words for a boolean": (AnyOf("giftable", ["yes"]), {"filter.any_of.values[0]": "expected 'true' or 'false'"}),
    "whether a boolean exists": (Exists("giftable"), {"filter.exists": "which every item has: ask any_of"}),
    "nothing to join": (All([]), {"filter.all.filters": "has 0 elements"}),
    "two faults at once": (
        All([Exists("colour"), Range("tags", min=1)]),
        {"filter.all.filters[0].exists.attribute": "is 'colour'", "filter.all.filters[1].range": "'tags'"},
    ),
}


@pytest.mark.parametrize("name", BAD_FILTERS)
def test_a_filter_that_does_not_fit_the_release_is_refused_field_by_field(small, name):
    filter, expected = BAD_FILTERS[name]
    with pytest.raises(InvalidQuery) as refused:
        small.mask(filter)
    found = {each.field: each.description for each in refused.value.violations}
    assert found.keys() == expected.keys()
    for field, words in expected.items():
        assert words in found[field]


def test_a_release_without_attributes_says_so():
    with pytest.raises(InvalidQuery, match="no attributes: train with an items file"):
        masks_of({}, 3).mask(Exists("price"))


def test_texts_that_overlap_are_refused_and_not_read():
    damaged = StringTable(np.zeros(3, dtype=np.uint8), np.array([0, 50_000_000, 3]))
    for attribute in (damaged, lists_of([["a"], ["b"]])):
        if not isinstance(attribute, StringTable):
            attribute.starts[1] = 2_000_000_000
        with pytest.raises(ReleaseCorrupt, match="'category' overlap"):
            masks_of({"category": attribute}, 2).mask(AnyOf("category", ["a"]))


# What is kept.


def test_a_filter_is_compiled_once_and_its_mask_cannot_be_changed(small):
    filter = All([AnyOf("category", ["cups"]), Range("price", max=2)])
    first = small.mask(filter)
    assert small.mask(All((AnyOf("category", ("cups",)), Range("price", max=2)))) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = False


def test_what_was_used_longest_ago_is_dropped_first():
    cache = Cache(10_000)
    keys = [("mask", Exists(f"a{n}")) for n in range(4)]
    for key in keys[:3]:
        cache.keep(key, np.zeros(1_500, dtype=bool), 1_500)
    assert cache.get(keys[0]) is not None
    cache.keep(keys[3], np.zeros(1_500, dtype=bool), 1_500)
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    assert cache.size_bytes <= 10_000


def test_a_mask_that_is_larger_than_the_bound_is_answered_and_not_kept():
    masks = masks_of({"price": np.arange(5_000.0)}, 5_000, max_bytes=4_000)
    first, again = (masks.mask(Range("price", max=9)) for _ in range(2))
    assert first.sum() == again.sum() == 10
    assert first is not again


def test_many_threads_that_ask_at_once_get_the_same_as_one(small):
    attributes = {"category": StringTable.of(f"c{row % 50}" for row in range(5_000)), "price": np.arange(5_000.0)}
    filters = [All([AnyOf("category", [f"c{n}"]), Range("price", min=n * 10)]) for n in range(40)]
    alone = masks_of(attributes, 5_000)
    together = masks_of(attributes, 5_000, max_bytes=60_000)
    start = threading.Barrier(8)

    def ask(n):
        start.wait(10)
        return [together.mask(filters[(n * 5 + i) % 40]).tobytes() for i in range(40)]

    with ThreadPoolExecutor(8) as threads:
        for n, found in enumerate(threads.map(ask, range(8))):
            assert found == [alone.mask(filters[(n * 5 + i) % 40]).tobytes() for i in range(40)]


def test_the_rows_of_a_filter_are_told_where_they_are_few(small):
    filter = AnyOf("category", ["cups"])
    assert small.rows(filter, 1) is None
    rows = small.rows(filter, 2)
    assert rows.tolist() == [0, 3]
    assert small.rows(filter, 2) is rows
    assert small.rows(filter, 1) is None
    assert not rows.flags.writeable
