"""FAISS and BLAS as this program wants them: one FAISS, its BLAS on the processor's own kernels, one thread a query.

- `faiss-cpu`, `faiss-gpu` and `faiss-gpu-cuvs` all install the package `faiss`, over one another: exactly one may be
  there.
- Their wheels carry an OpenBLAS (0.3.15) that does not know newer processors and takes its oldest kernels for them,
  which makes building inverted lists several times slower. It reads OPENBLAS_CORETYPE once, when FAISS is imported.
  numpy carries one of its own, which knows them and has read the environment before.
- A library that spreads one query over threads keeps the other queries of a server waiting, and spins afterwards.

Nothing else imports FAISS or sets threads for serving. Checked by tests/test_libraries.py.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy  # noqa: F401 - before FAISS: its BLAS has read the environment then
from threadpoolctl import threadpool_limits

from engine.errors import IndexUnsupported

_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")
_CORE_TYPE = "OPENBLAS_CORETYPE"
_FLAGS = Path("/proc/cpuinfo")
_KERNELS = (("avx512bw", "SkylakeX"), ("avx2", "Haswell"))


def core_type(flags: str) -> str | None:
    """The kernels of an old OpenBLAS that fit a processor with these flags; None where it must find out itself."""
    names = set(flags.split())
    return next((kernels for flag, kernels in _KERNELS if flag in names), None)


def installed(names: Sequence[str]) -> list[str]:
    """Those of these distributions that are there; a list of who owns which package would cost .15 s at every start."""
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(importlib.metadata.distribution(name).name)
    return found


def require_one_faiss(owners: Sequence[str]) -> None:
    """Raises IndexUnsupported where several distributions have installed the package over one another."""
    if len(set(owners)) > 1:
        raise IndexUnsupported(
            f"{', '.join(sorted(set(owners)))} are all installed and overwrite one another's files; expected one of "
            "them: uninstall all, then install one again"
        )


def import_faiss() -> Any:
    """The package `faiss`. Raises IndexUnsupported."""
    require_one_faiss(installed(_WHEELS))
    kernels = core_type(_flags())
    given = os.environ.get(_CORE_TYPE)
    if kernels is not None and given is None:
        os.environ[_CORE_TYPE] = kernels
    try:
        import faiss
    finally:
        if given is None:
            os.environ.pop(_CORE_TYPE, None)
    return faiss


def use_one_thread() -> None:
    """One thread for each query: of BLAS in the whole process, of OpenMP for the calling thread."""
    faiss.omp_set_num_threads(1)
    threadpool_limits(1, "blas")


def _flags() -> str:
    if not _FLAGS.is_file():
        return ""
    lines = _FLAGS.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")


faiss = import_faiss()
