"""The formats that a release may carry its vectors in: names alone, which the command line reads before anything else.

What they are is engine.vector_table, how a release is brought into one engine.packing.
"""

from __future__ import annotations

from engine.errors import UsageError

FLOAT32 = "float32"
FORMATS = (FLOAT32, "int16", "int8")
"""From the finest to the coarsest."""


def require_no_finer(release_id: str, found: str, wanted: str) -> None:
    """Raises UsageError for a format that is finer than the one that a release has."""
    if FORMATS.index(wanted) < FORMATS.index(found):
        raise UsageError(
            f"--vectors {wanted}: found {found} in release {release_id}, expected it or a coarser format, since what "
            f"rounding took is gone: rebuild a release that has {wanted}, or `nearcart train --vectors {wanted}`"
        )
