"""Random attributes of all five kinds, and random filters that fit them, for Hypothesis."""

from __future__ import annotations

import datetime

import numpy as np
from hypothesis import strategies as st
from small_release import TAGS, lists_of

from engine.attributes import Dates
from engine.filters import All, Any, AnyOf, Exists, NoneOf, Not, Range
from engine.ids import StringTable

TEXTS = ("cups", "plates", "lamps", "Ünïcode ☕", "cup")
NUMBERS = (-1.0, 0.0, 1.0, 1.25, 10.0, 1e30)
START = datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)  # 1.7e9 seconds, as in small_release
NAMES = {"category": "text", "price": "number", "giftable": "boolean", "added": "date", "tags": "list"}

numbers = st.sampled_from(NUMBERS) | st.integers(0, 20).map(lambda n: n * 0.25 + 1)
times = st.integers(0, 12).map(lambda days: START + datetime.timedelta(days=days))
values = {
    "category": st.sampled_from([*TEXTS, "nothing has this"]),
    "tags": st.sampled_from([*TAGS, *TEXTS]),
    "price": numbers.map(repr) | st.just("10"),
    "giftable": st.sampled_from(["true", "false"]),
    "added": times.map(lambda time: time.isoformat()) | st.just("2023-11-15") | st.just("2023-11-16T22:13:20"),
}


@st.composite
def attributes(draw, n_items):
    """Columns of n_items rows by name."""

    def column(strategy):
        return draw(st.lists(strategy, min_size=n_items, max_size=n_items))

    seconds = times.map(lambda time: time.timestamp()) | st.just(float("nan"))
    return {
        "category": StringTable.of(column(st.sampled_from(["", *TEXTS]))),
        "price": np.array(column(numbers | st.just(float("nan"))), dtype=np.float64),
        "giftable": np.array(column(st.booleans()), dtype=np.bool_),
        "added": Dates(np.array(column(seconds), dtype=np.float64)),
        "tags": lists_of(column(st.lists(st.sampled_from([*TAGS, *TEXTS]), max_size=3))),
    }


def _bounds(strategy):
    pair = st.tuples(st.none() | strategy, st.none() | strategy).filter(lambda pair: pair != (None, None))
    return pair.map(lambda pair: pair if None in pair else tuple(sorted(pair)))


def _of_values(kind):
    return st.sampled_from(sorted(NAMES)).flatmap(
        lambda name: st.builds(kind, st.just(name), st.lists(values[name], min_size=1, max_size=3))
    )


leaves = st.one_of(
    _of_values(AnyOf),
    _of_values(NoneOf),
    _bounds(numbers).map(lambda bounds: Range("price", *bounds)),
    _bounds(times).map(lambda bounds: Range("added", min_time=bounds[0], max_time=bounds[1])),
    st.sampled_from(sorted({*NAMES} - {"giftable"})).map(Exists),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(All, st.lists(inner, min_size=1, max_size=3)),
        st.builds(Any, st.lists(inner, min_size=1, max_size=3)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)
