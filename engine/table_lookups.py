"""Sums of table look-ups, compared: the inner loop of engine.quantized_scan, in the instructions that processors have.

A row has one code of four bits for each group of its coordinates, a query a table of 16 bytes for each group, and the
row's sum is that of the entries that its codes name. Byte shuffles look up one group of 64 rows at once (F. André,
A.-M. Kermarrec, N. Le Scouarnec, "Cache locality is not enough: high-performance nearest neighbor search with product
quantization fast scan", PVLDB 9(4), 2015): with AVX-512 BW in one instruction, with AVX2 in two. On other processors
numba compiles the definition. All ways give the same sums, in integers. For 641 blocks of 64 rows and 128 groups they
take 85, 104 and 3,000 us. Held against the definition by tests/test_table_lookups.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.processor import has_feature

ROWS = 64
ENTRIES = 16
STEP = 4
"""Groups that are looked up at a time; two share a byte of the codes, and all four a sum of bytes."""
MOST_ENTRY = 255 // STEP
"""The largest entry of a table: the sum of four must stay a byte."""

MOST_GROUPS = 65_535 // MOST_ENTRY // STEP * STEP
"""Sums have 16 bits."""

_BYTE, _SHORT, _WORD, _LONG, _FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_TABLE = ir.VectorType(_BYTE, ENTRIES)
_FLAGS = ("contract",)


class _Shuffles:
    """Look-ups of so many bytes at a time by an instruction that shuffles 16 bytes by the lower halves of others."""

    def __init__(self, width: int, instruction: str) -> None:
        self.width, self.instruction = width, instruction
        self.bytes, self.shorts = ir.VectorType(_BYTE, width), ir.VectorType(_SHORT, width // 2)
        self.lanes = width // 2
        self.words, self.floats = ir.VectorType(_WORD, self.lanes), ir.VectorType(_FLOAT, self.lanes)

    def looked_up(self, builder: Any, table: Any, codes: Any) -> Any:
        """The entries of a table, a pointer to its bytes, for the codes in the lower halves of bytes below 128."""
        kind = ir.FunctionType(self.bytes, [self.bytes, self.bytes])
        shuffle = cgutils.get_or_insert_function(builder.module, kind, self.instruction)
        one = _load(builder, table, _TABLE)
        places = ir.Constant(ir.VectorType(_WORD, self.width), [_WORD(i % ENTRIES) for i in range(self.width)])
        return builder.call(shuffle, [builder.shuffle_vector(one, ir.Constant(_TABLE, ir.Undefined), places), codes])

    def halves(self, builder: Any, codes: Any) -> list[Any]:
        """The lower and the upper four bits of each byte."""
        mask = ir.Constant(self.bytes, [_BYTE(15)] * self.width)
        above = builder.bitcast(self.shifted(builder, codes, 4), self.bytes)
        return [builder.and_(codes, mask), builder.and_(above, mask)]

    def shifted(self, builder: Any, value: Any, bits: int) -> Any:
        """16-bit lanes, shifted right."""
        return builder.lshr(builder.bitcast(value, self.shorts), self.constant(bits))

    def constant(self, value: int) -> Any:
        """In every 16-bit lane."""
        return ir.Constant(self.shorts, [_SHORT(value)] * self.lanes)

    def splat(self, builder: Any, value: Any) -> Any:
        """A float in every lane."""
        one = builder.insert_element(ir.Constant(self.floats, ir.Undefined), value, _WORD(0))
        return builder.shuffle_vector(one, one, ir.Constant(self.words, [_WORD(0)] * self.lanes))


def _scanning(way: _Shuffles) -> Any:
    """An intrinsic like `_by_definition`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
        ]
        codes, tables, factors = (builder.bitcast(array.data, _BYTE.as_pointer()) for array in arrays)
        pairs = cgutils.unpack_tuple(builder, arrays[0].shape)[0]
        step, offset, least = (way.splat(builder, value) for value in arguments[3:])
        passing = _LONG(0)
        for piece in range(ROWS // way.width):
            totals = _piece_sums(way, builder, codes, tables, pairs, piece)
            for half, total in enumerate(totals):
                first = ROWS // 2 * half + way.lanes * piece
                numbers = builder.uitofp(builder.zext(total, way.words), way.floats)
                factor = _load(builder, builder.gep(factors, [_LONG(4 * first)]), way.floats)
                estimate = builder.fadd(builder.fmul(numbers, step, flags=_FLAGS), offset, flags=_FLAGS)
                chosen = builder.fcmp_unordered("uge", builder.fmul(estimate, factor, flags=_FLAGS), least)
                bits = builder.zext(builder.bitcast(chosen, ir.IntType(way.lanes)), _LONG)
                passing = builder.or_(passing, builder.shl(bits, _LONG(first)))
        return passing

    def typer(typing_context, codes, tables, factors, step, offset, least):  # type: ignore[no-untyped-def]
        number = types.float32
        return types.uint64(codes, tables, factors, number, number, number), codegen

    return intrinsic(typer)


def _piece_sums(way: _Shuffles, builder: Any, codes: Any, tables: Any, pairs: Any, piece: int) -> list[Any]:
    """The sums of the rows in the even bytes of a piece of each step's 64, and those in the odd ones.

    Sums of four entries are bytes. As 16-bit numbers they are added twice, as they are and without their lower bytes.
    """
    both = [cgutils.alloca_once_value(builder, way.constant(0)) for _ in range(2)]
    with cgutils.for_range_slice(builder, pairs.type(0), pairs, pairs.type(STEP // 2)) as (pair, _):
        total = None
        for s in range(STEP // 2):
            at = builder.add(pair, pair.type(s))
            offset = builder.add(builder.mul(at, at.type(ROWS)), at.type(way.width * piece))
            loaded = _load(builder, builder.gep(codes, [offset]), way.bytes)
            for half, code in enumerate(way.halves(builder, loaded)):
                table = builder.add(builder.mul(at, at.type(2 * ENTRIES)), at.type(ENTRIES * half))
                entries = way.looked_up(builder, builder.gep(tables, [table]), code)
                total = entries if total is None else builder.add(total, entries)
        for target, each in zip(
            both, (builder.bitcast(total, way.shorts), way.shifted(builder, total, 8)), strict=True
        ):
            builder.store(builder.add(builder.load(target), each), target)
    mixed, odd = (builder.load(target) for target in both)
    return [builder.sub(mixed, builder.shl(odd, way.constant(8))), odd]


def _load(builder: Any, source: Any, kind: Any) -> Any:
    loaded = builder.load(builder.bitcast(source, kind.as_pointer()))
    loaded.align = 1
    return loaded


def _by_definition(codes: Any, tables: Any, factors: Any, step: Any, offset: Any, least: Any) -> Any:
    """As described at `passing_rows`, in the terms of Python and numba."""
    passing = np.uint64(0)
    for row in range(ROWS):
        lane = 2 * (row % (ROWS // 2)) + row // (ROWS // 2)
        total = np.int64(0)
        for pair in range(codes.shape[0]):
            code = codes[pair, lane]
            total += np.int64(tables[2 * pair, code & 15]) + np.int64(tables[2 * pair + 1, code >> 4])
        estimate = (np.float32(total) * step + offset) * factors[row]
        if not estimate < least:
            passing |= np.uint64(1) << np.uint64(row)
    return passing


by_definition = _by_definition if config.DISABLE_JIT else njit(nogil=True)(_by_definition)
by_512_bits = _scanning(_Shuffles(64, "llvm.x86.avx512.pshuf.b.512"))
by_256_bits = _scanning(_Shuffles(32, "llvm.x86.avx2.pshuf.b"))


@intrinsic
def _lowest_bit(typing_context, bits):  # type: ignore[no-untyped-def]
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), codegen


def _lowest_bit_of(bits: Any) -> int:
    """With numba's compiler off."""
    whole = int(bits)
    return (whole & -whole).bit_length() - 1


lowest_bit = _lowest_bit_of if config.DISABLE_JIT else _lowest_bit
"""The place of the lowest bit that is set; bits are not all 0."""


def _best_way() -> Any:
    if config.DISABLE_JIT:
        return by_definition
    return by_512_bits if has_feature("avx512bw") else by_256_bits if has_feature("avx2") else by_definition


passing_rows = _best_way()
"""passing_rows(codes, tables, factors, step, offset, least): a bit, uint64, for each of 64 rows that may reach `least`.

codes uint8 (groups / 2, 64): of two groups, in the lower and the upper half of a byte; row i in byte 2 i, row 32 + i in
byte 2 i + 1. tables uint8 (groups, 16), no entry above MOST_ENTRY; factors float32 (64,); step, offset, least float32.
A row passes unless (step * sum + offset) * factor < least, so what is no number passes. groups is a multiple of STEP,
and at most MOST_GROUPS. Nothing is checked.
"""
