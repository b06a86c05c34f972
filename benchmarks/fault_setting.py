"""What the parts of benchmarks.faults share: where they run, how long they measure, and how they look at a load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.http2_requests import Request
from benchmarks.load import CallOptions, closed_loop
from benchmarks.made_catalogue import made_shop
from benchmarks.made_release import AskedUsers, publish_shop
from benchmarks.pinned_servers import Cores
from engine.plan import IndexPlan

CONNECTIONS = 4
IN_FLIGHT = 8
"""Of each connection, where a saturation is looked for."""
SMALL = {False: (100_000, 64), True: (2_000, 16)}
"""Items and factors of releases whose search is fast, by whether it is to be quick."""
_ASKED = 500
Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """`seconds` are those of one measurement."""

    transport: str
    cores: Cores
    seconds: float
    quick: bool


def asked_of_small(setting: Setting, releases: Path) -> AskedUsers:
    """Publish a made release whose search is fast; users of it."""
    n_items, factors = SMALL[setting.quick]
    return AskedUsers.of(publish_shop(releases, made_shop(n_items, factors), IndexPlan()), _ASKED)


def saturation(address: str, requests: Sequence[Request], seconds: float) -> float:
    """The most good answers a second."""
    options = CallOptions(warmup_seconds=seconds / 2)
    return closed_loop(address, requests, seconds, CONNECTIONS, IN_FLIGHT, options).achieved


def percentiles(seconds: NDArray[np.float64], **names: float) -> dict[str, float | None]:
    """In milliseconds, by name; None where there are no values."""
    return {name: float(np.percentile(seconds, point)) * 1e3 if len(seconds) else None for name, point in names.items()}
