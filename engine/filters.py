"""Filters: which items may come back, by their attributes. Plain values, without protobuf and without bitmaps.

    All([AnyOf("category", ["cups", "plates"]), Range("price", max=10), Not(Exists("discontinued"))])

engine.filter_messages reads them off the wire and writes them to it; engine.masks finds the items that meet them. What
each condition means stands beside its message in proto/nearcart/v1/recommendation.proto. Sequences become tuples, so
that a filter can be hashed: equal filters share one compiled mask.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_FILTER_CONDITIONS = 100
"""Conditions of one filter, those that join others included: each costs a pass over bitmaps of the catalogue."""
MAX_FILTER_DEPTH = 16
"""Conditions within one another."""
MAX_FILTER_VALUES = 10_000
"""Values of all conditions of a filter together."""
MAX_TEXT_BYTES = 512
"""Longest name of an attribute and longest value that can be asked for, in UTF-8 bytes."""


@dataclass(frozen=True)
class All:
    """Every one of `filters` is met."""

    filters: Sequence[Filter]

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))


@dataclass(frozen=True)
class Any:
    """At least one of `filters` is met."""

    filters: Sequence[Filter]

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))


@dataclass(frozen=True)
class Not:
    """`filter` is not met."""

    filter: Filter


@dataclass(frozen=True)
class AnyOf:
    """The attribute has one of `values`, which are text whatever its kind: "12.5", "true", "2026-11-22".

    From Python they may also be given as numbers, booleans, dates or datetimes.
    """

    attribute: str
    values: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _texts(self.values))


@dataclass(frozen=True)
class NoneOf:
    """The attribute has none of `values`, or no value at all."""

    attribute: str
    values: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _texts(self.values))


@dataclass(frozen=True)
class Range:
    """The attribute lies between bounds, both inclusive.

    A number has `min` and `max`, a date `min_time` and `max_time`; times without a zone are in UTC.
    """

    attribute: str
    min: float | None = None
    max: float | None = None
    min_time: datetime.datetime | None = None
    max_time: datetime.datetime | None = None


@dataclass(frozen=True)
class Exists:
    """The attribute has a value."""

    attribute: str


Filter = All | Any | Not | AnyOf | NoneOf | Range | Exists


def unix_seconds(time: datetime.datetime) -> float:
    """Seconds since 1970 in UTC, correctly rounded, as attributes of the kind date are stored."""
    aware = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
    return (aware - datetime.datetime.fromtimestamp(0, datetime.UTC)) / datetime.timedelta(seconds=1)


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    if isinstance(values, str):  # a sequence of characters, but never meant so
        raise TypeError(f"found the text {values!r}, expected a list of values")
    return tuple(_text(value) for value in values)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime.date) else str(value)
