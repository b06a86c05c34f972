"""Products of bytes, summed: the inner loop of engine.pruned_scan, in the instructions that processors have for it.

One step takes four coordinates of 64 rows: codes are unsigned bytes, and a query's coordinates are two signed bytes
each, 128 high + low; everything is exact, in 32-bit integers. With AVX-512 VNNI four products of each of 16 rows are
one instruction (vpdpbusd). Elsewhere the products are written out with 16 bits, which LLVM knows as multiply-adds on
any processor. For 600 blocks of 64 rows and 128 coordinates the one takes 67 us and the other 135; loops in Python's
terms, over float32 or integers, took 340 to 370. Held against the definition, both ways, by
tests/test_byte_products.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.processor import has_feature

ROWS = 64
STEP_COORDINATES = 4
STEP_BYTES = ROWS * STEP_COORDINATES
UNROLLED = 4
"""Steps that are taken at a time, so that the sums are loaded and stored once for all of them."""

_LANES = 16
_BYTE, _SHORT, _WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_BYTES, _WORDS = ir.VectorType(_BYTE, _LANES * STEP_COORDINATES), ir.VectorType(_WORD, _LANES)
_SHORTS, _WIDE = ir.VectorType(_SHORT, _LANES * STEP_COORDINATES), ir.VectorType(_WORD, _LANES * STEP_COORDINATES)


class _ByInstruction:
    """Each byte of the query by vpdpbusd."""

    @staticmethod
    def prepared(builder: Any, high: Any, low: Any) -> Any:
        """The four bytes of a step, high and low, for every row."""
        return [_splat(builder, word, _WORD) for word in (high, low)]

    @staticmethod
    def added(builder: Any, sums: Any, codes: Any, query: Any) -> Any:
        """Both sums, with their products."""
        kind = ir.FunctionType(_WORDS, [_WORDS, _WORDS, _WORDS])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        words = builder.bitcast(codes, _WORDS)
        return [builder.call(function, [total, words, each]) for total, each in zip(sums, query, strict=True)]


class _WrittenOut:
    """Both bytes of the query at once, as numbers of 16 bits: for any processor, all of it into the second sum."""

    @staticmethod
    def prepared(builder: Any, high: Any, low: Any) -> Any:
        """The four numbers 128 high + low of a step, for every row."""
        shorts = ir.VectorType(_SHORT, STEP_COORDINATES)
        above, below = (
            builder.sext(builder.bitcast(word, ir.VectorType(_BYTE, STEP_COORDINATES)), shorts) for word in (high, low)
        )
        whole = builder.add(builder.shl(above, ir.Constant(shorts, [_SHORT(7)] * STEP_COORDINATES)), below)
        quad = ir.IntType(64)
        return builder.sext(builder.bitcast(_splat(builder, builder.bitcast(whole, quad), quad), _SHORTS), _WIDE)

    @staticmethod
    def added(builder: Any, sums: Any, codes: Any, query: Any) -> Any:
        """Both sums; LLVM makes multiply-adds of 16 bits of the products."""
        products = builder.mul(builder.zext(codes, _WIDE), query)
        for lanes in (2 * _LANES, _LANES):
            products = builder.add(*(_every_other(builder, products, lanes, first) for first in (0, 1)))
        return [sums[0], builder.add(sums[1], products)]


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    vector = ir.VectorType(kind, _LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _WORD(0))
    return builder.shuffle_vector(one, one, ir.Constant(_WORDS, [_WORD(0)] * _LANES))


def _every_other(builder: Any, vector: Any, lanes: int, first: int) -> Any:
    mask = ir.Constant(ir.VectorType(_WORD, lanes), [_WORD(2 * lane + first) for lane in range(lanes)])
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _stepping(way: Any) -> Any:
    """An intrinsic (codes, step, high, low, sums): UNROLLED steps from `step` on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(place: int, offset: Any, kind: Any) -> Any:
            array = context.make_array(signature.args[place])(context, builder, arguments[place])
            first = builder.bitcast(array.data, _BYTE.as_pointer())
            return builder.bitcast(builder.gep(first, [offset]), kind.as_pointer())

        step = arguments[1]
        number = step.type
        queries = []
        for s in range(UNROLLED):
            offset = builder.mul(builder.add(step, number(s)), number(STEP_COORDINATES))
            queries.append(way.prepared(builder, *(_load(builder, pointer(place, offset, _WORD)) for place in (2, 3))))
        for group in range(ROWS // _LANES):
            targets = [pointer(4, number(4 * (ROWS * part + _LANES * group)), _WORDS) for part in (0, 1)]
            sums = [_load(builder, target) for target in targets]
            for s in range(UNROLLED):
                row = builder.mul(builder.add(step, number(s)), number(STEP_BYTES))
                at = builder.add(row, number(_LANES * STEP_COORDINATES * group))
                sums = way.added(builder, sums, _load(builder, pointer(0, at, _BYTES)), queries[s])
            for target, total in zip(targets, sums, strict=True):
                builder.store(total, target).align = 1
        return context.get_dummy_value()

    def typer(typing_context, codes, step, high, low, sums):  # type: ignore[no-untyped-def]
        return types.void(codes, types.int64, high, low, sums), codegen

    return intrinsic(typer)


def _load(builder: Any, source: Any) -> Any:
    loaded = builder.load(source)
    loaded.align = 1
    return loaded


def _in_python(codes: Any, step: int, high: Any, low: Any, sums: Any) -> None:
    """With numba's compiler off."""
    for part, words in enumerate((high, low)):
        query = words[step : step + UNROLLED].view(np.int8).astype(np.int32).reshape(UNROLLED, 1, STEP_COORDINATES)
        rows = codes[step : step + UNROLLED].astype(np.int32).reshape(UNROLLED, ROWS, STEP_COORDINATES)
        sums[part] += (rows * query).sum(axis=(0, 2), dtype=np.int32)


written_out = _stepping(_WrittenOut)
by_instruction = _stepping(_ByInstruction)
add_products = _in_python if config.DISABLE_JIT else by_instruction if has_feature("avx512vnni") else written_out
"""add_products(codes, step, high, low, sums): UNROLLED steps at a time.

codes uint8 (steps, 256), row i of a step in the bytes 4 i to 4 i + 3; high and low int32 (steps,): the four bytes of a
query's coordinates; sums int32 (2, 64): 128 sums[0] + sums[1] is increased by the products of the codes with 128 high +
low. Nothing is checked.
"""
