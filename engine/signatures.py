"""The numba types that kernel signatures are written with.

Signatures are explicit, so that a kernel is compiled (or read from the cache) when its module is imported: never inside
a request, never twice. Inputs are declared read-only, which admits both ordinary and memory-mapped arrays.
"""

from __future__ import annotations

from numba import types

from engine.kernels import tell_of_compiling

tell_of_compiling()

booleans_in = types.Array(types.boolean, 1, "C", readonly=True)
bytes_in = types.Array(types.uint8, 1, "C", readonly=True)
int8_in = types.Array(types.int8, 1, "C", readonly=True)
int32_in = types.Array(types.int32, 1, "C", readonly=True)
int64_in = types.Array(types.int64, 1, "C", readonly=True)
float32_in = types.Array(types.float32, 1, "C", readonly=True)
float64_in = types.Array(types.float64, 1, "C", readonly=True)
bytes_blocks_in = types.Array(types.uint8, 3, "C", readonly=True)
int8_rows_in = types.Array(types.int8, 2, "C", readonly=True)
int16_rows_in = types.Array(types.int16, 2, "C", readonly=True)
float32_rows_in = types.Array(types.float32, 2, "C", readonly=True)
int32_rows_in = types.Array(types.int32, 2, "C", readonly=True)
VECTORS_IN = (float32_rows_in, int16_rows_in, int8_rows_in)
"""The codes of an engine.vector_table.VectorTable: kernels that read vectors are compiled for each."""

bytes_rows_out = types.Array(types.uint8, 2, "C")
bytes_blocks_out = types.Array(types.uint8, 3, "C")
int8_out = types.Array(types.int8, 1, "C")
int8_rows_out = types.Array(types.int8, 2, "C")
int32_out = types.Array(types.int32, 1, "C")
int64_out = types.Array(types.int64, 1, "C")
int32_rows_out = types.Array(types.int32, 2, "C")
booleans_out = types.Array(types.boolean, 1, "C")
bytes_out = types.Array(types.uint8, 1, "C")
int16_rows_out = types.Array(types.int16, 2, "C")
float32_out = types.Array(types.float32, 1, "C")
float32_rows_out = types.Array(types.float32, 2, "C")
float64_out = types.Array(types.float64, 1, "C")
float64_rows_out = types.Array(types.float64, 2, "C")

# `fastmath=True` would let the compiler drop the NaN checks that divergence is found with.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
