"""Filters between the wire and plain values: read and checked, written, and read from JSON for people.

Every rule is stated beside its field in proto/nearcart/v1/recommendation.proto, except what depends on the attributes
of a release: that is for engine.masks. Kept honest by tests/test_filter_messages.py.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from nearcart.v1 import recommendation_pb2 as wire

from engine import filters
from engine.errors import InvalidQuery, UsageError
from engine.filters import (
    MAX_FILTER_CONDITIONS,
    MAX_FILTER_DEPTH,
    MAX_FILTER_VALUES,
    MAX_TEXT_BYTES,
    AnyOf,
    Exists,
    Filter,
    NoneOf,
    Not,
    Range,
)
from engine.violations import Violations

_CONDITIONS = "all, any, not, any_of, none_of, range, exists"
_NOTHING = Exists("")
"""Stands where a message was refused: its violation keeps it from being used."""


def read(message: wire.Filter, field: str, violations: Violations) -> Filter:
    """The filter of a message; what is wrong with it is added to `violations`."""
    return _Reader(violations).filter(message, field, 1)


def from_json(text: str) -> Filter:
    """A filter from the JSON of its message: {"range": {"attribute": "price", "max": 10}}. Raises UsageError."""
    violations = Violations()
    try:
        filter = read(json_format.Parse(text, wire.Filter()), "filter", violations)
        violations.close()
    except json_format.ParseError as error:
        raise UsageError(
            f"the filter {text[:80]!r} is not the JSON of a filter ({' '.join(str(error).split())}); expected such as "
            '{"any_of": {"attribute": "category", "values": ["cups"]}}'
        ) from error
    except InvalidQuery as error:
        raise UsageError(str(error)) from error
    return filter


def write(filter: Filter) -> wire.Filter:
    """The message of a filter. Raises TypeError or ValueError for values that no message can hold."""
    match filter:
        case filters.All():
            return wire.Filter(all=wire.FilterList(filters=[write(each) for each in filter.filters]))
        case filters.Any():
            return wire.Filter(any=wire.FilterList(filters=[write(each) for each in filter.filters]))
        case Not():
            message = wire.Filter()
            getattr(message, "not").CopyFrom(write(filter.filter))  # a word of Python's own
            return message
        case AnyOf():
            return wire.Filter(any_of=wire.AttributeValues(attribute=filter.attribute, values=filter.values))
        case NoneOf():
            return wire.Filter(none_of=wire.AttributeValues(attribute=filter.attribute, values=filter.values))
        case Range():
            return wire.Filter(
                range=wire.AttributeRange(
                    attribute=filter.attribute,
                    min=filter.min,
                    max=filter.max,
                    min_time=_timestamp(filter.min_time),
                    max_time=_timestamp(filter.max_time),
                )
            )
        case Exists():
            return wire.Filter(exists=wire.AttributeExists(attribute=filter.attribute))
    raise TypeError(f"found {filter!r}, expected a filter of engine.filters")


class _Reader:
    """Reads one filter, counting what all of its parts share."""

    def __init__(self, violations: Violations) -> None:
        self._violations = violations
        self._n_conditions = 0
        self._n_values = 0

    def filter(self, message: wire.Filter, field: str, depth: int) -> Filter:
        condition = message.WhichOneof("condition")
        self._n_conditions += 1
        if self._n_conditions > MAX_FILTER_CONDITIONS:
            if self._n_conditions == MAX_FILTER_CONDITIONS + 1:
                self._refuse(field, f"is one more than the {MAX_FILTER_CONDITIONS} conditions that a filter may have")
            return _NOTHING
        if condition is None:
            return self._refuse(field, f"is empty; expected one of {_CONDITIONS}")
        if depth > MAX_FILTER_DEPTH:
            return self._refuse(field, f"lies in {depth - 1} others; at most {MAX_FILTER_DEPTH} are within one another")
        field = f"{field}.{condition}"
        match condition:
            case "all":
                return filters.All(self._list(message.all.filters, f"{field}.filters", depth))
            case "any":
                return filters.Any(self._list(message.any.filters, f"{field}.filters", depth))
            case "not":
                return Not(self.filter(getattr(message, "not"), field, depth + 1))
            case "any_of":
                return AnyOf(*self._values(message.any_of, field))
            case "none_of":
                return NoneOf(*self._values(message.none_of, field))
            case "range":
                return self._range(message.range, field)
            case "exists":
                return Exists(self._text(f"{field}.attribute", message.exists.attribute))

    def _list(self, messages: Sequence[wire.Filter], field: str, depth: int) -> list[Filter]:
        if not 1 <= len(messages) < MAX_FILTER_CONDITIONS:
            self._refuse(field, f"has {len(messages):,} elements; expected 1 to {MAX_FILTER_CONDITIONS - 1}")
            return []
        return [self.filter(each, f"{field}[{i}]", depth + 1) for i, each in enumerate(messages)]

    def _values(self, message: wire.AttributeValues, field: str) -> tuple[str, list[str]]:
        attribute = self._text(f"{field}.attribute", message.attribute)
        self._n_values += len(message.values)
        if not message.values:
            self._refuse(f"{field}.values", f"has 0 elements; expected 1 to {MAX_FILTER_VALUES:,}")
        elif self._n_values > MAX_FILTER_VALUES:
            self._refuse(
                f"{field}.values",
                f"has {len(message.values):,} elements; a filter has at most {MAX_FILTER_VALUES:,} values in all",
            )
            return attribute, []
        return attribute, [self._text(f"{field}.values[{i}]", value) for i, value in enumerate(message.values)]

    def _range(self, message: wire.AttributeRange, field: str) -> Filter:
        least = message.min if message.HasField("min") else None
        most = message.max if message.HasField("max") else None
        first = self._time(f"{field}.min_time", message.min_time) if message.HasField("min_time") else None
        last = self._time(f"{field}.max_time", message.max_time) if message.HasField("max_time") else None
        for name, number in (("min", least), ("max", most)):
            if number is not None and math.isnan(number):
                self._refuse(f"{field}.{name}", "is NaN; expected a number")
        if (least is None and most is None) == (not message.HasField("min_time") and not message.HasField("max_time")):
            self._refuse(field, "needs bounds of one kind: min, max or both, or min_time, max_time or both")
        if least is not None and most is not None and least > most:
            self._refuse(field, f"has min {least:g} above max {most:g}")
        if first is not None and last is not None and first > last:
            self._refuse(field, f"has min_time {first.isoformat()} after max_time {last.isoformat()}")
        return Range(self._text(f"{field}.attribute", message.attribute), least, most, first, last)

    def _time(self, field: str, message: Timestamp) -> datetime.datetime | None:
        try:
            return message.ToDatetime(datetime.UTC)
        except ValueError:
            self._refuse(field, f"is no Timestamp of the years 1 to 9999: {message.seconds} s, {message.nanos} ns")
            return None

    def _text(self, field: str, value: str) -> str:
        if not 1 <= (size := len(value.encode())) <= MAX_TEXT_BYTES:
            self._refuse(field, f"has {size:,} bytes; expected 1 to {MAX_TEXT_BYTES}")
        return value

    def _refuse(self, field: str, description: str) -> Filter:
        self._violations.add(field, description)
        return _NOTHING


def _timestamp(time: datetime.datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)  # without a zone it is in UTC
    return message
