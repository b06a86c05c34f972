"""One attribute made ready to be asked: which rows hold this value, lie in this range, hold anything at all?

What answers is built when an attribute is first asked about (an inverted index of texts, an order of numbers), once,
whichever threads ask. Rows come back as int32, some perhaps twice, in any order; engine.masks makes bitmaps of them.
Values are read from text here, by the attribute's kind. Held against tests/reference_filters.py.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.attributes import BOOLEAN, DATE, LIST, NUMBER, TEXT, Attribute, Dates, Lists, kind_of
from engine.errors import ReleaseCorrupt
from engine.filters import unix_seconds
from engine.ids import IdTable, StringTable, distinct

Rows = NDArray[np.int32]
_SCAN_SHARE = 32
"""A range of more than n / 32 rows is read off the values themselves: sorting so many rows takes longer."""


class TextColumn:
    """An attribute of the kind text or list."""

    def __init__(self, attribute: StringTable | Lists, name: str) -> None:
        self.kind = LIST if isinstance(attribute, Lists) else TEXT
        self._attribute, self._name = attribute, name
        self._texts = attribute.texts if isinstance(attribute, Lists) else attribute
        self._lock = threading.Lock()
        self._index: tuple[IdTable, Rows, NDArray[np.int64]] | None = None

    def value(self, text: str) -> str:
        """A value as this attribute holds it."""
        return text

    def any_of(self, values: Sequence[str]) -> Rows:
        """The rows that hold one of the values. Raises ReleaseCorrupt."""
        texts, rows, starts = self._inverted()
        held = [each for each in texts.rows(values).tolist() if each >= 0]
        return np.concatenate([rows[:0], *(rows[starts[each] : starts[each + 1]] for each in held)])

    def exists(self) -> Rows:
        """The rows that hold a text. Raises ReleaseCorrupt."""
        return self._rows_of(self._filled())

    def _inverted(self) -> tuple[IdTable, Rows, NDArray[np.int64]]:
        """The texts that differ, and the rows of the m-th of them: rows[starts[m]:starts[m + 1]]."""
        with self._lock:
            if self._index is None:
                filled = self._filled()
                texts, which = distinct(self._texts.select(filled))
                # Numbers of 16 bits are sorted by radix: of ten million rows in a tenth of the time.
                order = np.argsort(which.astype(np.uint16) if len(texts) < 1 << 16 else which, kind="stable")
                starts = np.zeros(len(texts) + 1, dtype=np.int64)
                np.cumsum(np.bincount(which, minlength=len(texts)), out=starts[1:])
                self._index = texts, self._rows_of(filled[order]), starts
            return self._index

    def _filled(self) -> NDArray[np.int64]:
        """The places of the texts that are not empty."""
        lengths = np.diff(self._texts.offsets)
        lists_overlap = isinstance(self._attribute, Lists) and (np.diff(self._attribute.starts) < 0).any()
        if lists_overlap or self._texts.offsets[0] != 0 or (lengths < 0).any():
            raise ReleaseCorrupt(
                f"the texts of the attribute {self._name!r} overlap: copy the release again, or roll back"
            )
        return np.flatnonzero(lengths)

    def _rows_of(self, places: NDArray[np.int64]) -> Rows:
        """The item rows that texts belong to."""
        if isinstance(self._attribute, Lists):
            places = np.searchsorted(self._attribute.starts, places, side="right") - 1
        return places.astype(np.int32)


class NumberColumn:
    """An attribute of the kind number or date."""

    def __init__(self, attribute: NDArray[np.float64] | Dates) -> None:
        self.kind = DATE if isinstance(attribute, Dates) else NUMBER
        self._values = attribute.seconds if isinstance(attribute, Dates) else attribute
        self._lock = threading.Lock()
        self._order: tuple[NDArray[np.float64], Rows] | None = None

    def value(self, text: str) -> float:
        """A value as this attribute holds it. Raises ValueError."""
        if self.kind == NUMBER:
            number = float(text)
            if number != number:
                raise ValueError(text)
            return number
        return unix_seconds(datetime.datetime.fromisoformat(text))

    def any_of(self, values: Sequence[float]) -> Rows:
        """The rows that hold one of the values."""
        wanted = np.unique(np.array(values, dtype=np.float64))
        held, rows = self._sorted()
        starts, stops = np.searchsorted(held, wanted, side="left"), np.searchsorted(held, wanted, side="right")
        return np.concatenate([rows[:0], *(rows[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True))])

    def between(self, least: float, most: float) -> Rows:
        """The rows whose value is from least to most, both inclusive."""
        held, rows = self._sorted()
        start, stop = int(np.searchsorted(held, least, side="left")), int(np.searchsorted(held, most, side="right"))
        if (stop - start) * _SCAN_SHARE > len(self._values):
            return np.flatnonzero((self._values >= least) & (self._values <= most)).astype(np.int32)
        return np.sort(rows[start:stop])

    def exists(self) -> Rows:
        """The rows that have a value."""
        return np.flatnonzero(~np.isnan(self._values)).astype(np.int32)

    def _sorted(self) -> tuple[NDArray[np.float64], Rows]:
        """The values, rising, and their rows."""
        with self._lock:
            if self._order is None:
                order = np.argsort(self._values, kind="stable")  # NaN comes last
                rows: Rows = order[: np.count_nonzero(~np.isnan(self._values))].astype(np.int32)
                self._order = self._values[rows], rows
            return self._order


class BooleanColumn:
    """An attribute of the kind boolean: every row has a value."""

    kind = BOOLEAN

    def __init__(self, attribute: NDArray[np.bool_]) -> None:
        self._values = attribute

    def value(self, text: str) -> bool:
        """A value as this attribute holds it. Raises ValueError."""
        return ("false", "true").index(text) == 1

    def any_of(self, values: Sequence[bool]) -> Rows:
        """The rows that hold one of the values."""
        return np.flatnonzero(np.isin(self._values, values)).astype(np.int32)


Column = TextColumn | NumberColumn | BooleanColumn


def column_of(attribute: Attribute, name: str) -> Column:
    """The column of an attribute; nothing is read yet."""
    match attribute:
        case StringTable() | Lists():
            return TextColumn(attribute, name)
        case Dates():
            return NumberColumn(attribute)
        case _ if kind_of(attribute) == BOOLEAN:
            return BooleanColumn(attribute.astype(np.bool_, copy=False))
        case _:
            return NumberColumn(attribute.astype(np.float64, copy=False))
