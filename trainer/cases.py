"""What a recommender is asked when it is measured: queries made of one part of the events, and what the other part has.

    next            each test user: which items of the test, from the history; what it holds is not listed
    again           the same of the history alone: what is taken again, among what the user has
    repeats         both at once: what the history holds competes with all else
    cart            each basket of the test with one item hidden: which one, from the others
    half-cart       with half of the items hidden
    session         each place of each basket of the test but the first: which item comes next, from those before it

Items that training never saw are left out of baskets, and those of fewer than two others are not asked with. Where no
event of the test names a basket, what a user takes in the test is one, in the order of its times. Checked by
tests/test_cases.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.evidence import NO_ROWS, OLDEST, Evidence
from engine.histories import Histories
from engine.kinds import Kind
from trainer.errors import EvaluationError
from trainer.evaluate import HeldOut, hold_out, seen_items
from trainer.interactions import Csr, Interactions

_MOST_PLACES = 50
"""Of a session, the last ones, are asked for, and so many items before each are shown."""
_LEAST_ITEMS = 2
"""Of a basket that one item or more can be hidden of."""


@dataclass(frozen=True)
class Cases:
    """Numbered queries of a kind, and what is to be found: `held_out.users` are their numbers.

    excluded holds for each query what must not be listed, None where everything may; users int32 (queries,) the rows of
    the users whose stored history a query is, None where it is none.
    """

    kind: Kind
    evidence: Sequence[Evidence]
    held_out: HeldOut
    excluded: Csr | None
    users: NDArray[np.int32] | None = None
    only_evidence: bool = False
    """Whether nothing but what a query is asked with may be listed."""

    @property
    def n_items(self) -> int:
        """Items of the training."""
        return len(self.held_out.prices)

    def excluded_rows(self, number: int) -> NDArray[np.int32]:
        """What must not be listed for a query."""
        return NO_ROWS if self.excluded is None else self.excluded.row(number)[0]


def cases_of(
    task: str, train: Interactions, test: Interactions, history: Interactions | None = None, *, seed: int = 42
) -> Cases:
    """The cases of a task. Raises EvaluationError where the test has none."""
    if task in ("next", "repeats"):
        return user_cases(train, test, history, repeats=task == "repeats")
    if task == "again":
        return again_cases(train, test, history)
    if task == "session":
        return session_cases(train, test)
    return cart_cases(train, test, share=0.5 if task == "half-cart" else 0.0, seed=seed)


def user_cases(train: Interactions, test: Interactions, history: Interactions | None = None, *, repeats: bool) -> Cases:
    """Users of training, or else of `history`, with what the test has of them."""
    held_out = hold_out(train, test, history)
    seen = train.by_user if history is None else seen_items(train, history)
    ages = train.ages() if history is None else _seen_ages(train, history)
    histories = Histories(seen.indptr, seen.indices, seen.values, np.minimum(ages, OLDEST).astype(np.uint16))
    users = held_out.users.tolist()
    evidence = [histories.of(user, train.n_items) for user in users]
    return Cases(
        "user",
        evidence,
        _numbered(held_out),
        None if repeats else seen.selected(held_out.users),
        None if history is not None else held_out.users,
    )


def _seen_ages(train: Interactions, history: Interactions) -> NDArray[np.int32]:
    """How old the entries of `seen_items` are."""
    by_user = replace(history.by_user, values=history.ages().astype(np.float32))
    return seen_items(train, replace(history, by_user=by_user)).values.astype(np.int32)


def again_cases(train: Interactions, test: Interactions, history: Interactions | None = None) -> Cases:
    """Users who take something of the test again: which items of the history are they?

    Raises EvaluationError where nobody does.
    """
    cases = user_cases(train, test, history, repeats=True)
    pairs = zip(cases.evidence, cases.held_out.items, strict=True)
    items = [np.intersect1d(evidence.rows, rows).astype(np.int32) for evidence, rows in pairs]
    sizes = np.array([len(rows) for rows in items], dtype=np.int64)
    if not sizes.any():
        raise EvaluationError(
            "no user of the test takes again what training has: the splits `random` and `last` hold out what a user "
            "has only once; give `time:28d` or `basket`"
        )
    held_out = replace(cases.held_out, items=tuple(items), n_relevant=sizes)
    return chosen(replace(cases, held_out=held_out, only_evidence=True), np.flatnonzero(sizes))


def chosen(cases: Cases, numbers: NDArray[np.int64]) -> Cases:
    """Some of the cases, numbered anew."""
    held_out = cases.held_out
    return replace(
        cases,
        evidence=[cases.evidence[number] for number in numbers.tolist()],
        held_out=replace(
            held_out,
            users=np.arange(len(numbers), dtype=np.int32),
            items=tuple(held_out.items[number] for number in numbers.tolist()),
            n_relevant=held_out.n_relevant[numbers],
            relevant_price=held_out.relevant_price[numbers],
        ),
        excluded=None if cases.excluded is None else cases.excluded.selected(numbers),
        users=None if cases.users is None else cases.users[numbers],
    )


def cart_cases(train: Interactions, test: Interactions, *, share: float, seed: int) -> Cases:
    """Baskets of the test without one item, or without a share of them, drawn by the seed; theirs are not listed."""
    generator = np.random.default_rng(seed)
    shown: list[Evidence] = []
    hidden: list[NDArray[np.int32]] = []
    for rows, places in _baskets(train, test):
        if len(rows) < _LEAST_ITEMS:
            continue
        n_hidden = max(1, min(len(rows) - 1, int(len(rows) * share)))
        chosen = generator.choice(len(rows), n_hidden, replace=False)
        hidden.append(rows[chosen])
        shown.append(_evidence(np.delete(rows, chosen), np.delete(places, chosen)))
    if not shown:
        raise EvaluationError(
            f"no basket of the test has {_LEAST_ITEMS} items that training knows: is --basket-column right, and does "
            "the split leave baskets whole (time, basket)?"
        )
    return Cases("cart", shown, _held_out(hidden, train), _excluded(shown, train.n_items))


def session_cases(train: Interactions, test: Interactions) -> Cases:
    """Places of a basket of the test but the first: the item is to be found from those before it. The last 50 each."""
    shown: list[Evidence] = []
    following: list[NDArray[np.int32]] = []
    for rows, places in _baskets(train, test):
        order = np.lexsort((rows, places))
        rows, places = rows[order], places[order]
        for end in range(max(1, len(rows) - _MOST_PLACES), len(rows)):
            before = np.flatnonzero(places < places[end])[-_MOST_PLACES:]
            if len(before):
                shown.append(_evidence(rows[before], places[before]))
                following.append(rows[end : end + 1])
    if not shown:
        raise EvaluationError(
            "no basket of the test has two items at different times, so that none comes next: does --timestamp-column "
            "name the right column?"
        )
    return Cases("cart", shown, _held_out(following, train), _excluded(shown, train.n_items))


def _baskets(train: Interactions, test: Interactions) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """The known items of each basket of the test, by training row, and their places. Dislikes are in none."""
    known = train.item_ids.rows_of(test.item_ids.strings)
    if test.baskets:
        indptr, items, places = test.baskets.indptr, test.baskets.indices, test.baskets.places
        rows = known[items].astype(np.int32)
    else:
        indptr, places = test.by_user.indptr, -test.ages()
        rows = np.where(test.by_user.values > 0, known[test.by_user.indices], -1).astype(np.int32)
    found = []
    for start, stop in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True):
        kept = rows[start:stop] >= 0
        found.append((rows[start:stop][kept], places[start:stop][kept]))
    return found


def _evidence(rows: NDArray[np.int32], places: NDArray[np.int32]) -> Evidence:
    """Items of weight 1, as old as the number of later places that any of them has."""
    moments = np.unique(places)
    ages = (len(moments) - 1 - np.searchsorted(moments, places)).astype(np.int32)
    order = np.argsort(rows, kind="stable")
    return Evidence(rows[order], np.ones(len(rows), dtype=np.float32), ages[order])


def _numbered(held_out: HeldOut) -> HeldOut:
    """The same with queries numbered in the order of their users."""
    return replace(held_out, users=np.arange(len(held_out.users), dtype=np.int32))


def _held_out(items: Sequence[NDArray[np.int32]], train: Interactions) -> HeldOut:
    prices = np.full(train.n_items, np.nan, dtype=np.float32) if train.prices is None else train.prices
    return HeldOut(
        users=np.arange(len(items), dtype=np.int32),
        items=tuple(items),
        n_relevant=np.array([len(rows) for rows in items], dtype=np.int64),
        relevant_price=np.array([np.nansum(prices[rows], dtype=np.float64) for rows in items]),
        prices=prices,
        n_unknown_users=0,
        n_unknown_items=0,
    )


def _excluded(shown: Sequence[Evidence], n_items: int) -> Csr:
    indptr = np.cumsum([0, *(len(each.rows) for each in shown)]).astype(np.int64)
    rows = np.concatenate([each.rows for each in shown])
    return Csr(indptr, rows, np.ones(len(rows), dtype=np.float32), n_columns=n_items)
