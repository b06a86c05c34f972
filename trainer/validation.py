"""What the parts of a recommender are weighed with: a training that leaves something out, and cases of what it left.

The cut is one of events (trainer.splits): each user's newest basket where events name baskets and times; the newest
tenth of all baskets where hardly a user has two, as when every session has a user of its own; each user's newest item
where events name times alone; random items of each user otherwise. Carts are baskets with an item hidden, or where
items of baskets come one after another, what comes next. Checked by tests/test_validation.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trainer.cases import Cases, cart_cases, chosen, session_cases, user_cases
from trainer.contexts import is_ordered, of_baskets
from trainer.errors import EvaluationError
from trainer.interactions import Interactions
from trainer.splits import Split

AUTO, NONE = "auto", "none"
LEAST_CASES = 20
"""Fewer are chance."""
_LEAST_USERS = 50
"""With so many users of two baskets or more, the newest basket of each is held out."""
_OLDER_SHARE = 0.9


@dataclass(frozen=True)
class Validation:
    """Cases of carts and of users, those that there are, and cases of users in which what they have may come back."""

    cases: tuple[Cases, ...]
    repeats: Cases | None


def rule_for(interactions: Interactions) -> str:
    """The cut that suits these events."""
    baskets = interactions.baskets
    if np.isnan(interactions.last_times).all():
        return "random:0.1"
    if not baskets:
        return "last"
    known = baskets.seconds[~np.isnan(baskets.seconds)]
    n_again = int(np.count_nonzero(np.bincount(baskets.user_rows) > 1))
    if n_again >= _LEAST_USERS or not len(known):
        return "basket"
    hours = (known.max() - np.quantile(known, _OLDER_SHARE)) / 3600
    return f"time:{max(1.0, hours):.1f}h"


def validation_of(split: Split, *, most: int, seed: int) -> Validation:
    """At most so many cases of each kind, drawn by the seed; of carts where the test has baskets.

    Fewer than a few say nothing, and are none.
    """
    train, test = split.train, split.test
    found, repeats = [], None
    try:
        if test.baskets:
            is_session = is_ordered(of_baskets(test.baskets, test.n_items))
            carts = session_cases(train, test) if is_session else cart_cases(train, test, share=0.0, seed=seed)
            found.append(_drawn(carts, most, seed))
    except EvaluationError:
        pass
    try:
        found.append(_drawn(_only_new(user_cases(train, test, split.history, repeats=False)), most, seed))
        repeats = _drawn(user_cases(train, test, split.history, repeats=True), most, seed)
    except EvaluationError:
        pass
    is_repeated = repeats is not None and _holds_repeats(repeats)
    enough = tuple(each for each in found if len(each.evidence) >= LEAST_CASES)
    return Validation(enough, repeats if is_repeated else None)


def histories_of(interactions: Interactions, *, most: int, seed: int) -> Cases:
    """Users with what they have. Raises EvaluationError where nobody likes anything."""
    return _drawn(user_cases(interactions, interactions, repeats=False), most, seed)


def _only_new(cases: Cases) -> Cases:
    """Without what the user has, which is not listed; users who take nothing else are left out."""
    items = [
        np.setdiff1d(rows, cases.excluded_rows(number)).astype(np.int32)
        for number, rows in enumerate(cases.held_out.items)
    ]
    sizes = np.array([len(rows) for rows in items], dtype=np.int64)
    held_out = replace(cases.held_out, items=tuple(items), n_relevant=sizes)
    return chosen(replace(cases, held_out=held_out), np.flatnonzero(sizes))


def _holds_repeats(cases: Cases) -> bool:
    pairs = zip(cases.evidence, cases.held_out.items, strict=True)
    return any(np.isin(items, evidence.rows).any() for evidence, items in pairs)


def _drawn(cases: Cases, most: int, seed: int) -> Cases:
    n = len(cases.evidence)
    if n <= most:
        return cases
    return chosen(cases, np.sort(np.random.default_rng(seed).choice(n, most, replace=False)))
