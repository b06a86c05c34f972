"""The columns of an answer as the bytes of a message: ids and scores without a Python object for each item.

Every response has `item_ids` as field 1 and `scores` as field 2. A message is the concatenation of the bytes of its
fields (https://protobuf.dev/programming-guides/encoding/): these two are written here, and what else a response says is
serialized by protobuf and put behind. Held against protobuf itself by tests/test_wire_columns.py.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit

from engine.errors import ReleaseCorrupt
from engine.ids import MAX_ID_BYTES, StringTable
from engine.signatures import bytes_in, bytes_out, float32_rows_in, int32_rows_in, int64_in, int64_out
from engine.stacked import Stacked

_ID_TAG, _SCORES_TAG = (1 << 3) | 2, (2 << 3) | 2
"""Fields 1 and 2, both of a length and so many bytes."""
_ROOM = 48
"""Bytes for an item that are tried first; ids may be longer."""


def columns_of_each(ids: StringTable, found: Stacked) -> list[bytes]:
    """`item_ids` and `scores` of each answer. Raises ReleaseCorrupt for a row without an id."""
    stops = np.empty(len(found.sizes), dtype=np.int64)
    out = np.empty(_ROOM * (len(stops) + found.rows.size), dtype=np.uint8)
    arguments = ids.data, ids.offsets, found.rows, found.scores, found.sizes
    if (size_bytes := _write(*arguments, stops, out)) > len(out):
        out = np.empty(size_bytes, dtype=np.uint8)
        _write(*arguments, stops, out)
    if size_bytes < 0:
        raise ReleaseCorrupt("the id of an item is not in the table of ids: copy the release again, or roll back")
    written, start, cuts = out[:size_bytes].tobytes(), 0, []
    for stop in stops.tolist():
        cuts.append(written[start:stop])
        start = stop
    return cuts


@njit(int64(int64), nogil=True, cache=True)
def _varint_size(number):  # type: ignore[no-untyped-def]
    size = np.int64(1)
    while number >= 128:
        number >>= 7
        size += 1
    return size


@njit(int64(int64, bytes_out, int64), nogil=True, cache=True)
def _write_varint(number, out, at):  # type: ignore[no-untyped-def]
    """Seven bits a byte, the lowest first; returns where it ends."""
    while number >= 128:
        out[at] = np.uint8(number & 127 | 128)
        number >>= 7
        at += 1
    out[at] = np.uint8(number)
    return at + 1


@njit(int64(bytes_in, int64_in, int32_rows_in, float32_rows_in, int64_in, int64_out, bytes_out), nogil=True, cache=True)
def _write(data, offsets, rows, scores, sizes, stops, out):  # type: ignore[no-untyped-def]
    """The answers one after the other, each as ids and scores; stops[i]: where the i-th ends.

    Returns how many bytes they take, which are written as far as there is room; -1 where a row has no id.
    """
    at = np.int64(0)
    for i in range(len(rows)):
        for j in range(sizes[i]):
            row = np.int64(rows[i, j])
            if row < 0 or row + 1 >= len(offsets):
                return np.int64(-1)
            start, stop = offsets[row], offsets[row + 1]
            if start < 0 or stop < start or stop - start > MAX_ID_BYTES or stop > len(data):
                return np.int64(-1)
            fits = at + 1 + _varint_size(stop - start) + stop - start <= len(out)
            if fits:
                out[at] = _ID_TAG
                _write_varint(stop - start, out, at + 1)
            at += 1 + _varint_size(stop - start)
            if fits:
                for place in range(start, stop):
                    out[at + place - start] = data[place]
            at += stop - start
        if sizes[i] > 0:
            size_bytes = 4 * sizes[i]
            fits = at + 1 + _varint_size(size_bytes) + size_bytes <= len(out)
            if fits:
                out[at] = _SCORES_TAG
                _write_varint(size_bytes, out, at + 1)
            at += 1 + _varint_size(size_bytes)
            if fits:
                of_answer = scores[i, : sizes[i]].view(np.uint8)
                for place in range(size_bytes):
                    out[at + place] = of_answer[place]
            at += size_bytes
        stops[i] = at
    return at
