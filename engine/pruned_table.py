"""What engine.pruned_scan searches: rows by falling norm, their coordinates in 8 bits, and what that takes from them.

Built from item vectors in the eigenbasis of their Gram matrix, where the first coordinates hold most of the energy: the
head is the first half of them. A release holds the arrays beside the vectors, so that servers map them. Every number
that a bound is made of is rounded up, and holds the rounding errors of the products that it stands for; which these
are: docs/algorithm.md, "Exact search that prunes". Checked by tests/test_pruned_table.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.byte_products import STEP_BYTES, STEP_COORDINATES
from engine.pruned_scan import BLOCK, HEAD_STEP, SEGMENT
from engine.stored_arrays import Read, StoredArrays
from engine.vector_table import ROWS_AT_ONCE, Vectors, table_of

_CODES = 127
_ZERO = 128
"""What is added to the codes of heads, which products want unsigned."""
_MOST_HEAD = 384
"""Heads cost little by the instruction of engine.byte_products: with 128 factors a head of all of them takes .8 and .55
of the time of half of them (Gowalla, completejourney). With 512 a head of 384 takes 1 to 1.2 and .6 of the time of 256
for users, .6 to 1.3 for carts, mostly less than 1; one of 512 is slower than 384 in seven of eight cases."""


@dataclass(frozen=True)
class PrunedTable(StoredArrays):
    """n rows of d coordinates in blocks of 64, b blocks; rows behind the last one are zeros.

    order int32 (n,): rows by falling norm. block_norms float32 (b, 3): the largest norm of a row, of its head and of
    its tail, from this block on. head_codes uint8 (b, head / 4, 256): codes plus 128, four coordinates of a row after
    four of the one before; head_scales, head_errors and tail_norms float32
    (b, 64); tail_codes int8 (64 b, d - head), tail_scales and errors float32 (64 b,), rest_norms float32 (64 b,
    segments): the norm of what is left of the tail behind each segment. In units of |q|, head_errors is how far the
    product with the head's codes may be from that with the head, and errors that with all codes.
    """

    order: NDArray[np.int32]
    block_norms: NDArray[np.float32]
    head_codes: NDArray[np.uint8]
    head_scales: NDArray[np.float32]
    head_errors: NDArray[np.float32]
    tail_norms: NDArray[np.float32]
    tail_codes: NDArray[np.int8]
    tail_scales: NDArray[np.float32]
    rest_norms: NDArray[np.float32]
    errors: NDArray[np.float32]

    @property
    def head(self) -> int:
        """Coordinates of the head, a multiple of HEAD_STEP; more than d where d is small."""
        return STEP_COORDINATES * int(self.head_codes.shape[1])

    @classmethod
    def read(cls, read: Read, n: int, d: int) -> PrunedTable:
        """The table of n rows of d coordinates that `read` finds. Raises what `read` does."""
        blocks, head = -(-n // BLOCK), head_length(d)
        shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "order": (np.int32, (n,)),
            "block_norms": (np.float32, (blocks, 3)),
            "head_codes": (np.uint8, (blocks, head // STEP_COORDINATES, STEP_BYTES)),
            "head_scales": (np.float32, (blocks, BLOCK)),
            "head_errors": (np.float32, (blocks, BLOCK)),
            "tail_norms": (np.float32, (blocks, BLOCK)),
            "tail_codes": (np.int8, (blocks * BLOCK, max(0, d - head))),
            "tail_scales": (np.float32, (blocks * BLOCK,)),
            "rest_norms": (np.float32, (blocks * BLOCK, n_segments(d))),
            "errors": (np.float32, (blocks * BLOCK,)),
        }
        return cls(**{name: read(name, *shape) for name, shape in shapes.items()})


def head_length(d: int) -> int:
    """How many of d coordinates the head has: all of them, in steps, up to _MOST_HEAD."""
    return min(_MOST_HEAD, HEAD_STEP * max(1, -(-d // HEAD_STEP)))


def n_segments(d: int) -> int:
    """How many segments the tail has."""
    return -(-max(0, d - head_length(d)) // SEGMENT)


def rounding(d: int) -> float:
    """At least the error of any of the products that are compared, in units of |q| |y|.

    A float32 sum of m products is wrong by less than 1.01 m 2^-24 sum |q_k y_k| (Higham 2002, section 3.1). A score has
    m = d, and m = d + 1 where a row's scale multiplies the sum; a row that was decoded is wrong by 2^-24 |y|; the codes
    of a row, whose norm is below 1.4 |y| for d up to 8192, have m <= d + 2; a bound adds three terms.
    """
    return (4 * d + 64) * 2.0**-24


def underflow(d: int) -> float:
    """At least what is lost in any of these products to numbers too small for float32."""
    return (8 * d + 64) * 2.0**-149


def norms_of(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """The norm of each row, computed in float64: squares of float32 overflow and vanish."""
    norms: NDArray[np.float64] = np.sqrt(np.einsum("nk,nk->n", vectors, vectors, dtype=np.float64))
    return norms


def build_table(vectors: Vectors) -> PrunedTable:
    """The table of vectors (n, d). What is held beside it is a few blocks of rows."""
    n, d = vectors.shape
    norms = np.concatenate([np.empty(0), *(norms_of(block) for block in table_of(vectors).blocks())])
    order = np.argsort(-norms, kind="stable").astype(np.int32)
    blocks, head = -(-n // BLOCK), head_length(d)
    table = PrunedTable(
        order=order,
        block_norms=np.zeros((blocks, 3), dtype=np.float32),
        head_codes=np.full((blocks, head // STEP_COORDINATES, STEP_BYTES), _ZERO, dtype=np.uint8),
        head_scales=np.zeros((blocks, BLOCK), dtype=np.float32),
        head_errors=np.zeros((blocks, BLOCK), dtype=np.float32),
        tail_norms=np.zeros((blocks, BLOCK), dtype=np.float32),
        tail_codes=np.zeros((blocks * BLOCK, max(0, d - head)), dtype=np.int8),
        tail_scales=np.zeros(blocks * BLOCK, dtype=np.float32),
        rest_norms=np.zeros((blocks * BLOCK, n_segments(d)), dtype=np.float32),
        errors=np.zeros(blocks * BLOCK, dtype=np.float32),
    )
    for start in range(0, n, ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        _fill(table, start, vectors[rows], norms[rows])
    for kind in range(3):
        largest = table.block_norms[::-1, kind]
        table.block_norms[:, kind] = np.maximum.accumulate(largest)[::-1]
    return table


def _fill(table: PrunedTable, start: int, vectors: NDArray[np.float32], norms: NDArray[np.float64]) -> None:
    """Enter vectors float64 (m, d), the rows from place `start` on, with their norms."""
    m, d = vectors.shape
    head, first, last = table.head, start // BLOCK, -(-(start + m) // BLOCK)
    padded = np.zeros(((last - first) * BLOCK, max(d, head)))
    padded[:m, :d] = vectors
    lengths = np.zeros(len(padded))
    lengths[:m] = norms
    head_codes, head_scales, head_lost = _quantized(padded[:, :head])
    tail_codes, tail_scales, tail_lost = _quantized(padded[:, head:])
    tails, heads = norms_of(padded[:, head:]), norms_of(padded[:, :head])
    allowance = rounding(d) * lengths
    blocks, places = slice(first, last), slice(first * BLOCK, last * BLOCK)
    steps = (head_codes.astype(np.int16) + _ZERO).reshape(-1, BLOCK, head // STEP_COORDINATES, STEP_COORDINATES)
    table.head_codes[blocks] = steps.transpose(0, 2, 1, 3).reshape(-1, head // STEP_COORDINATES, STEP_BYTES)
    table.head_scales[blocks] = head_scales.reshape(-1, BLOCK)
    table.head_errors[blocks] = _up(head_lost + allowance).reshape(-1, BLOCK)
    table.tail_norms[blocks] = _up(tails).reshape(-1, BLOCK)
    table.tail_codes[places] = tail_codes
    table.tail_scales[places] = tail_scales
    for segment in range(table.rest_norms.shape[1]):
        rest = padded[:, head + (segment + 1) * SEGMENT :]
        table.rest_norms[places, segment] = _up(norms_of(rest))
    table.errors[places] = _up(head_lost + tail_lost + allowance)
    for kind, each in enumerate((lengths, heads, tails)):
        # The bounds of a block stand for scores too, and for the sum of two products of norms.
        table.block_norms[blocks, kind] = _up(each + allowance).reshape(-1, BLOCK).max(axis=1)


def _quantized(values: NDArray[np.float64]) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float64]]:
    """Codes and a scale for each row, and the norm of what scale times codes leaves of it."""
    largest = np.abs(values).max(axis=1, initial=0.0)
    scales = (largest / _CODES).astype(np.float32)
    exact = scales.astype(np.float64)[:, np.newaxis]
    ratios = np.divide(values, exact, out=np.zeros_like(values), where=exact > 0)
    codes = np.clip(np.rint(ratios), -_CODES, _CODES).astype(np.int8)
    return codes, scales, norms_of(values - codes * exact)


def _up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The next greater float32, or one beyond it."""
    up: NDArray[np.float32] = np.nextafter((values * (1 + 1e-12)).astype(np.float32), np.float32(np.inf))
    return up
