"""The options of models beside vectors, declared once. Light, as trainer.options is, which holds the others."""

from __future__ import annotations

from dataclasses import dataclass

from engine.configuration import option

ALS, NEIGHBOURS, REGRESSION, SESSIONS, REPEAT = "als", "neighbours", "regression", "sessions", "repeat"
BLEND = "blend"
TASKS = ("next", "again", "repeats", "cart", "half-cart", "session")
"""What an evaluation asks: trainer.cases says what each is."""
PARTS_OF = {
    ALS: (ALS,),
    NEIGHBOURS: (NEIGHBOURS, REPEAT),
    REGRESSION: (REGRESSION, REPEAT),
    SESSIONS: (SESSIONS, REPEAT),
    BLEND: (ALS, REGRESSION, NEIGHBOURS, SESSIONS, REPEAT),
}
"""The parts that each model may have, the dense one first; those that validation finds useless are left out."""
CONTEXTS = ("auto", "baskets", "histories")
SIMILARITIES = ("auto", "cosine", "confidence", "lift", "bm25")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What is learned beside vectors; where the defaults come from: docs/decisions/0013-parts.md."""

    model: str = option(
        "als: vectors; neighbours: items taken together; regression: items that foretell an item; sessions: baskets or "
        "users like this one; blend: the sum of these that finds most",
        ALS,
        choices=tuple(PARTS_OF),
    )
    contexts: str = option(
        "what was taken together: baskets (or sessions), histories of users, or auto: baskets where events name them",
        "auto",
        choices=CONTEXTS,
    )
    similarity: str = option(
        "of neighbours: cosine, confidence, lift or bm25, or auto: what was best on several shops",
        "auto",
        choices=SIMILARITIES,
    )
    neighbours: int | None = option(
        "of an item, that a memory keeps at most (default: the fewest of 30, 50, 100 and 200 that find as much)",
        None,
        metavar="N",
        minimum=1,
        maximum=500,
    )
    predictors: int = option(
        "of a regression: items that another may be foretold from", 100, metavar="N", minimum=1, maximum=5000
    )
    penalty: float | None = option(
        "of a regression, as a multiple of the mean weight of an item: larger for less data (default: 1, or 3 where "
        "histories were taken together)",
        None,
        metavar="X",
        minimum=1e-6,
        maximum=1e6,
    )
    size_damping: float | None = option(
        "a basket, session or history of m items weighs m^-X (default: 0.5, or 0 where they have an order)",
        None,
        metavar="X",
        minimum=0,
        maximum=4,
    )
    distance_damping: float = option(
        "items d places apart count d^-X for neighbours, where baskets or histories have an order",
        0.5,
        metavar="X",
        minimum=0,
        maximum=8,
    )
    backward_weight: float = option(
        "what the item before counts beside the item after, for neighbours", 0.7, metavar="X", minimum=0, maximum=1000
    )
    context_half_life_days: float | None = option(
        "days in which the weight of a basket, session or history is halved (default: weights do not decay)",
        None,
        metavar="DAYS",
        minimum=0.001,
        maximum=1e6,
    )
    history_weight: float = option(
        "what a user's history counts beside a basket, where there are baskets", 0.0, metavar="X", minimum=0
    )
    nearest_sessions: int = option(
        "sessions that answer a query, those that share most with it", 300, metavar="N", minimum=1, maximum=100_000
    )
    validation: str = option(
        "cut that finds what each part counts: auto, basket, last, time:28d, random:0.2, or none: all count alike",
        "auto",
        metavar="RULE",
    )
    validation_cases: int = option(
        "most users and carts to find it with, drawn at random", 2000, metavar="N", minimum=50
    )
