"""Compiling is told, counted, and complete."""

from __future__ import annotations

import importlib.metadata
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config, njit

from engine import kernels

ROOT = Path(__file__).parents[1]


def test_every_module_of_kernels_is_compiled_by_warmup():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("engine", "trainer")
        for path in (ROOT / package).glob("*.py")
        if "\n@njit" in path.read_text()
    }
    assert {entry.value for entry in importlib.metadata.entry_points(group=kernels.GROUP)} == modules
    assert [loaded.module for loaded in kernels.load_kernels()] == sorted(modules)


@pytest.mark.skipif(config.DISABLE_JIT, reason="numba's compiler is off")
def test_a_kernel_that_is_compiled_is_counted_and_the_first_one_told(caplog, monkeypatch):
    monkeypatch.setattr(kernels._listener, "compiled", 0)
    with caplog.at_level(logging.INFO, logger="engine.kernels"):
        njit("int64(int64)")(lambda x: x + 1)
        njit("int64(int64)")(lambda x: x + 2)
    assert kernels._listener.compiled == 2
    assert caplog.messages == [
        "compiling kernels for this processor, some ten seconds; later starts read them from the cache"
    ]


def test_warmup_reads_from_the_cache_what_was_compiled_before():
    kernels.load_kernels()
    ran = subprocess.run(
        [sys.executable, "-m", "engine.cli", "warmup"], capture_output=True, text=True, check=True, timeout=120
    )
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)
    assert all(line.endswith("all from the cache") for line in lines)
