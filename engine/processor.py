"""How many processors this process may use, and what instructions the code that numba makes here."""

from __future__ import annotations

import os

import llvmlite.binding
from numba import config


def has_feature(name: str) -> bool:
    """Whether the processor has it, by LLVM's name; not where numba is told to write for another one, or without it."""
    if config.CPU_NAME or config.CPU_FEATURES is not None or (name.startswith("avx") and not config.ENABLE_AVX):
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get(name))


def resolved_threads(threads: int) -> int:
    """The number of threads that `threads` means; 0 means every processor this process may use."""
    if threads:
        return threads
    # Where the system can bind a process to processors (Linux), a container's share is smaller than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
