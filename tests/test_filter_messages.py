"""Filters to messages and back, and every way in which a message can be no filter."""

from __future__ import annotations

import datetime

import made_filters
import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from nearcart.v1 import recommendation_pb2 as wire

from engine.errors import UsageError
from engine.filter_messages import from_json, read, write
from engine.filters import All, Any, AnyOf, Exists, NoneOf, Not, Range
from engine.violations import Violations

PRICE = wire.Filter(exists=wire.AttributeExists(attribute="price"))


@given(made_filters.filters)
def test_a_filter_comes_back_from_the_wire_and_from_json_as_it_went(filter):
    violations = Violations()
    assert read(wire.Filter.FromString(write(filter).SerializeToString()), "filter", violations) == filter
    violations.close()
    assert from_json(json_format.MessageToJson(write(filter))) == filter


def test_json_has_the_names_of_the_wire():
    text = """{"all": {"filters": [
        {"any_of": {"attribute": "category", "values": ["cups", "plates"]}},
        {"not": {"none_of": {"attribute": "tags", "values": ["new"]}}},
        {"any": {"filters": [{"range": {"attribute": "price", "max": 10}}, {"exists": {"attribute": "sale"}}]}},
        {"range": {"attribute": "added", "min_time": "2026-11-22T07:00:00Z"}}]}}"""
    assert from_json(text) == All(
        [
            AnyOf("category", ["cups", "plates"]),
            Not(NoneOf("tags", ["new"])),
            Any([Range("price", max=10), Exists("sale")]),
            Range("added", min_time=datetime.datetime(2026, 11, 22, 7, tzinfo=datetime.UTC)),
        ]
    )


@pytest.mark.parametrize("text", ["", "cups", "3", '{"is": {}}', '{"range": {"attribute": "price", "max": "much"}}'])
def test_text_that_is_no_filter_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"is not the JSON of a filter .*any_of"):
        from_json(text)


def test_json_of_a_filter_that_breaks_a_rule_is_refused_by_field():
    with pytest.raises(UsageError, match=r"filter\.any_of\.values: has 0 elements"):
        from_json('{"any_of": {"attribute": "category"}}')


def values(attribute="a", values=("v",)):
    return wire.AttributeValues(attribute=attribute, values=values)


def ranged(**bounds):
    return wire.Filter(range=wire.AttributeRange(**{"attribute": "a", **bounds}))


def nested(depth):
    message = PRICE
    for _ in range(depth - 1):
        outer = wire.Filter()
        getattr(outer, "not").CopyFrom(message)
        message = outer
    return message


def joined(*filters):
    return wire.Filter(all=wire.FilterList(filters=filters))


BAD_MESSAGES = {
    "no condition": (wire.Filter(), {"filter": "is empty; expected one of all, any, not"}),
    "an empty list": (joined(), {"filter.all.filters": "has 0 elements; expected 1 to 99"}),
    "a list of 100": (joined(*[PRICE] * 100), {"filter.all.filters": "has 100 elements"}),
    "101 conditions": (
        joined(joined(*[PRICE] * 60), joined(*[PRICE] * 38)),
        {"filter.all.filters[1].all.filters[37]": "one more than the 100 conditions"},
    ),
    "an empty condition inside": (
        joined(PRICE, wire.Filter(any=wire.FilterList(filters=[wire.Filter()]))),
        {"filter.all.filters[1].any.filters[0]": "is empty"},
    ),
    "17 within one another": (nested(17), {"filter" + ".not" * 16: "lies in 16 others; at most 16"}),
    "no attribute": (wire.Filter(any_of=values("")), {"filter.any_of.attribute": "has 0 bytes; expected 1 to 512"}),
    "a long attribute": (wire.Filter(none_of=values("ü" * 257)), {"filter.none_of.attribute": "has 514 bytes"}),
    "nothing that exists": (wire.Filter(exists=wire.AttributeExists()), {"filter.exists.attribute": "has 0 bytes"}),
    "no values": (wire.Filter(any_of=values(values=[])), {"filter.any_of.values": "expected 1 to 10,000"}),
    "an empty value": (wire.Filter(any_of=values(values=["v", ""])), {"filter.any_of.values[1]": "has 0 bytes"}),
    "a long value": (wire.Filter(any_of=values(values=["v" * 513])), {"filter.any_of.values[0]": "has 513 bytes"}),
    "10,001 values": (
        joined(wire.Filter(any_of=values(values=["v"] * 9_999)), wire.Filter(none_of=values(values=["v"] * 2))),
        {"filter.all.filters[1].none_of.values": "has 2 elements; a filter has at most 10,000 values in all"},
    ),
    "no bounds": (ranged(), {"filter.range": "needs bounds of one kind"}),
    "bounds of two kinds": (ranged(min=1, max_time=Timestamp(seconds=1)), {"filter.range": "needs bounds of one kind"}),
    "NaN": (ranged(max=float("nan")), {"filter.range.max": "is NaN"}),
    "numbers the wrong way round": (ranged(min=2, max=1), {"filter.range": "has min 2 above max 1"}),
    "times the wrong way round": (
        ranged(min_time=Timestamp(seconds=2), max_time=Timestamp(seconds=1)),
        {"filter.range": "has min_time 1970-01-01T00:00:02+00:00 after max_time"},
    ),
    "a time beyond all years": (
        ranged(min_time=Timestamp(seconds=10**15)),
        {"filter.range.min_time": "no Timestamp of the years 1 to 9999"},
    ),
    "a time of too many nanoseconds": (
        ranged(max_time=Timestamp(seconds=1, nanos=2_000_000_000)),
        {"filter.range.max_time": "no Timestamp"},
    ),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_message_that_is_no_filter_is_refused_field_by_field(name):
    message, expected = BAD_MESSAGES[name]
    violations = Violations()
    read(message, "filter", violations)
    found = {each.field: each.description for each in violations.found}
    assert found.keys() == expected.keys()
    for field, words in expected.items():
        assert words in found[field]


@pytest.mark.parametrize(
    "message",
    [
        nested(16),
        joined(*[PRICE] * 99),
        wire.Filter(any_of=values(values=["v" * 512] * 10_000)),
        ranged(min=1, max=1),
        ranged(min=float("-inf")),
        ranged(min_time=Timestamp(seconds=-62_135_596_800), max_time=Timestamp(seconds=253_402_300_799)),
    ],
    ids=["16 deep", "100 conditions", "10,000 values", "one number", "infinity", "all times"],
)
def test_a_filter_at_its_limits_is_read(message):
    violations = Violations()
    read(message, "filter", violations)
    violations.close()


def test_values_that_python_knows_become_text():
    assert AnyOf("a", [True, 1.5, datetime.date(2026, 11, 22), "x"]).values == ("true", "1.5", "2026-11-22", "x")
    with pytest.raises(TypeError, match="found the text 'cups', expected a list"):
        AnyOf("category", "cups")


def test_the_longest_refusal_stays_short():
    """It travels in the trailers of HTTP/2, of which peers accept 8 KiB, in base64."""
    violations = Violations()
    name = "ü" * 256
    for n in range(99):
        violations.add(f"filter{'.any.filters[99]' * 16}.any_of.values[{n}]", name)
    assert sum(len(each.field.encode()) + len(each.description.encode()) for each in violations.found) < 4_500
