"""The slow twin of trainer.cleaning, netting, weighting and assembly: rows as dicts and rules as ifs, from their words.

A row has the keys of EventColumns' defaults; values are None where missing. No numbers as text here: what text means is
tests/test_events.py's business.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from trainer.cleaning import Cleaning, Reason

Row = Mapping[str, Any]


@dataclass
class Entry:
    value: float
    count: int
    quantity: float
    last_time: float


@dataclass
class Expected:
    entries: dict[tuple[str, str], Entry]
    dropped: dict[str, int]
    kept: int
    items: list[str]
    baskets: list[list[str]]
    basket_times: list[float]
    basket_places: list[list[int]]
    prices: dict[str, float]


def interactions_of(rows: Sequence[Row], cleaning: Cleaning) -> Expected:
    """What should come of these rows."""
    dropped: Counter[str] = Counter()
    by_pair: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        reason = reason_to_drop(row, cleaning)
        if reason:
            dropped[reason.value] += 1
        else:
            by_pair[row["user_id"], row["item_id"]].append(row)
    newest = newest_time(by_pair)
    weights_of: dict[tuple[str, str], list[Fraction]] = {}
    behind: dict[tuple[str, str], list[Row]] = {}
    nets: dict[tuple[str, str], Fraction] = {}
    for pair, events in by_pair.items():
        purchases = [row for row in events if quantity(row) > 0]
        dropped[Reason.RETURN.value] += len(events) - len(purchases)
        net = sum(quantity(row) for row in events)
        weights = [decayed_weight(row, newest, cleaning) for row in purchases]
        if net <= 0:
            dropped[Reason.RETURNED.value] += len(purchases)
        elif sum(weights) == 0:
            dropped[Reason.CANCELLED_OUT.value] += len(purchases)
        else:
            weights_of[pair], behind[pair], nets[pair] = weights, purchases, net
    for pair, reason in unsupported(behind, cleaning).items():
        dropped[reason.value] += len(behind.pop(pair))
    values = entry_values({pair: weights_of[pair] for pair in behind}, cleaning)
    entries: dict[tuple[str, str], Entry] = {}
    for pair, purchases in behind.items():
        times = [row["timestamp"] for row in purchases if row["timestamp"] is not None]
        entries[pair] = Entry(values[pair], len(purchases), float(nets[pair]), max(times, default=math.nan))
    users_of = Counter(item for _, item in entries)
    items = sorted(users_of, key=lambda item: (-users_of[item], item.encode()))
    kept = sum(entry.count for entry in entries.values())
    counted = {reason.value: dropped[reason.value] for reason in Reason if dropped[reason.value]}
    return Expected(entries, counted, kept, items, *_baskets(behind, entries, items), _prices(behind))


def reason_to_drop(row: Row, cleaning: Cleaning) -> Reason | None:
    """The first rule that the row breaks on its own."""
    if not (row["user_id"] or "").strip():
        return Reason.NO_USER
    if not (row["item_id"] or "").strip():
        return Reason.NO_ITEM
    pattern = cleaning.non_product_pattern
    if pattern and re.fullmatch(pattern, row["item_id"], re.IGNORECASE):
        return Reason.NOT_A_PRODUCT
    amount, price, time = row["quantity"], row["price"], row["timestamp"]
    if amount is not None:
        if math.isnan(amount):
            return Reason.QUANTITY_UNCLEAR
        if abs(amount) > cleaning.max_quantity:
            return Reason.QUANTITY_ABSURD
        if amount == 0:
            return Reason.QUANTITY_ZERO
    if price is not None:
        if math.isnan(price):
            return Reason.PRICE_UNCLEAR
        if price < 0 or math.isinf(price):
            return Reason.PRICE_ABSURD
    if time is not None:
        if math.isnan(time):
            return Reason.TIME_UNCLEAR
        assert cleaning.now is not None
        if time < 631_152_000 or time > cleaning.now + 86_400:
            return Reason.TIME_ABSURD
    return Reason.WEIGHTLESS if weight(row, cleaning) == 0 else None


def quantity(row: Row) -> Fraction:
    return Fraction(1) if row["quantity"] is None else Fraction(str(row["quantity"]))


def weight(row: Row, cleaning: Cleaning) -> Fraction:
    return Fraction(str(cleaning.event_weights.get(row["event"], 1)))


def newest_time(by_pair: Mapping[Any, Sequence[Row]]) -> float | None:
    """Of all rows that are events, returns aside."""
    purchases = [row for rows in by_pair.values() for row in rows if quantity(row) > 0]
    return max((row["timestamp"] for row in purchases if row["timestamp"] is not None), default=None)


def decayed_weight(row: Row, newest: float | None, cleaning: Cleaning) -> Fraction:
    whole = weight(row, cleaning)
    if cleaning.half_life_days is None or row["timestamp"] is None or newest is None:
        return whole
    left = 0.5 ** ((newest - row["timestamp"]) / (cleaning.half_life_days * 86_400))
    millionths = max(1, math.floor(float(abs(whole) * 1_000_000) * left + 0.5))
    return Fraction(millionths if whole > 0 else -millionths, 1_000_000)


def unsupported(pairs: Iterable[tuple[str, str]], cleaning: Cleaning) -> dict[tuple[str, str], Reason]:
    """The pairs that go because their user, or then their item, has too few others, round by round."""
    left, gone = set(pairs), {}
    rules = ((0, cleaning.min_user_items, Reason.FEW_ITEMS), (1, cleaning.min_item_users, Reason.FEW_USERS))
    changed = True
    while changed:
        changed = False
        for side, least, reason in rules:
            sizes = Counter(pair[side] for pair in left)
            few = {pair for pair in left if sizes[pair[side]] < least}
            gone |= dict.fromkeys(few, reason)
            left -= few
            changed |= bool(few)
    return gone


def entry_values(weights: Mapping[tuple[str, str], Sequence[Fraction]], cleaning: Cleaning) -> dict[Any, float]:
    """The values of all entries; those that look at all are scaled to a mean size of 1."""
    if cleaning.weighting in ("binary", "count", "log"):
        return {pair: own_value(each, cleaning.weighting) for pair, each in weights.items()}
    users, items = {user for user, _ in weights}, [item for _, item in weights]
    values = {}
    for (user, item), each in weights.items():
        n_having = items.count(item)
        if cleaning.weighting == "propensity":
            values[user, item] = own_value(each, "log") / math.sqrt(math.sqrt(n_having))
            continue
        if cleaning.weighting == "tfidf":
            values[user, item] = own_value(each, "log") * (1 + math.log((1 + len(users)) / (1 + n_having)))
            continue
        length = sum(abs(sum(other)) for (owner, _), other in weights.items() if owner == user)
        mean_length = sum(abs(sum(other)) for other in weights.values()) / len(users)
        k1, b, size = cleaning.saturation, cleaning.length_normalization, float(abs(sum(each)))
        frequency = size * (k1 + 1) / (size + k1 * (1 - b + b * float(length / mean_length)))
        idf = math.log(1 + (len(users) - n_having + 0.5) / (n_having + 0.5))
        values[user, item] = math.copysign(idf * frequency, sum(each))
    mean = sum(map(abs, values.values())) / len(values) if values else 1.0
    return {pair: value / mean for pair, value in values.items()}


def own_value(weights: Sequence[Fraction], weighting: str) -> float:
    total = sum(weights)
    if weighting == "binary":
        return float(max(weights) if total > 0 else min(weights))
    if weighting == "count":
        return float(total)
    size = abs(float(total))
    return math.copysign(size if size < 1 else 1 + math.log(size), total)


def _baskets(
    behind: Mapping[tuple[str, str], list[Row]], entries: Mapping[tuple[str, str], Entry], items: list[str]
) -> tuple[list[list[str]], list[float], list[list[int]]]:
    """Items, newest time and places of each basket; -inf is no time."""
    contents: dict[tuple[bytes, bytes], dict[str, float]] = defaultdict(dict)
    for (user, item), rows in behind.items():
        for row in rows:
            if (row["basket_id"] or "").strip() and entries[user, item].value > 0:
                times = contents[row["basket_id"].encode(), user.encode()]
                time = -math.inf if row["timestamp"] is None else row["timestamp"]
                times[item] = max(times.get(item, -math.inf), time)
    held = [times for _, times in sorted(contents.items()) if len(times) > 1]
    in_order = [sorted(times, key=items.index) for times in held]
    places = [
        [len({time for time in times.values() if time < times[item]}) for item in each]
        for times, each in zip(held, in_order, strict=True)
    ]
    newest = [max(times.values()) for times in held]
    return in_order, [time if time > -math.inf else math.nan for time in newest], places


def _prices(behind: Mapping[tuple[str, str], list[Row]]) -> dict[str, float]:
    prices: dict[str, list[float]] = defaultdict(list)
    for (_, item), rows in behind.items():
        prices[item] += [row["price"] for row in rows if row["price"] is not None and row["price"] > 0]
    return {item: statistics.median(each) if each else math.nan for item, each in prices.items()}
