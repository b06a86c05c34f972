"""Sums of products of bytes: the inner loop of engine.pruned_scan, in the instruction that processors have for it.

One step takes four coordinates of 64 rows at a time: sums[i] += sum of u_ij q_j over j = 0..3, u unsigned and q signed
bytes, in 32-bit integers, exactly. With AVX-512 VNNI 16 rows are one instruction (vpdpbusd); anywhere else the same
sums are written out for the compiler to make of them what it can. For 600 blocks of 64 rows and 128 coordinates, with
two sums, the one takes 71 us and the other 815; loops that convert bytes to float32 took 370 for one sum. Held against
the definition, both ways, by tests/test_byte_products.py.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS = 64
STEP_COORDINATES = 4
STEP_BYTES = ROWS * STEP_COORDINATES
UNROLLED = 4
"""Steps that are taken at a time, so that the sums are loaded and stored once for all of them."""

_LANES = 16
_BYTE, _WORD = ir.IntType(8), ir.IntType(32)
_BYTES, _WORDS = ir.VectorType(_BYTE, _LANES * STEP_COORDINATES), ir.VectorType(_WORD, _LANES)
_WIDE = ir.VectorType(_WORD, _LANES * STEP_COORDINATES)


def _by_instruction(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """sums + products, by vpdpbusd."""
    kind = ir.FunctionType(_WORDS, [_WORDS, _WORDS, _WORDS])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
    return builder.call(function, [sums, builder.bitcast(unsigned, _WORDS), builder.bitcast(signed, _WORDS)])


def _written_out(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """sums + products, for any processor."""
    products = builder.mul(builder.zext(unsigned, _WIDE), builder.sext(signed, _WIDE))
    for j in range(STEP_COORDINATES):
        places = [_WORD(STEP_COORDINATES * lane + j) for lane in range(_LANES)]
        mask = ir.Constant(ir.VectorType(_WORD, _LANES), places)
        sums = builder.add(sums, builder.shuffle_vector(products, ir.Constant(_WIDE, ir.Undefined), mask))
    return sums


def _has_instruction() -> bool:
    """Whether the code that numba makes here may use it: not where it is told to write for another processor."""
    if config.CPU_NAME or config.CPU_FEATURES is not None:
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni"))


def _stepping(add: Any) -> Any:
    """An intrinsic (codes, step, high, low, sums): UNROLLED steps from `step` on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(place: int, offset: Any, kind: Any) -> Any:
            array = context.make_array(signature.args[place])(context, builder, arguments[place])
            first = builder.bitcast(array.data, _BYTE.as_pointer())
            return builder.bitcast(builder.gep(first, [offset]), kind.as_pointer())

        step = arguments[1]
        number = step.type
        queries = []
        for place in (2, 3):
            of_steps = []
            for s in range(UNROLLED):
                offset = builder.mul(builder.add(step, number(s)), number(STEP_COORDINATES))
                word = builder.load(pointer(place, offset, _WORD))
                one = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), word, _WORD(0))
                splat = builder.shuffle_vector(one, one, ir.Constant(_WORDS, [_WORD(0)] * _LANES))
                of_steps.append(builder.bitcast(splat, _BYTES))
            queries.append(of_steps)
        for group in range(ROWS // _LANES):
            targets = [pointer(4, number(4 * (ROWS * part + _LANES * group)), _WORDS) for part in (0, 1)]
            sums = [_load(builder, target) for target in targets]
            for s in range(UNROLLED):
                row = builder.mul(builder.add(step, number(s)), number(STEP_BYTES))
                at = builder.add(row, number(_LANES * STEP_COORDINATES * group))
                codes = _load(builder, pointer(0, at, _BYTES))
                sums = [add(builder, total, codes, query[s]) for total, query in zip(sums, queries, strict=True)]
            for target, total in zip(targets, sums, strict=True):
                store = builder.store(total, target)
                store.align = 4
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


written_out = _stepping(_written_out)
by_instruction = _stepping(_by_instruction)
add_products = _in_python if config.DISABLE_JIT else by_instruction if _has_instruction() else written_out
"""add_products(codes, step, high, low, sums): UNROLLED steps of two sums of products at a time.

codes uint8 (steps, 256), row i of a step in the bytes 4 i to 4 i + 3; high and low int32 (steps,): the four bytes of a
query's coordinates; sums int32 (2, 64), increased. Nothing is checked.
"""
