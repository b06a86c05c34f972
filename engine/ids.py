"""Strings by row, and rows by id, without a Python dict.

A `StringTable` is one block of UTF-8 bytes and the offsets that cut it; an `IdTable` adds a hash table of rows with
open addressing. All three are plain arrays, so a table of a hundred million ids is memory-mapped and opens in
milliseconds; a look-up touches one or two slots and one string. Rows never leave the program: this module is where ids
become rows and rows become ids. Checked by tests/test_ids.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numba import int32, int64, njit, uint64
from numpy.typing import NDArray

from engine.prefetch import prefetch
from engine.signatures import bytes_in, int32_in, int32_out, int64_in

MAX_ID_BYTES = 512
"""Longest id accepted anywhere, in UTF-8 bytes: files, wire and releases."""

_EMPTY = -1
_BLOCK = 32
"""Strings looked up together: enough to hide the memory's latency, few enough to stay in the first-level cache."""
_MANY = 64
"""Strings from which one pass over all of them joined is faster than one over each."""


@dataclass(frozen=True)
class StringTable:
    """n strings: `data` uint8 (total bytes,), `offsets` int64 (n + 1,); row r is data[offsets[r]:offsets[r + 1]]."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, strings: Iterable[str]) -> StringTable:
        """Build from Python strings, in their order."""
        strings = list(strings)
        if len(strings) >= _MANY:
            joined = "\0".join(strings)
            if joined.count("\0") == len(strings) - 1:  # none of them holds a NUL: all that stand there are ours
                together = np.frombuffer(joined.encode(), dtype=np.uint8)
                between = np.flatnonzero(together == 0)
                stops = np.append(between, len(together)) - np.arange(len(strings))
                return cls(together[together != 0], np.concatenate([[0], stops]).astype(np.int64))
        encoded = [string.encode() for string in strings]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(each) for each in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def take(self, rows: NDArray[np.integer]) -> list[str]:
        """The strings of several rows, in the order of `rows`."""
        return [self[row] for row in rows.tolist()]

    def select(self, rows: NDArray[np.integer]) -> StringTable:
        """The table of several rows, in the order of `rows`, without a Python string for each."""
        starts, lengths = self.offsets[rows], self.offsets[1:][rows] - self.offsets[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return StringTable(self.data[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)], offsets)

    def followed_by(self, other: StringTable) -> StringTable:
        """The strings of this table, then those of another one."""
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return StringTable(np.concatenate([self.data[: self.offsets[-1]], other.data]), offsets)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays to store, by the name that `from_arrays` expects."""
        return {"data": self.data, "offsets": self.offsets}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> StringTable:
        """The inverse of `arrays`; the arrays may be memory-mapped."""
        return cls(
            np.ascontiguousarray(arrays["data"], dtype=np.uint8),
            np.ascontiguousarray(arrays["offsets"], dtype=np.int64),
        )


class Ids(Sequence[str]):
    """The ids of some rows, in their order: strings when they are looked at, and bytes of a message without that."""

    def __init__(self, table: StringTable, rows: NDArray[np.int32]) -> None:
        self.table, self.rows = table, rows

    @classmethod
    def of(cls, ids: Sequence[str]) -> Ids:
        """Of strings; those that are such ids already pass."""
        return ids if isinstance(ids, Ids) else cls(StringTable.of(ids), np.arange(len(ids), dtype=np.int32))

    @classmethod
    def joined(cls, each: Sequence[Ids]) -> Ids:
        """Those of several, one after the other."""
        if all(ids.table is each[0].table for ids in each):
            return cls(each[0].table, np.concatenate([ids.rows for ids in each]))
        return cls.of([id_ for ids in each for id_ in ids])

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Ids: ...
    def __getitem__(self, place: int | slice) -> str | Ids:
        if isinstance(place, slice):
            return Ids(self.table, self.rows[place])
        return self.table[int(self.rows[place])]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.take(self.rows))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


@dataclass(frozen=True)
class IdTable:
    """Unique ids by row, and rows by id: `slots` int32 (power of two >= 2 n,) holds rows, -1 where empty."""

    strings: StringTable
    slots: NDArray[np.int32]

    @classmethod
    def of(cls, ids: Iterable[str]) -> IdTable:
        """Build from Python strings, in their order. Raises ValueError on a duplicate."""
        return cls.over(StringTable.of(ids))

    @classmethod
    def over(cls, strings: StringTable) -> IdTable:
        """Index the strings of a table. Raises ValueError on a duplicate."""
        if len(strings) > np.iinfo(np.int32).max // 2:
            raise ValueError(f"{len(strings):,} ids: a table holds at most {np.iinfo(np.int32).max // 2:,}")
        slots = np.full(slots_for(len(strings)), _EMPTY, dtype=np.int32)
        with np.errstate(over="ignore"):
            duplicate = _fill_slots(strings.data, strings.offsets, slots)
        if duplicate != _EMPTY:
            raise ValueError(f"the id {strings[duplicate]!r} stands twice; ids must be unique")
        return cls(strings, slots)

    def __len__(self) -> int:
        return len(self.strings)

    def __getitem__(self, row: int) -> str:
        return self.strings[row]

    def take(self, rows: NDArray[np.int32]) -> Ids:
        """The ids of several rows, in the order of `rows`."""
        return Ids(self.strings, rows)

    def row(self, id_: str) -> int:
        """The row of an id, -1 where the table does not hold it."""
        return int(self.rows((id_,))[0])

    def rows(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """The rows of several ids, -1 where the table does not hold one; one kernel call however many there are."""
        return self.rows_of(StringTable.of(ids))

    def rows_of(self, wanted: StringTable) -> NDArray[np.int32]:
        """As `rows`, for ids that are a table already."""
        out = np.empty(len(wanted), dtype=np.int32)
        with np.errstate(over="ignore"):
            _find_rows(self.strings.data, self.strings.offsets, self.slots, wanted.data, wanted.offsets, out)
        return out

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays to store, by the name that `from_arrays` expects."""
        return {**self.strings.arrays(), "slots": self.slots}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> IdTable:
        """The inverse of `arrays`; the arrays may be memory-mapped."""
        return cls(StringTable.from_arrays(arrays), np.ascontiguousarray(arrays["slots"], dtype=np.int32))


def distinct(strings: StringTable) -> tuple[IdTable, NDArray[np.int32]]:
    """The strings that differ, in the order of their first rows, and for each row int32 (n,) which of them it holds."""
    n = len(strings)
    slots, firsts, which = np.full(slots_for(n), _EMPTY, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    with np.errstate(over="ignore"):
        n_distinct = _number_strings(strings.data, strings.offsets, slots, firsts, which)
    return IdTable.over(strings.select(firsts[:n_distinct])), which


def slots_for(n: int) -> int:
    """The slots of a table of n ids: the power of two that leaves at least half of them empty."""
    return 1 << max(1, 2 * n - 1).bit_length()


@njit(uint64(bytes_in, int64, int64), nogil=True, cache=True)
def _hash(data, start, stop):  # type: ignore[no-untyped-def]
    """FNV-1a, 64 bits, with the finalizer of MurmurHash3, since slots are taken from the low bits."""
    state = np.uint64(0xCBF29CE484222325)
    for position in range(start, stop):
        state = (state ^ np.uint64(data[position])) * np.uint64(0x100000001B3)
    state ^= state >> np.uint64(33)
    state *= np.uint64(0xFF51AFD7ED558CCD)
    state ^= state >> np.uint64(33)
    return state


@njit(int64(bytes_in, int64_in, int32_in, bytes_in, int64, int64, int64), nogil=True, cache=True)
def _find_slot(data, offsets, slots, wanted, start, stop, slot):  # type: ignore[no-untyped-def]
    """The slot that holds wanted[start:stop], or the empty slot where it would go; -1 if every slot was passed.

    slot is where to begin: the low bits of its hash.

    Arrays are mapped from files that are checked while they are served already: a damaged row or offset must end in
    "not found", never in a read outside the arrays or in an endless search.
    """
    mask = len(slots) - 1
    length = stop - start
    for _ in range(len(slots)):
        row = np.int64(slots[slot])
        if row < 0:
            return slot
        if row + 1 < len(offsets):
            first = offsets[row]
            if offsets[row + 1] - first == length and first >= 0 and first + length <= len(data):
                same = True
                for position in range(length):
                    if data[first + position] != wanted[start + position]:
                        same = False
                        break
                if same:
                    return slot
        slot = (slot + 1) & mask
    return np.int64(-1)


@njit(int64(bytes_in, int64_in, int32_in, bytes_in, int64, int64), nogil=True, cache=True)
def find_row(data, offsets, slots, wanted, start, stop):  # type: ignore[no-untyped-def]
    """The row of the id wanted[start:stop], -1 where there is none."""
    first = np.int64(_hash(wanted, start, stop) & np.uint64(len(slots) - 1))
    found = _find_slot(data, offsets, slots, wanted, start, stop, first)
    return max(np.int64(-1), np.int64(slots[found])) if found >= 0 else np.int64(-1)


@njit(int32(bytes_in, int64_in, int32_out), nogil=True, cache=True)
def _fill_slots(data, offsets, slots):  # type: ignore[no-untyped-def]
    """Enter every row; returns the first row whose string stood there already, -1 if all are unique."""
    for row in range(len(offsets) - 1):
        first = np.int64(_hash(data, offsets[row], offsets[row + 1]) & np.uint64(len(slots) - 1))
        slot = _find_slot(data, offsets, slots, data, offsets[row], offsets[row + 1], first)
        if slots[slot] != -1:
            return np.int32(row)
        slots[slot] = row
    return np.int32(-1)


@njit(int32(bytes_in, int64_in, int32_out, int32_out, int32_out), nogil=True, cache=True)
def _number_strings(data, offsets, slots, firsts, which):  # type: ignore[no-untyped-def]
    """Number the strings that differ: firsts[m] = first row of the m-th, which[row] = m. Returns how many there are.

    slots is empty (-1), as long as `slots_for` says, and is overwritten; firsts and which are as long as the rows.
    """
    count = np.int32(0)
    for row in range(len(offsets) - 1):
        first = np.int64(_hash(data, offsets[row], offsets[row + 1]) & np.uint64(len(slots) - 1))
        slot = _find_slot(data, offsets, slots, data, offsets[row], offsets[row + 1], first)
        if slots[slot] == -1:
            slots[slot] = row
            firsts[count] = row
            which[row] = count
            count += np.int32(1)
        else:
            which[row] = which[slots[slot]]
    return count


@njit((bytes_in, int64_in, int32_in, bytes_in, int64_in, int32_out), nogil=True, cache=True)
def _find_rows(data, offsets, slots, wanted, wanted_offsets, out):  # type: ignore[no-untyped-def]
    """out[i] = row of the i-th wanted string, -1 where there is none.

    A look-up waits for a slot, then an offset, then a string, all anywhere in memory. Those of a block of strings are
    asked for together before the first is compared: a million of two million ids take .18 s instead of .74 s.
    """
    mask = np.uint64(len(slots) - 1)
    asked = np.empty((min(_BLOCK, len(out)), 2), dtype=np.int64)
    firsts = np.empty(min(_BLOCK, len(out)), dtype=np.int64)
    slot_lines, offset_lines, data_lines = slots.reshape(-1, 1), offsets.reshape(-1, 1), data.reshape(-1, 1)
    for start in range(0, len(out), _BLOCK):
        stop = min(start + _BLOCK, len(out))
        for i in range(start, stop):
            slot = _hash(wanted, wanted_offsets[i], wanted_offsets[i + 1]) & mask
            firsts[i - start] = slot
            asked[i - start, 0], asked[i - start, 1] = slot, (slot + np.uint64(1)) & mask
            prefetch(slot_lines, asked[i - start, 0], 0)
        for i in range(2 * (stop - start)):
            row = np.int64(slots[asked[i // 2, i % 2]])
            asked[i // 2, i % 2] = row
            if row >= 0 and row < len(offsets):
                prefetch(offset_lines, row, 0)
        for i in range(2 * (stop - start)):
            row = asked[i // 2, i % 2]
            if row >= 0 and row < len(offsets) and offsets[row] >= 0 and offsets[row] < len(data):
                prefetch(data_lines, offsets[row], 0)
        for i in range(start, stop):
            found = _find_slot(
                data, offsets, slots, wanted, wanted_offsets[i], wanted_offsets[i + 1], firsts[i - start]
            )
            out[i] = max(np.int32(-1), slots[found]) if found >= 0 else np.int32(-1)
