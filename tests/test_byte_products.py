"""The sums of products of bytes against their definition, by the processor's instruction and written out."""

from __future__ import annotations

import llvmlite.binding
import numpy as np
import pytest
from numba import config, njit

from engine import byte_products
from engine.byte_products import STEP_BYTES, UNROLLED


def stepped(add):
    @njit(nogil=True)
    def run(codes, high, low, sums):
        for step in range(0, len(high), 4):
            add(codes, step, high, low, sums)

    return run


WAYS = ["add_products"] if config.DISABLE_JIT else ["add_products", "written_out", "by_instruction"]


@pytest.fixture(params=WAYS)
def run(request):
    if request.param == "by_instruction" and not llvmlite.binding.get_host_cpu_features().get("avx512vnni"):
        pytest.skip("this processor has no AVX-512 VNNI")
    return stepped(getattr(byte_products, request.param))


@pytest.mark.parametrize("coordinates", [16, 64, 128])
@pytest.mark.parametrize("extreme", [False, True])
def test_sums_are_those_of_the_definition_and_are_added_to(run, coordinates, extreme):
    generator = np.random.default_rng(coordinates)
    steps = coordinates // 4
    codes = generator.integers(1, 256, size=(steps, STEP_BYTES)).astype(np.uint8)
    high = generator.integers(-127, 128, size=coordinates).astype(np.int8)
    low = generator.integers(-64, 64, size=coordinates).astype(np.int8)
    if extreme:
        codes[:], high[:], low[:] = 255, -127, -64
    rows = codes.reshape(steps, 64, 4).transpose(1, 0, 2).reshape(64, coordinates).astype(int)
    sums = np.full((2, 64), 7, dtype=np.int32)
    run(codes, high.view(np.int32), low.view(np.int32), sums)
    query = 128 * high.astype(int) + low
    assert (128 * sums[0] + sums[1]).tolist() == (128 * 7 + 7 + rows @ query).tolist()


def test_as_many_steps_are_taken_at_a_time_as_the_kernels_count_with():
    assert UNROLLED == 4
