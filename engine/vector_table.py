"""A table of vectors as a release carries it: float32, or 8 or 16 bits a coordinate with one scale a row.

Vector r is scales[r] codes[r], with scales[r] = max |vector r| / 127 or / 32767; a float32 table has no scales, and its
codes are the vectors. Kernels take `codes` and `scales` as they are mapped from the file; whoever wants numbers asks
for rows, and gets those alone as float32. Training's tables are packed by the same kernel (trainer.eigenbasis). Held
against the definition by tests/test_vector_table.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import float32, njit, types
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.signatures import FASTMATH, float32_out, float32_rows_in, int8_rows_out, int16_rows_out
from engine.vector_formats import FLOAT32

NO_SCALES: NDArray[np.float32] = np.empty(0, dtype=np.float32)
ROWS_AT_ONCE = 1 << 14
"""Rows of a table that are decoded together where all are wanted."""
_NOTHING = np.float32(1e-33)
"""A row without a larger element is rounded to zero: its scale would be too small for float32."""


@dataclass(frozen=True)
class VectorTable:
    """n vectors of d coordinates: codes float32, int16 or int8 (n, d); scales float32 (n,), or empty for float32."""

    codes: NDArray[Any]
    scales: NDArray[np.float32] = field(default_factory=lambda: NO_SCALES)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def format(self) -> str:
        """One of engine.vector_formats.FORMATS."""
        return str(self.codes.dtype)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: int | slice | NDArray[Any]) -> NDArray[np.float32]:
        """The vector of a row, float32 (d,), or those of a slice or an array of rows, float32 (m, d).

        Raises ReleaseCorrupt where a scale is none.
        """
        codes: NDArray[Any] = self.codes[rows]
        if self.format == FLOAT32:
            return codes
        scales = np.asarray(self.scales[rows])
        require_scales(scales)
        return codes * scales[..., np.newaxis]

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All vectors, some rows at a time."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield self[start : start + ROWS_AT_ONCE]


Vectors = NDArray[np.float32] | VectorTable
"""Float32 (n, d), or a table of a release: both have a shape, a length, and rows."""


def table_of(vectors: Vectors) -> VectorTable:
    """The same as a table, without a copy."""
    return vectors if isinstance(vectors, VectorTable) else VectorTable(vectors)


def packed(vectors: NDArray[np.float32], vector_format: str) -> VectorTable:
    """The table of vectors float32 (n, d), rounded to a format; float32 passes."""
    if vector_format == FLOAT32:
        return VectorTable(vectors)
    dtype = np.dtype(vector_format)
    table = VectorTable(np.empty(vectors.shape, dtype), np.empty(len(vectors), dtype=np.float32))
    pack_rows(np.ascontiguousarray(vectors), np.float32(np.iinfo(dtype).max), table.codes, table.scales)
    return table


def require_scales(scales: NDArray[np.float32]) -> None:
    """Raises ReleaseCorrupt unless all are finite and at least 0: kernels do not look."""
    fine = (scales >= 0) & (scales < np.inf)
    if not fine.all():
        raise ReleaseCorrupt(
            f"the scale of a vector is {scales[~fine].flat[0]}, expected a finite number of at least 0: the file was "
            "changed or damaged; copy the release again, or roll back"
        )


@njit(
    [types.void(float32_rows_in, float32, codes_out, float32_out) for codes_out in (int16_rows_out, int8_rows_out)],
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def pack_rows(rows, most, codes, scales):  # type: ignore[no-untyped-def]
    """Round each row to codes, its largest element in size to `most`, and write its scale.

    rows float32 (n, d), finite; codes int16 or int8 (n, d), most float32: 32767 or 127; scales float32 (n,).
    """
    n, d = rows.shape
    for r in range(n):
        row, target = rows[r], codes[r]
        largest = np.float32(0)
        for k in range(d):
            largest = max(largest, abs(row[k]))
        scales[r] = largest / most
        inverse = most / largest if largest > _NOTHING else np.float32(0)
        for k in range(d):
            scaled = row[k] * inverse
            target[k] = np.int32(scaled + np.float32(0.5) if scaled >= 0 else scaled - np.float32(0.5))
