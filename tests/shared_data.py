"""Where the data lies that may be used by tests but not be part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data(name: str) -> Path:
    """A file or folder of the shared data ($NEARCART_DATA, else ../shared/data); skips the test where it is absent."""
    root = Path(os.environ.get("NEARCART_DATA") or Path(__file__).parents[2] / "shared" / "data")
    path = root / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set NEARCART_DATA to the folder of the shared data")
    return path
