"""Which entries a split holds out: at random by seed and ids, each user's last, or users as a whole.

A random choice hashes the ids with the seed, and nothing else: the same entry gets the same number whatever the order
of rows, the number of threads, or the rows that ids happen to have. trainer.splits is the way in; checked by
tests/test_splits.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.ids import StringTable
from trainer.cleaning import DAY_SECONDS

Kind = Literal["random", "last", "time", "basket", "users"]

TRAIN, HISTORY, TEST = 0, 1, 2
"""The part that an entry or event belongs to."""
MIN_HELD_OUT_ITEMS = 5
"""Users with fewer entries are not held out by `users`: a fifth of them would be nothing."""
TEST_SHARE_OF_HELD_OUT = 0.2

_UNIT_SECONDS = {"h": 3600.0, "d": DAY_SECONDS, "w": 7 * DAY_SECONDS}
_EXPECTED = "random:SHARE such as random:0.2, last, time:LENGTH such as time:28d (also h, w), basket, or users:SHARE"


@dataclass(frozen=True)
class SplitRule:
    """A split: its kind, and the share (random, users) or the length in seconds (time) that is held out."""

    kind: Kind
    amount: float
    text: str


def parse_split(text: str) -> SplitRule:
    """A split from what a user writes: random:0.2, last, time:28d, basket, users:0.1. Raises UsageError."""
    kind, _, amount = text.strip().partition(":")
    if kind not in get_args(Kind):
        raise UsageError(f"the split is {text!r}; expected {_EXPECTED}")
    return SplitRule(kind, _amount(kind, amount, text), text.strip())  # type: ignore[arg-type]


def _amount(kind: str, amount: str, text: str) -> float:
    if kind in ("last", "basket"):
        if amount:
            raise UsageError(f"the split is {text!r}; expected {kind!r} alone")
        return 0.0
    number = re.fullmatch(r"(\d+|\d*\.\d+)([hdw]?)", amount)
    is_time = kind == "time"
    if number is None or is_time != bool(number[2]):
        raise UsageError(f"the split is {text!r}; expected {_EXPECTED}")
    value = float(number[1]) * _UNIT_SECONDS.get(number[2], 1.0)
    if not (value > 0 and (is_time or value < 1)):
        wanted = "a length above 0" if is_time else "a share above 0 and below 1"
        raise UsageError(
            f"the split is {text!r}; expected {wanted}, such as {'time:28d' if is_time else kind + ':0.2'}"
        )
    return value


@dataclass(frozen=True)
class Pool:
    """What is chosen from: entries by user row, as in trainer.interactions.Interactions, and the ids of the rows."""

    indptr: NDArray[np.int64]
    item_rows: NDArray[np.int32]
    liked: NDArray[np.bool_]
    last_times: NDArray[np.float64]
    user_ids: StringTable
    item_ids: StringTable

    def user_rows(self) -> NDArray[np.int64]:
        """The user row of each entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


def choose(pool: Pool, rule: SplitRule, seed: int) -> NDArray[np.uint8]:
    """The part of each entry, TRAIN, HISTORY or TEST, uint8 (entries,), for the kinds random, last and users."""
    parts = np.full(len(pool.item_rows), TRAIN, dtype=np.uint8)
    sizes = np.diff(pool.indptr)
    if rule.kind == "last":
        parts[_last_liked(pool)] = TEST
        return parts
    of_holding_out, of_users, of_items = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    share = rule.amount
    if rule.kind == "users":
        held_out = _held_out_users(_mixed(_hashes(pool.user_ids) ^ of_holding_out), sizes, rule.amount)
        parts[np.repeat(held_out, sizes)] = HISTORY
        share, sizes = TEST_SHARE_OF_HELD_OUT, np.where(held_out, sizes, 0)
    users, items = _mixed(_hashes(pool.user_ids) ^ of_users), _mixed(_hashes(pool.item_ids) ^ of_items)
    keys = _mixed(users[pool.user_rows()] + items[pool.item_rows])
    n_test = np.minimum(np.floor(share * sizes + 0.5), np.maximum(sizes - 1, 0))
    parts[_smallest(pool, keys, n_test)] = TEST
    return parts


def byte_ranks(strings: StringTable) -> NDArray[np.int64]:
    """The place of each string among all, by its bytes, int64 (n,)."""
    bounds, data = strings.offsets.tolist(), strings.data.tobytes()
    order = sorted(range(len(strings)), key=lambda row: data[bounds[row] : bounds[row + 1]])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _last_liked(pool: Pool) -> NDArray[np.int64]:
    """Each user's entry with the newest time, of equal times the one with the greater item id."""
    users = pool.user_rows()
    several = np.diff(pool.indptr)[users] > 1
    timed = np.flatnonzero(several & pool.liked & ~np.isnan(pool.last_times))
    order = timed[np.lexsort((byte_ranks(pool.item_ids)[pool.item_rows[timed]], pool.last_times[timed], users[timed]))]
    is_last = np.append(np.diff(users[order]) > 0, True)[: len(order)]
    last: NDArray[np.int64] = order[is_last]
    return last


def _held_out_users(keys: NDArray[np.uint64], sizes: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    eligible = np.flatnonzero(sizes >= MIN_HELD_OUT_ITEMS)
    n = min(len(eligible), max(1, int(share * len(eligible) + 0.5)))
    held_out = np.zeros(len(sizes), dtype=np.bool_)
    held_out[eligible[np.argsort(keys[eligible], kind="stable")[:n]]] = True
    return held_out


def _smallest(pool: Pool, keys: NDArray[np.uint64], counts: NDArray[Any]) -> NDArray[np.int64]:
    """The entries with the smallest keys, as many of each user as `counts` (n_users,) says."""
    users = pool.user_rows()
    order = np.lexsort((pool.item_rows, keys, users))
    places = np.arange(len(order)) - pool.indptr[users]
    return order[places < counts[users]]


def _hashes(strings: StringTable) -> NDArray[np.uint64]:
    """FNV-1a of each string, 64 bits."""
    lengths = np.diff(strings.offsets)
    state = np.full(len(lengths), 0xCBF29CE484222325, dtype=np.uint64)
    rows = np.arange(len(lengths))
    for position in range(int(lengths.max(initial=0))):
        rows = rows[lengths[rows] > position]
        state[rows] = (state[rows] ^ strings.data[strings.offsets[rows] + position]) * np.uint64(0x100000001B3)
    return state


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every bit depends on every bit."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
