"""What can be asked of a snapshot, and what it answers: plain values, without protobuf and without FAISS.

The service turns messages into these and back; retrieval answers them; tests build them by hand. Limits that a request
must keep stand here, because the wire's comments, the service's checks and the documentation all quote them; those of
filters stand in engine.filters.

In every query, an item comes back only where `filter` is met, `allowed_item_ids` names it or is empty, and
`exclude_item_ids` does not name it; `without_parts` switches parts of the recommender off, and `shares` asks for what
each item of the history or cart gives to each score. Lists of items are in their order, the newest last.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.filters import Filter

DEFAULT_LIMIT = 20
MAX_LIMIT = 1_000
"""Items one query may ask for."""
MAX_CART_ITEMS = 500
"""Items of a cart, and recent items of a user."""
MAX_QUANTITY = 1_000_000
"""Of one item in a cart."""
MAX_BATCH_QUERIES = 1_000
"""Queries of one batch call."""
MAX_BATCH_ANSWERS = 100_000
"""Queries times limit of one batch call: with ids of up to 35 bytes the answer stays under gRPC's default of 4 MiB."""

MAX_SHARES = 100_000
"""Items of an answer times items that it was asked with, where scores are split."""


class Repeat(enum.Enum):
    """What becomes of items the user already has; items in the cart itself never come back."""

    NEVER = "never"
    MIX = "mix"
    ONLY = "only"


class Source(enum.Enum):
    """Where an answer comes from."""

    PERSONAL = "personal"
    CART = "cart"
    SIMILAR = "similar"
    POPULAR = "popular"


@dataclass(frozen=True)
class UserQuery:
    """What should this user see next?

    `recent_item_ids` are events since training: they are folded into the user's history, and make a user who is unknown
    to the release answerable. `strict` refuses unknown users without known recent items instead of answering popular.
    """

    user_id: str
    limit: int = DEFAULT_LIMIT
    exclude_item_ids: Sequence[str] = ()
    recent_item_ids: Sequence[str] = ()
    repeat: Repeat = Repeat.NEVER
    strict: bool = False
    filter: Filter | None = None
    allowed_item_ids: Sequence[str] = ()
    without_parts: Sequence[str] = ()
    shares: bool = False


@dataclass(frozen=True)
class CartQuery:
    """What goes with this cart?

    The cart alone is the query: joining the user's history found the hidden item of a basket half as often
    (docs/decisions/0004-cart-and-user.md). A `user_id` says whose history `repeat` is about, and who is answered for
    where no item of the cart is known. `quantities` are as many as items, empty for one of each. `history_weight`, from
    0 to 1, is what the user's history counts all the same.
    """

    item_ids: Sequence[str]
    user_id: str | None = None
    limit: int = DEFAULT_LIMIT
    exclude_item_ids: Sequence[str] = ()
    repeat: Repeat = Repeat.MIX
    strict: bool = False
    filter: Filter | None = None
    allowed_item_ids: Sequence[str] = ()
    quantities: Sequence[int] = ()
    history_weight: float = 0.0
    without_parts: Sequence[str] = ()
    shares: bool = False


@dataclass(frozen=True)
class SimilarQuery:
    """Which items are like this one? The item itself never comes back."""

    item_id: str
    limit: int = DEFAULT_LIMIT
    exclude_item_ids: Sequence[str] = ()
    filter: Filter | None = None
    allowed_item_ids: Sequence[str] = ()
    without_parts: Sequence[str] = ()
    shares: bool = False


@dataclass(frozen=True)
class Answer:
    """`item_ids` and their `scores` (float32, never rising; equal scores in row order), where from, what was unknown.

    The length is exactly min(limit, items allowed). For `Source.POPULAR` the scores are counts of users.

    Where they were asked for, `shares` float64 (items, m) is what each of `share_item_ids` gives to each score: they
    add up to it, within rounding. Those are the items of the cart, or of the history, that were asked with.
    """

    item_ids: Sequence[str]
    scores: NDArray[np.float32]
    source: Source
    unknown_item_ids: tuple[str, ...] = ()
    shares: NDArray[np.float64] | None = None
    share_item_ids: Sequence[str] = ()
