"""Tables that live in files while memory is short: the users' vectors, which training writes and reads in rows.

The files have no name and are gone with their tables, however the process ends. Checked by tests/test_scratch.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError

Empty = Callable[[tuple[int, ...], Any], NDArray[Any]]
"""empty(shape, dtype): a table to be filled."""


def empty_in(directory: Path | None) -> Empty:
    """Tables in memory, or in files of a directory. Raises UsageError where no file can be made there."""
    if directory is None:
        return np.empty

    def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        if not np.prod(shape):
            return np.empty(shape, dtype)
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                # The map outlives the file's only name and its descriptor.
                return np.memmap(file, dtype=dtype, mode="w+", shape=shape).view(np.ndarray)
        except OSError as error:
            raise UsageError(
                f"--scratch {directory}: {error.strerror}: expected a directory with enough room"
            ) from error

    return empty
