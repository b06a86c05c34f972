"""What a training will hold at its peak, predicted before it starts, and what the machine or the container has left.

The prediction counts what grows with the data, tables of vectors, and what each thread works in. It is held against
measured processes by tests/test_memory.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.processor import resolved_threads
from engine.row_solver import RESIDENT_FLOATS
from trainer.eigenbasis import ROTATION_FLOATS, gram_blocks
from trainer.errors import MemoryShort
from trainer.interactions import Interactions
from trainer.options import AlsOptions

_FLOAT_BYTES = 4
_PACKED_BYTES = 2
_SCRATCH_BYTES = 48 << 20
"""What does not grow with the data: libraries, files on their way, what the allocator keeps."""
_THREAD_FLOATS = (RESIDENT_FLOATS, ROTATION_FLOATS, ROTATION_FLOATS)
"""What a thread works in: a row's gathered vectors, and a block of a table with its product. None exceeds the table."""
_MATRICES = 6
"""Float64 matrices of factors by factors at a time beside the blocks of one that is summed: what LAPACK works in."""


def predicted_bytes(n_users: int, n_items: int, factors: int, threads: int, *, item_copies: int = 0) -> int:
    """What training takes beyond the interactions: both sides' vectors, the larger one again in 16 bits, scratch.

    `item_copies` float32 tables of items are held besides, as by momentum and early stopping.
    """
    most = max(n_users, n_items)
    vectors = (n_users + (1 + item_copies) * n_items) * factors * _FLOAT_BYTES
    table = most * (factors * _PACKED_BYTES + _FLOAT_BYTES)
    return vectors + table + _scratch_bytes(most, factors, threads)


def _scratch_bytes(most: int, factors: int, threads: int) -> int:
    """What is held beside the tables, the largest of which has so many rows."""
    matrices = (_MATRICES + gram_blocks(most)) * factors * factors * 8
    buffers = threads * sum(min(floats, most * factors) for floats in _THREAD_FLOATS) * _FLOAT_BYTES
    return matrices + buffers + _SCRATCH_BYTES


def require_memory(
    interactions: Interactions, options: AlsOptions, *, item_copies: int = 0, available: int | None = None
) -> None:
    """Raises MemoryShort where training would not fit into `available` bytes; without them, what there is.

    `item_copies` are tables that are made after this call, beside those of the options: of early stopping, and the
    first vectors of a warm start. What the caller has made already is not among what is available.
    """
    in_memory = interactions.n_users if options.scratch is None else 0
    sizes_of_data = in_memory, interactions.n_items, options.factors
    copies = item_copies + (options.momentum > 0)
    needed = predicted_bytes(*sizes_of_data, resolved_threads(options.threads), item_copies=copies)
    sizes = f"{interactions.n_users:,} users and {interactions.n_items:,} items with {options.factors} factors"
    advice = (
        "lower --factors, keep the users' vectors in files (--scratch), drop rare users or items (--min-user-items, "
        "--min-item-users), or take a larger machine"
    )
    _require(needed, available, f"training {sizes}", advice)


def require_memory_to_fold_in(
    n_users: int, n_some: int, n_items: int, factors: int, threads: int, *, available: int | None = None
) -> None:
    """Raises MemoryShort where folding events in would not fit, as above; `n_some` users are solved apart."""
    tables = (n_users + n_some + 2 * n_items) * factors * _FLOAT_BYTES
    needed = tables + _scratch_bytes(max(n_users, n_items), factors, resolved_threads(threads))
    sizes = f"{n_users:,} users and {n_items:,} items with {factors} factors"
    _require(needed, available, f"folding events into {sizes}", "take a larger machine, or train again with --scratch")


def _require(needed: int, available: int | None, what: str, advice: str) -> None:
    left = available_bytes() if available is None else available
    if left is not None and needed > left:
        raise MemoryShort(
            f"{what} takes about {_spelled(needed)} beside the events; {_spelled(left)} are available: {advice}"
        )


def available_bytes(root: Path = Path("/")) -> int | None:
    """What this process may still take: of the machine, or of its control groups if that is less; None where unknown.

    `root` is where the system's files are found.
    """
    found = [*_machine_bytes(root), *_group_bytes(root)]
    return min(found) if found else None


def _machine_bytes(root: Path) -> Iterator[int]:
    info = root / "proc" / "meminfo"
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _group_bytes(root: Path) -> Iterator[int]:
    """What each control group that this process is in has left, of version 2 and of version 1.

    A container may see its own group at the top of the mount, under whatever name the host has for it: look at both.
    """
    groups = root / "proc" / "self" / "cgroup"
    if not groups.is_file():
        return
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys" / "fs" / "cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            mount = root / "sys" / "fs" / "cgroup" / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        own = mount / path.strip("/")
        for group in dict.fromkeys((own, *own.parents, mount)):
            if group.is_relative_to(mount):
                yield from _left_of(group, *names)


def _left_of(group: Path, limit_name: str, used_name: str, prefix: str) -> Iterator[int]:
    """The limit less what is used. Pages of files, such as the events just read, count as used but give way."""
    try:
        limit = (group / limit_name).read_text().strip()
        used = int((group / used_name).read_text())
        statistics = (group / "memory.stat").read_text().split()
    except OSError:
        return
    if limit != "max":
        amounts = dict(zip(statistics[::2], statistics[1::2], strict=False))
        files = sum(int(amounts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        yield max(0, int(limit) - max(0, used - files))


def _spelled(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
