"""From a filter to the rows that meet it: conditions become bitmaps, bitmaps are joined, the result becomes a mask.

One `Masks` belongs to one snapshot. What was compiled is kept, the least recently used is dropped first: the mask of a
whole filter, and the bitmap of each condition, which other filters may share. Held against a slow evaluation item by
item by tests/test_masks.py.
"""

from __future__ import annotations

import datetime
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any as Anything
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from engine import filters
from engine.attributes import BOOLEAN, DATE, NUMBER
from engine.columns import BooleanColumn, Column, TextColumn
from engine.filters import AnyOf, Exists, Filter, NoneOf, Not, Range, unix_seconds
from engine.violations import Violations, shown

CACHE_BYTES = 128 << 20
"""Compiled filters kept by one snapshot; during a swap there are two."""
_MOST_NAMED = 8
"""Attributes that a refusal lists."""

V = TypeVar("V", bound="BitMap | NDArray[Anything]")


class Masks:
    """Compiles filters over columns of n_items rows. Thread-safe."""

    def __init__(self, columns: Mapping[str, Column], n_items: int, max_bytes: int = CACHE_BYTES) -> None:
        self._columns = columns
        self._n_items = n_items
        self._cache = Cache(max_bytes)

    def mask(self, filter: Filter) -> NDArray[np.bool_]:
        """Which rows meet the filter: bool (n_items,), read-only.

        Raises InvalidQuery for a filter that does not fit the attributes; fields are named as the wire names them.
        """
        known = self._cache.get(("mask", filter))
        if isinstance(known, np.ndarray):
            return known
        violations = Violations()
        bitmap = self._bitmap(filter, "filter", violations)
        violations.close()
        mask = np.zeros(self._n_items, dtype=np.bool_)
        mask[np.frombuffer(bitmap.to_array(), dtype=np.uint32)] = True
        mask.flags.writeable = False
        return self._cache.keep(("mask", filter), mask, mask.nbytes)

    def rows(self, filter: Filter, most: int) -> NDArray[np.int32] | None:
        """The rows that meet the filter, int32 ascending, read-only, where they are at most so many; else None.

        Raises InvalidQuery as `mask`.
        """
        known = self._cache.get(("rows", filter))
        if isinstance(known, np.ndarray):
            return known if len(known) <= most else None
        mask = self.mask(filter)
        if np.count_nonzero(mask) > most:
            return None
        rows = np.flatnonzero(mask).astype(np.int32)
        rows.flags.writeable = False
        return self._cache.keep(("rows", filter), rows, rows.nbytes)

    def _bitmap(self, filter: Filter, field: str, violations: Violations) -> BitMap:
        """The rows that meet a filter; what comes from the cache is shared, so nothing is changed in place."""
        match filter:
            case filters.All():
                return BitMap.intersection(*self._joined(filter.filters, f"{field}.all", violations))
            case filters.Any():
                return BitMap.union(*self._joined(filter.filters, f"{field}.any", violations))
            case Not():
                return self._others(self._bitmap(filter.filter, f"{field}.not", violations))
            case NoneOf():
                same = AnyOf(filter.attribute, filter.values)
                return self._others(self._met(same, f"{field}.none_of", violations))
            case AnyOf():
                return self._met(filter, f"{field}.any_of", violations)
            case Range():
                return self._met(filter, f"{field}.range", violations)
            case Exists():
                return self._met(filter, f"{field}.exists", violations)

    def _joined(self, joined: Sequence[Filter], field: str, violations: Violations) -> list[BitMap]:
        if not joined:
            violations.add(f"{field}.filters", "has 0 elements; expected 1 or more")
        bitmaps = [self._bitmap(each, f"{field}.filters[{i}]", violations) for i, each in enumerate(joined)]
        return bitmaps or [BitMap()]

    def _others(self, bitmap: BitMap) -> BitMap:
        return bitmap.flip(0, self._n_items)

    def _met(self, condition: AnyOf | Range | Exists, field: str, violations: Violations) -> BitMap:
        """The rows that meet a condition about one attribute."""
        known = self._cache.get(("condition", condition))
        if isinstance(known, BitMap):
            return known
        column = self._columns.get(condition.attribute)
        rows = None
        if column is None:
            violations.add(f"{field}.attribute", f"is {shown(condition.attribute)}, {self._names()}")
        elif isinstance(condition, AnyOf):
            rows = _any_of(column, condition, field, violations)
        elif isinstance(condition, Range):
            rows = _between(column, condition, field, violations)
        elif isinstance(column, BooleanColumn):
            violations.add(field, f"asks about {_named(condition.attribute, column)}, which every item has: ask any_of")
        else:
            rows = column.exists()
        if rows is None:
            return BitMap()
        bitmap = BitMap(array("I", np.sort(rows).astype(np.uint32).tobytes()))
        return self._cache.keep(("condition", condition), bitmap, _size_bytes(bitmap))

    def _names(self) -> str:
        """What there is, for whoever asked about something else."""
        if not self._columns:
            return "but this release has no attributes: train with an items file"
        names = ", ".join(shown(name, 20) for name in list(self._columns)[:_MOST_NAMED])
        more = f" and {len(self._columns) - _MOST_NAMED} more" if len(self._columns) > _MOST_NAMED else ""
        return f"which this release does not have; it has {names}{more}"


class Cache:
    """What was compiled, by its filter, up to so many bytes; the least recently used goes first. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, Filter], tuple[BitMap | NDArray[Anything], int]] = OrderedDict()
        self._lock = threading.Lock()
        self.size_bytes = 0

    def get(self, key: tuple[str, Filter]) -> BitMap | NDArray[Anything] | None:
        """What was kept, if it still is."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def keep(self, key: tuple[str, Filter], value: V, size_bytes: int) -> V:
        """Keep a value of so many bytes, and what its key takes, about; returns the value."""
        size_bytes += 1024 + 4 * len(repr(key))
        with self._lock:
            if key not in self._entries and size_bytes <= self._max_bytes:
                self._entries[key] = value, size_bytes
                self.size_bytes += size_bytes
            while self.size_bytes > self._max_bytes:
                self.size_bytes -= self._entries.popitem(last=False)[1][1]
        return value


def _any_of(column: Column, condition: AnyOf, field: str, violations: Violations) -> NDArray[np.int32] | None:
    expected = {NUMBER: "a number", DATE: "a date in ISO 8601", BOOLEAN: "'true' or 'false'"}.get(column.kind, "text")
    values, sound = [], True
    for i, text in enumerate(condition.values):
        try:
            values.append(column.value(text))
        except ValueError:
            sound = False
            named = _named(condition.attribute, column)
            violations.add(f"{field}.values[{i}]", f"is {shown(text)}, expected {expected}, as {named} holds")
    return column.any_of(values) if sound else None  # type: ignore[arg-type]


def _between(column: Column, condition: Range, field: str, violations: Violations) -> NDArray[np.int32] | None:
    numbers, times = (condition.min, condition.max), (condition.min_time, condition.max_time)
    named = _named(condition.attribute, column)
    if isinstance(column, TextColumn | BooleanColumn):
        violations.add(field, f"asks about {named}; only numbers and dates have ranges: ask any_of")
        return None
    fitting, other = (times, numbers) if column.kind == DATE else (numbers, times)
    if other != (None, None) or fitting == (None, None):
        names = "min_time and max_time" if column.kind == DATE else "min and max"
        violations.add(field, f"asks about {named}, whose bounds are {names}: give one of them or both, and no others")
        return None
    least, most = (unix_seconds(each) if isinstance(each, datetime.datetime) else each for each in fitting)
    return column.between(-np.inf if least is None else least, np.inf if most is None else most)


def _named(attribute: str, column: Column) -> str:
    return f"the {column.kind} attribute {shown(attribute)}"


def _size_bytes(bitmap: BitMap) -> int:
    found = bitmap.get_statistics()
    return found["n_bytes_array_containers"] + found["n_bytes_run_containers"] + found["n_bytes_bitset_containers"]
