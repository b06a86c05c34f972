"""The rules of cleaning, which rows are events, and the report of every row that was dropped.

From `raw` (trainer.events) to `events`: the rows that no rule on single rows drops. A row is dropped for the first
reason that holds, in the order of `Reason`. Returns, decay and support look at many rows: they are trainer.netting's.
tests/reference_events.py is the slow twin of the rules.
"""

from __future__ import annotations

import enum
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import duckdb

from engine.errors import UsageError
from trainer.weighting import LENGTH_NORMALIZATION, SATURATION, Weighting

NON_PRODUCTS = (
    r"POST|POSTAGE|DOTCOM[ _-]?POSTAGE|DOT|FREIGHT|(SHIPPING|DELIVERY)([ _-]?(FEE|COST|CHARGE)S?)?"
    r"|BANK[ _-]?CHARGES?|AMAZON[ _-]?FEES?|HANDLING([ _-]?FEES?)?|SERVICE[ _-]?FEES?|SURCHARGE|DISCOUNTS?|REFUNDS?"
    r"|ADJUST(MENT)?S?|SALES[ _-]?TAX|VAT"
)
"""Item ids that are fees and corrections in any shop: whole words only, since small data sets call items "a" or "M"."""

MILLIONTHS = 1_000_000
EARLIEST_SECONDS = 631_152_000.0
"""1 January 1990 UTC."""
DAY_SECONDS = 86_400.0


class Reason(enum.Enum):
    """Why a row was dropped, in the order in which the rules are asked."""

    NO_USER = "no user id"
    NO_ITEM = "no item id"
    NOT_A_PRODUCT = "not a product (postage, fees, ...)"
    QUANTITY_UNCLEAR = "quantity is not a number"
    QUANTITY_ABSURD = "quantity is absurdly large"
    QUANTITY_ZERO = "quantity is zero"
    PRICE_UNCLEAR = "price is not a number"
    PRICE_ABSURD = "price is negative or infinite"
    TIME_UNCLEAR = "time cannot be understood"
    TIME_ABSURD = "time is before 1990 or in the future"
    WEIGHTLESS = "kind of event that weighs nothing"
    RETURN = "return or cancellation, set against purchases"
    RETURNED = "purchase returned in full"
    CANCELLED_OUT = "weights of a user and item add up to zero"
    UNKNOWN_ITEM = "history of an item that training never saw"
    FEW_ITEMS = "user with too few items"
    FEW_USERS = "item with too few users"


UNCLEAR = (Reason.QUANTITY_UNCLEAR, Reason.PRICE_UNCLEAR, Reason.TIME_UNCLEAR)
"""Reasons that speak of a wrong column or form rather than of a bad row."""
MAX_UNCLEAR_SHARE = 0.5
"""With more unclear rows than this, what is left is not the shop."""


@dataclass(frozen=True)
class Cleaning:
    """The rules. Every row that they drop is in the report.

    Returns and cancellations are rows with a negative quantity: quantities add up by user and item, and what comes to
    zero or less was returned in full. Quantities and weights count to six decimals.
    """

    non_product_pattern: str = NON_PRODUCTS
    """Regular expression (RE2) that fully matches ids of what is no product, in upper or lower case; empty for none."""
    max_quantity: float = 1_000_000.0
    """A quantity further from zero is a mistake."""
    event_weights: Mapping[str, float] = field(default_factory=dict)
    """What an event of a kind weighs; kinds not named weigh 1, weight 0 drops the row. Negative weights are negative
    feedback: where the weights of a user and item add up to less than zero, the value w of the entry is negative, which
    means weight |w| with target 0."""
    weighting: Weighting = "log"
    """The value of an entry, S being the sum of the weights of its rows that are not returns. "binary": the heaviest
    single row (for S < 0 the most negative). "count": S. "log": 1 + log S, S itself below 1; S keeps its sign.
    "propensity", "tfidf" and "bm25" weigh an entry among all others, so that the mean of |value| is 1: see
    trainer.weighting."""
    saturation: float = SATURATION
    """k1 of "bm25": how soon more events of a user and item stop counting."""
    length_normalization: float = LENGTH_NORMALIZATION
    """b of "bm25": how much less an entry of a user with many events weighs; from 0, not at all, to 1."""
    half_life_days: float | None = None
    """An event's weight is halved for each of these that it is older than the newest event that is not a return; rows
    without a time keep theirs, and none falls below a millionth. None: weights do not decay."""
    min_user_items: int = 1
    min_item_users: int = 1
    """Users with fewer items and items with fewer users are dropped, in turns, until none is left."""
    now: float | None = None
    """Unix seconds; times more than a day later are mistakes. None reads the clock."""

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise UsageError(f"weighting is {self.weighting!r}; expected one of {', '.join(get_args(Weighting))}")
        if not 0 < self.max_quantity <= 1e9:
            raise UsageError(f"max_quantity is {self.max_quantity}; expected more than 0 and at most 1e9")
        if self.half_life_days is not None and not 0.001 <= self.half_life_days <= 1e6:
            raise UsageError(f"half_life_days is {self.half_life_days}; expected from 0.001 to 1,000,000 days")
        if not (0 < self.saturation <= 1e6 and 0 <= self.length_normalization <= 1):
            raise UsageError(
                f"saturation is {self.saturation} and length_normalization {self.length_normalization}; expected "
                "more than 0 and at most 1e6, and from 0 to 1"
            )
        if self.min_user_items < 1 or self.min_item_users < 1:
            raise UsageError(
                f"min_user_items is {self.min_user_items} and min_item_users {self.min_item_users}; expected 1 or more"
            )
        for kind, weight in self.event_weights.items():
            if not (weight == 0 or 1e-6 <= abs(weight) <= 1e6):
                raise UsageError(f"the event {kind!r} weighs {weight}; expected 0, or from 0.000001 to 1,000,000")
        try:
            re.compile(self.non_product_pattern)
        except re.error as error:
            pattern = repr(self.non_product_pattern)
            raise UsageError(f"the non-product pattern {pattern} is no regular expression: {error}") from None

    @property
    def latest_seconds(self) -> float:
        """Times after this one are mistakes."""
        return (time.time() if self.now is None else self.now) + DAY_SECONDS


@dataclass(frozen=True)
class Report:
    """Rows read, rows kept, and rows dropped by reason: read = kept + the sum of dropped."""

    rows_read: int
    rows_kept: int
    dropped: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, rows_read: int, rows_kept: int, dropped: Mapping[str, int]) -> Report:
        """Reasons in the order of the rules, without those that dropped nothing."""
        counted = tuple((each.value, dropped[each.value]) for each in Reason if dropped.get(each.value))
        return cls(rows_read, rows_kept, counted)

    @classmethod
    def total(cls, reports: Sequence[Report]) -> Report:
        """The report of several sets of rows as one."""
        dropped: Counter[str] = Counter()
        for report in reports:
            dropped.update(dict(report.dropped))
        return cls.of(sum(each.rows_read for each in reports), sum(each.rows_kept for each in reports), dropped)

    def then(self, later: Report) -> Report:
        """The report of two steps, of which the later one read what this one kept."""
        dropped = Counter(dict(self.dropped)) + Counter(dict(later.dropped))
        return self.of(self.rows_read, later.rows_kept, dropped)

    @property
    def is_unclear(self) -> bool:
        """Whether most rows were dropped because a value could not be understood."""
        unclear = sum(rows for reason, rows in self.dropped if reason in [each.value for each in UNCLEAR])
        return unclear > MAX_UNCLEAR_SHARE * self.rows_read

    def table(self) -> str:
        """The report as aligned lines for the terminal."""
        lines = [("events read", self.rows_read), *((f"  {reason}", -rows) for reason, rows in self.dropped)]
        lines.append(("events kept", self.rows_kept))
        words = max(len(text) for text, _ in lines)
        digits = max(len(f"{rows:,}") for _, rows in lines)
        return "\n".join(f"{text:<{words}}  {rows:>{digits},}" for text, rows in lines)

    def as_dict(self) -> dict[str, Any]:
        """The report for the manifest."""
        return {"rows_read": self.rows_read, "rows_kept": self.rows_kept, "dropped": dict(self.dropped)}


def judge(connection: duckdb.DuckDBPyConnection, cleaning: Cleaning) -> Report:
    """From `raw` to `users` and `items` (id, code: rank by bytes) and `events`, the rows that no rule drops.

    `events`: user_code, item_code, n_quantity, n_weight (millionths), seconds, price, basket.
    """
    _check_kinds(connection, cleaning)
    _judge(connection, cleaning)
    counts = connection.execute("SELECT reason, count(*) FROM judged GROUP BY reason").fetchall()
    rows_kept = dict(counts).get(None, 0)
    connection.execute("CREATE OR REPLACE TABLE events AS SELECT * EXCLUDE (reason) FROM judged WHERE reason IS NULL")
    connection.execute("DROP TABLE judged")
    return Report.of(sum(rows for _, rows in counts), rows_kept, dict(counts))


def _check_kinds(connection: duckdb.DuckDBPyConnection, cleaning: Cleaning) -> None:
    """Raises UsageError where weights are given and no event is of a kind that they name: the column is another."""
    if not cleaning.event_weights:
        return
    kinds = connection.execute("SELECT DISTINCT event FROM raw WHERE event IS NOT NULL ORDER BY 1").fetchall()
    found = [kind for (kind,) in kinds]
    if not set(found) & set(cleaning.event_weights):
        raise UsageError(
            f"event weights are given for {', '.join(cleaning.event_weights)}, but the kinds of the events are: "
            f"{', '.join(found[:10]) or 'none, no column holds them'}; name the column with --event-column"
        )


def _judge(connection: duckdb.DuckDBPyConnection, cleaning: Cleaning) -> None:
    """`raw` becomes `judged`: codes for ids, millionths for quantities and weights, and the reason to drop or NULL."""
    for role in ("user", "item"):
        connection.execute(
            f"CREATE OR REPLACE TABLE {role}s AS SELECT id, (row_number() OVER (ORDER BY id) - 1)::INTEGER AS code "
            f"FROM (SELECT DISTINCT {role}_id AS id FROM raw WHERE {role}_id IS NOT NULL)"
        )
    try:
        connection.execute(
            "CREATE OR REPLACE TABLE non_products AS "
            "SELECT code FROM items WHERE ? <> '' AND regexp_full_match(id, ?, 'i')",
            [cleaning.non_product_pattern] * 2,
        )
    except duckdb.InvalidInputException as error:
        raise UsageError(f"the non-product pattern {cleaning.non_product_pattern!r} was refused: {error}") from None
    connection.execute("CREATE OR REPLACE TABLE event_weights (event VARCHAR, n_weight BIGINT)")
    weights = [[kind, round(weight * MILLIONTHS)] for kind, weight in cleaning.event_weights.items()]
    if weights:
        connection.executemany("INSERT INTO event_weights VALUES (?, ?)", weights)
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE judged AS
        WITH weighed AS (
            SELECT users.code AS user_code, items.code AS item_code, seconds, price, basket,
                   coalesce(n_weight, {MILLIONTHS}) AS n_weight, coalesce(quantity, 1) AS quantity
            FROM raw
            LEFT JOIN users ON raw.user_id = users.id
            LEFT JOIN items ON raw.item_id = items.id
            LEFT JOIN event_weights ON raw.event = event_weights.event
        )
        SELECT * EXCLUDE (quantity),
               CASE WHEN abs(quantity) <= {cleaning.max_quantity} THEN round(quantity * {MILLIONTHS})::BIGINT END
                   AS n_quantity,
               CASE {_rules_sql(cleaning)} END AS reason
        FROM weighed"""
    )
    connection.execute("DROP TABLE raw")


def _rules_sql(cleaning: Cleaning) -> str:
    rules = {
        Reason.NO_USER: "user_code IS NULL",
        Reason.NO_ITEM: "item_code IS NULL",
        Reason.NOT_A_PRODUCT: "item_code IN (SELECT code FROM non_products)",
        Reason.QUANTITY_UNCLEAR: "isnan(quantity)",
        Reason.QUANTITY_ABSURD: f"abs(quantity) > {cleaning.max_quantity}",
        Reason.QUANTITY_ZERO: f"round(quantity * {MILLIONTHS}) = 0",
        Reason.PRICE_UNCLEAR: "isnan(price)",
        Reason.PRICE_ABSURD: "price < 0 OR isinf(price)",
        Reason.TIME_UNCLEAR: "isnan(seconds)",
        Reason.TIME_ABSURD: f"seconds < {EARLIEST_SECONDS} OR seconds > {cleaning.latest_seconds!r}",
        Reason.WEIGHTLESS: "n_weight = 0",
    }
    return " ".join(f"WHEN {rule} THEN '{reason.value}'" for reason, rule in rules.items())
