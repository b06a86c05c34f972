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


def columns_of_each(ids: StringTable, found: Stacked) -> list[bytes]:
    """`item_ids` and `scores` of each answer. Raises ReleaseCorrupt for a row without an id."""
    stops = np.empty(len(found.sizes), dtype=np.int64)
    size_bytes = _measure(ids.offsets, len(ids.data), found.rows, found.sizes, stops)
    if size_bytes < 0:
        raise ReleaseCorrupt("the id of an item is not in the table of ids: copy the release again, or roll back")
    out = np.empty(size_bytes, dtype=np.uint8)
    _write(ids.data, ids.offsets, found.rows, found.scores, found.sizes, out)
    written, start, cuts = out.tobytes(), 0, []
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


@njit(int64(int64_in, int64, int32_rows_in, int64_in, int64_out), nogil=True, cache=True)
def _measure(offsets, n_bytes, rows, sizes, stops):  # type: ignore[no-untyped-def]
    """stops[i] = where the bytes of answer i end; returns all, or -1 where a row has no id among the n_bytes."""
    total = np.int64(0)
    for i in range(len(rows)):
        for j in range(sizes[i]):
            row = np.int64(rows[i, j])
            if row < 0 or row + 1 >= len(offsets):
                return np.int64(-1)
            length = offsets[row + 1] - offsets[row]
            if offsets[row] < 0 or length < 0 or length > MAX_ID_BYTES or offsets[row] + length > n_bytes:
                return np.int64(-1)
            total += 1 + _varint_size(length) + length
        if sizes[i] > 0:
            total += 1 + _varint_size(4 * sizes[i]) + 4 * sizes[i]
        stops[i] = total
    return total


@njit(int64(int64, bytes_out, int64), nogil=True, cache=True)
def _write_varint(number, out, at):  # type: ignore[no-untyped-def]
    """Seven bits a byte, the lowest first; returns where it ends."""
    while number >= 128:
        out[at] = np.uint8(number & 127 | 128)
        number >>= 7
        at += 1
    out[at] = np.uint8(number)
    return at + 1


@njit((bytes_in, int64_in, int32_rows_in, float32_rows_in, int64_in, bytes_out), nogil=True, cache=True)
def _write(data, offsets, rows, scores, sizes, out):  # type: ignore[no-untyped-def]
    """The answers one after the other, each as ids and scores; out is as long as `_measure` says."""
    at = np.int64(0)
    for i in range(len(rows)):
        for j in range(sizes[i]):
            start, stop = offsets[rows[i, j]], offsets[rows[i, j] + 1]
            out[at] = _ID_TAG
            at = _write_varint(stop - start, out, at + 1)
            for place in range(start, stop):
                out[at] = data[place]
                at += 1
        if sizes[i] > 0:
            out[at] = _SCORES_TAG
            at = _write_varint(4 * sizes[i], out, at + 1)
            of_answer = scores[i, : sizes[i]].view(np.uint8)
            for place in range(4 * sizes[i]):
                out[at] = of_answer[place]
                at += 1
