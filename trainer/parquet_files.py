"""Parquet that leaves the program: files that are whole or absent, and ids as columns without a Python string for any.

What stands in the files is the business of trainer.export and trainer.recommend_all. Checked by their tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.ids import StringTable
from engine.release import flush, publishing


@contextlib.contextmanager
def replacing(path: Path, outcome: str) -> Iterator[Path]:
    """A file beside `path` to write, renamed over it at the end, durably; or removed, and `path` is as it was.

    Raises PublishFailed, which says `outcome`.
    """
    # One fixed name: what a killed command was writing is written over by the next.
    beside = path.with_name(f".{path.name}.partial")
    with publishing(path, outcome):
        try:
            yield beside
            flush(beside)
            beside.replace(path)
            flush(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def ids_of_range(ids: StringTable, start: int, stop: int) -> pa.Array:
    """The ids of the rows from start to stop, as pa.string(); of at most 2 GiB together."""
    offsets = ids.offsets[start : stop + 1]
    data = np.ascontiguousarray(ids.data[offsets[0] : offsets[-1]])
    starts = (offsets - offsets[0]).astype(np.int32)
    return pa.StringArray.from_buffers(stop - start, pa.py_buffer(starts), pa.py_buffer(data))


def all_ids(ids: StringTable) -> pa.Array:
    """All ids, as pa.large_string(), whose buffers are those of the table: nothing is copied."""
    return pa.LargeStringArray.from_buffers(len(ids), pa.py_buffer(ids.offsets), pa.py_buffer(ids.data))
