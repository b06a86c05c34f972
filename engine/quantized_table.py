"""What engine.quantized_scan searches: rows in one or two bits a coordinate, in the order of engine.pruned_table.

Built from item vectors of any basis, since it turns them first. Held against the definitions by
tests/test_quantized_scan.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexUnsupported, ReleaseCorrupt
from engine.pruned_table import PrunedTable, norms_of
from engine.quantized_scan import GROUP_BITS, LEVELS, quantize_rows
from engine.rotation import ROUNDS, random_signs
from engine.stored_arrays import Read, StoredArrays
from engine.table_lookups import MOST_GROUPS, ROWS, STEP
from engine.vector_table import Vectors

_LANES = GROUP_BITS * STEP
"""Rotated vectors have a multiple of so many coordinates, so that groups of each size come in whole steps."""
_ROWS_AT_ONCE = 256 * ROWS


@dataclass(frozen=True)
class QuantizedTable(StoredArrays):
    """n rows of d coordinates, turned to D, in b blocks of 64; rows behind the last one are zeros.

    codes uint8 (b, D bits / 8, 64), as engine.table_lookups reads them; factors float32 (b, 64): f of
    engine.quantized_scan; signs float32 (4, D): the rotation.
    """

    codes: NDArray[np.uint8]
    factors: NDArray[np.float32]
    signs: NDArray[np.float32]

    @classmethod
    def read(cls, read: Read, n: int, d: int, bits: int) -> QuantizedTable:
        """The table of n rows of d coordinates that `read` finds. Raises what `read` does, ReleaseCorrupt."""
        blocks, turned = -(-n // ROWS), turned_length(d)
        table = cls(
            codes=read("codes", np.uint8, (blocks, turned * bits // 8, ROWS)),
            factors=read("factors", np.float32, (blocks, ROWS)),
            signs=read("signs", np.float32, (ROUNDS, turned)),
        )
        if not np.isin(table.signs, (-1, 1)).all():
            raise ReleaseCorrupt("the rotation of the index has entries other than 1 and -1")
        return table


def turned_length(d: int) -> int:
    """The coordinates of turned vectors of d."""
    return -(-d // _LANES) * _LANES


def require_quantizable(bits: int, d: int) -> None:
    """Raises IndexUnsupported for vectors that are too long."""
    most = MOST_GROUPS * GROUP_BITS // bits
    if turned_length(d) > most:
        raise IndexUnsupported(f"codes of {bits} bits are for vectors of up to {most:,} factors, found {d:,}")


def build_quantized(vectors: Vectors, exact: PrunedTable, bits: int) -> QuantizedTable:
    """The table of vectors (n, d), whose exact table it stands beside; bits 1 or 2. Raises IndexUnsupported."""
    n, d = vectors.shape
    require_quantizable(bits, d)
    blocks, turned = -(-n // ROWS), turned_length(d)
    table = QuantizedTable(
        codes=np.zeros((blocks, turned * bits // 8, ROWS), dtype=np.uint8),
        factors=np.zeros((blocks, ROWS), dtype=np.float32),
        signs=random_signs(turned),
    )
    levels = np.array(LEVELS[bits], dtype=np.float32)
    for start in range(0, n, _ROWS_AT_ONCE):
        rows = vectors[exact.order[start : start + _ROWS_AT_ONCE]]
        chosen = slice(start // ROWS, -(-(start + len(rows)) // ROWS))
        quantize_rows(rows, norms_of(rows), table.signs, levels, table.codes[chosen], table.factors[chosen])
    return table
