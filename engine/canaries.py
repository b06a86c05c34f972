"""Queries with expected answers that a release carries, and what is asked when it is loaded.

Some carts and users have their best scores stored, as scoring every item gave them. A loaded release must repeat them:
otherwise vectors, histories, index and program do not belong together. And its search must find what exact search
finds, as often as was promised and chance allows. Both are deterministic, and take milliseconds. Checked by
tests/test_canaries.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.evidence import Evidence, require_rows
from engine.histories import Histories
from engine.index import recalls
from engine.measurement import MAX_QUERIES, RECALL_AT, Bags, bag
from engine.parts import understanding
from engine.recall import chance_of
from engine.recommender import DenseMemory, Query, Recommender
from engine.release import Draft, Release
from engine.scoring import Found

N_CARTS = 8
"""Whose scores are stored."""
N_QUERIES = 16
"""Users whose scores are stored, and carts and users that are asked for their recall."""
CANARY_LENGTH = 10
CARTS = "canaries/carts"
SCORES, USERS, USER_SCORES = "canaries/scores", "canaries/users", "canaries/user_scores"
SCORED = (SCORES, USERS, USER_SCORES)
"""What is made anew where vectors are."""
_LOOKED_AT = 32
"""Users looked at for each canary, whether their history is liked and leaves enough items."""
_TOLERANCE = 1e-4
"""Relative difference allowed between stored scores and those computed on another processor."""
_CHANCE = 1e-5
"""One sound release in a hundred thousand fails by chance to show the recall that it promises, at most."""
_PROVEN = 1 - 3 / MAX_QUERIES
"""No promise was proven further than that, by so many queries of which none missed anything (the rule of three)."""

Rows = NDArray[np.int32]


def add_canaries(draft: Draft, recommender: Recommender, histories: Histories, carts: Bags) -> None:
    """Write the best scores of the first carts and of some users into a draft that has the carts.

    Raises PublishFailed.
    """
    draft.add_array(SCORES, canary_scores(recommender, carts))
    users = _some_users(histories, recommender.n_items)
    asked = [_of_user(recommender, histories, user) for user in users.tolist()]
    draft.add_array(USERS, users)
    draft.add_array(USER_SCORES, _best_scores(recommender, asked))


def canary_scores(recommender: Recommender, carts: Bags) -> NDArray[np.float32]:
    """The best scores of the first few carts, by scan: float32 (canaries, length). A snapshot must repeat them."""
    n = min(N_CARTS, len(carts[0]) - 1)
    return _best_scores(recommender, [_of_cart(recommender, bag(carts, i)) for i in range(n)])


def check_canaries(release: Release, recommender: Recommender, dense: DenseMemory | None, histories: Histories) -> None:
    """Ask what the release stores; this also touches the pages that the first queries need. Raises ReleaseCorrupt.

    A release without canary users was written before there were any: then its carts are asked, and no more.
    """
    carts = _carts(release)
    expected = release.array(SCORES, np.float32, (None, None))
    if len(carts[0]) - 1 < len(expected):
        raise ReleaseCorrupt(f"{release.directory} has scores of {len(expected)} canaries, and fewer carts")
    for i, scores in enumerate(expected):
        cart = bag(carts, i)
        require_rows(cart, recommender.n_items)
        _check(release, f"canary {i}", recommender, _of_cart(recommender, cart), scores)
    if not release.has(USERS):
        return
    users = release.array(USERS, np.int32, (None,))
    if len(users) and not 0 <= users.min() <= users.max() < len(histories.indptr) - 1:
        raise ReleaseCorrupt(f"{release.directory}: canary users are none of the {len(histories.indptr) - 1:,} users")
    expected = release.array(USER_SCORES, np.float32, (len(users), None))
    for i, (user, scores) in enumerate(zip(users.tolist(), expected, strict=True)):
        asked = _of_user(recommender, histories, user)
        _check(release, f"canary user {i}", recommender, asked, scores)
    if dense is not None and not dense.index.is_exact:
        _check_recall(release, dense, histories, carts, users)


def _check(
    release: Release, name: str, recommender: Recommender, asked: tuple[Query, Rows], scores: NDArray[np.float32]
) -> None:
    """Compare exact scores, and search as if somebody had asked."""
    query, excluded = asked
    found = recommender.exact(query, len(scores), excluded)[1]
    recommender.search([query], len(scores), [excluded], None)
    if len(found) != len(scores) or not np.allclose(found, scores, rtol=_TOLERANCE, atol=1e-6):
        raise ReleaseCorrupt(
            f"{release.directory}: {name} scores {found[:3]}..., the release stores {scores[:3]}...: "
            "vectors and index do not belong together; publish again, or `nearcart releases rollback`"
        )


def _check_recall(release: Release, dense: DenseMemory, histories: Histories, carts: Bags, users: Rows) -> None:
    """Of an approximate search: its recall of the canary users, and of as many carts, against exact search.

    For each kind the promise is about the mean. How improbable a mean is under it is bounded whatever the
    distribution (engine.recall.chance_of), because a few queries that miss much are usual.
    """
    with understanding(release.manifest):
        promised = min(float(release.manifest["index"]["promised_recall"]), _PROVEN)
    n_carts = len(carts[0]) - 1
    some = np.unique(np.linspace(0, n_carts - 1, min(N_QUERIES, n_carts)).astype(np.int64)).tolist()
    bags = [bag(carts, i) for i in some]
    kinds = {
        "cart": ([dense.encoder.encode(cart, np.ones(len(cart), dtype=np.float32)) for cart in bags], bags),
        "user": (
            [dense.user_vectors[user] for user in users.tolist()],
            [histories.of(user, len(dense.encoder.item_vectors)).rows for user in users.tolist()],
        ),
    }
    for kind, (vectors, excluded) in kinds.items():
        if vectors:
            found = recalls(dense.index, np.stack(vectors), RECALL_AT, excluded)
            if chance_of(float(found.mean()), promised, len(found)) < _CHANCE:
                raise ReleaseCorrupt(
                    f"{release.directory}: the index finds {found.mean():.4f} of the true top {RECALL_AT} of "
                    f"{len(found)} stored {kind} queries, and promises {promised:g}: by chance that happens once in "
                    f"{1 / _CHANCE:,.0f} times at most. It is of other vectors, or this program searches it otherwise; "
                    "rebuild it with `nearcart index`, or `nearcart releases rollback`"
                )


def _best_scores(recommender: Recommender, asked: Sequence[tuple[Query, Rows]]) -> NDArray[np.float32]:
    """By scan: float32 (queries, length), as long as every query has answers."""
    found: list[Found] = [recommender.scan(query, CANARY_LENGTH, excluded) for query, excluded in asked]
    length = min((len(scores) for _, scores in found), default=0)
    return np.array([scores[:length] for _, scores in found], dtype=np.float32).reshape(len(found), length)


def _of_cart(recommender: Recommender, cart: Rows) -> tuple[Query, Rows]:
    return recommender.query(Evidence.of_rows(cart), "cart"), cart


def _of_user(recommender: Recommender, histories: Histories, user: int) -> tuple[Query, Rows]:
    """As a known user is answered, whose history does not come back."""
    history = histories.of(user, recommender.n_items)
    return recommender.query(history, "user", user=user), history.rows


def _some_users(histories: Histories, n_items: int) -> Rows:
    """Rows of a few users, far from one another, who like anything and have by far not everything."""
    n_users = len(histories.indptr) - 1
    found = []
    for user in np.unique(np.linspace(0, n_users - 1, min(n_users, N_QUERIES * _LOOKED_AT)).astype(np.int64)).tolist():
        entries = slice(int(histories.indptr[user]), int(histories.indptr[user + 1]))
        if 2 * (entries.stop - entries.start) <= n_items and (histories.values[entries] > 0).any():
            found.append(user)
    chosen = np.linspace(0, len(found) - 1, min(len(found), N_QUERIES)).astype(np.int64)
    return np.array(found, dtype=np.int32)[chosen]


def _carts(release: Release) -> Bags:
    starts = release.array(f"{CARTS}.indptr", np.int64, (None,))
    if not len(starts):
        raise ReleaseCorrupt(f"{release.directory}/{CARTS}.indptr.npy is empty, expected where each cart begins")
    return starts, release.array(f"{CARTS}.indices", np.int32, (int(starts[-1]),))
