"""What instructions the code that numba makes here may use."""

from __future__ import annotations

import llvmlite.binding
from numba import config


def has_feature(name: str) -> bool:
    """Whether the processor has it, by LLVM's name; not where numba is told to write for another one, or without it."""
    if config.CPU_NAME or config.CPU_FEATURES is not None or (name.startswith("avx") and not config.ENABLE_AVX):
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get(name))
