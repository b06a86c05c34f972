"""What the parts of a recommender are weighed with: a training that leaves something out, and cases of what it left.

The cut is one of events (trainer.splits): each user's newest basket where events name baskets and times; each user's
newest item where they name times; random items of each user otherwise. Checked by tests/test_validation.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trainer.cases import Cases, cart_cases, user_cases
from trainer.errors import EvaluationError
from trainer.evaluate import HeldOut
from trainer.interactions import Interactions
from trainer.splits import Split

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class Validation:
    """Cases of carts and of users, those that there are, and cases of users in which what they have may come back."""

    cases: tuple[Cases, ...]
    repeats: Cases | None


def rule_for(interactions: Interactions) -> str:
    """The cut that suits these events."""
    if np.isnan(interactions.last_times).all():
        return "random:0.1"
    return "last" if interactions.baskets is None or not len(interactions.baskets) else "basket"


def validation_of(split: Split, *, most: int, seed: int) -> Validation:
    """At most so many cases of each kind, drawn by the seed; of carts where the test has baskets."""
    train, test = split.train, split.test
    found, repeats = [], None
    try:
        if test.baskets is not None and len(test.baskets):
            found.append(_drawn(cart_cases(train, test, share=0.0, seed=seed), most, seed))
    except EvaluationError:
        pass
    try:
        found.append(_drawn(_only_new(user_cases(train, test, split.history, repeats=False)), most, seed))
        repeats = _drawn(user_cases(train, test, split.history, repeats=True), most, seed)
    except EvaluationError:
        pass
    is_repeated = repeats is not None and _holds_repeats(repeats)
    return Validation(tuple(each for each in found if len(each.evidence)), repeats if is_repeated else None)


def histories_of(interactions: Interactions, *, most: int, seed: int) -> Cases:
    """Users with what they have, and nothing to be found."""
    return _drawn(user_cases(interactions, interactions, repeats=False), most, seed)


def _only_new(cases: Cases) -> Cases:
    """Without what the user has, which is not listed; users who take nothing else are left out."""
    assert cases.excluded is not None
    items = [
        np.setdiff1d(rows, cases.excluded.row(number)[0]).astype(np.int32)
        for number, rows in enumerate(cases.held_out.items)
    ]
    sizes = np.array([len(rows) for rows in items], dtype=np.int64)
    held_out = replace(cases.held_out, items=tuple(items), n_relevant=sizes)
    return _chosen(replace(cases, held_out=held_out), np.flatnonzero(sizes))


def _holds_repeats(cases: Cases) -> bool:
    pairs = zip(cases.evidence, cases.held_out.items, strict=True)
    return any(np.isin(items, evidence.rows).any() for evidence, items in pairs)


def _drawn(cases: Cases, most: int, seed: int) -> Cases:
    n = len(cases.evidence)
    if n <= most:
        return cases
    return _chosen(cases, np.sort(np.random.default_rng(seed).choice(n, most, replace=False)))


def _chosen(cases: Cases, numbers: np.ndarray) -> Cases:
    """Some of the cases, numbered anew."""
    held_out = cases.held_out
    chosen = HeldOut(
        users=np.arange(len(numbers), dtype=np.int32),
        items=tuple(held_out.items[number] for number in numbers.tolist()),
        n_relevant=held_out.n_relevant[numbers],
        relevant_price=held_out.relevant_price[numbers],
        prices=held_out.prices,
        n_unknown_users=held_out.n_unknown_users,
        n_unknown_items=held_out.n_unknown_items,
    )
    return replace(
        cases,
        evidence=[cases.evidence[number] for number in numbers.tolist()],
        held_out=chosen,
        excluded=None if cases.excluded is None else cases.excluded.selected(numbers),
        users=None if cases.users is None else cases.users[numbers],
    )
