"""Raw rows: what a benchmark measured, one JSON object a line, each with the environment it was measured in."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_PACKAGES = ("nearcart", "duckdb", "faiss-cpu", "grpcio", "numba", "numpy")
_IF_INSTALLED = ("pygrpc-native",)


def environment() -> dict[str, Any]:
    """Processor, cores, Python and the packages that matter."""
    models = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
        **dict(_installed()),
    }


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a file, each with the environment."""
    around = environment()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({**row, "environment": around}) + "\n" for row in rows))


def _installed() -> Iterator[tuple[str, str]]:
    for package in _IF_INSTALLED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


def _cpu_lines() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.is_file() else []
