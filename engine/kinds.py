"""The two kinds of query that a recommender may answer differently: what a user sees next, what goes with a cart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["user", "cart"]
"""Items similar to one are asked for as a cart of it."""


class ByKind(NamedTuple):
    """A number for each kind of query."""

    user: float
    cart: float

    @classmethod
    def read(cls, value: float | Mapping[str, Any]) -> ByKind:
        """Of a manifest: one number stands for both."""
        if isinstance(value, Mapping):
            return cls(float(value["user"]), float(value["cart"]))
        return cls(float(value), float(value))

    def of(self, kind: Kind) -> float:
        """That of one kind."""
        return self.user if kind == "user" else self.cart
