"""The gate of promotion: a release that lost much against the live one does not become live by itself.

What is compared are numbers of the two manifests: users, items and events, what the trainer measured on held-out
events, and the measured recall of the index. A number that only one of them has is not compared. Whether a release is
whole is not asked here. Checked by tests/test_gate.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_LOSS = 0.2
MAX_METRIC_LOSS = 0.1
_SIZES = ("users", "items", "events")
_OF_THE_SUM = "blend"
"""What a validation calls all parts together; what each finds alone changes with the parts that there are."""
_DEVIATIONS = 1.645
"""Standard errors of a difference that chance explains, one-sided at 95%."""
_ROUNDING = 1e-12
_MOST = 1e15
"""No size is larger; numbers up to here are exact as floats."""


@dataclass(frozen=True)
class Comparison:
    """One number of a release and of the live one, and the least that would pass."""

    name: str
    found: float
    live: float
    allowed: float

    @property
    def passes(self) -> bool:
        """Whether enough is left."""
        return self.found >= self.allowed - _ROUNDING * abs(self.live)

    @property
    def told(self) -> str:
        """In words."""
        found, live, allowed = map(_number, (self.found, self.live, self.allowed))
        return f"{self.name}: found {found}, live {live}, allowed at least {allowed}"


@dataclass(frozen=True)
class Gate:
    """Shares of the live release's numbers that a release may have less of: of sizes, and of metrics."""

    max_loss: float = MAX_LOSS
    max_metric_loss: float = MAX_METRIC_LOSS

    def compare(self, manifest: Mapping[str, Any], live: Mapping[str, Any]) -> list[Comparison]:
        """All numbers that both manifests have. Those that fell too far do not pass."""
        found = []
        sizes, live_sizes = _mapping(manifest.get("sizes")), _mapping(live.get("sizes"))
        for name in _SIZES:
            if _is_number(sizes.get(name)) and _is_number(live_sizes.get(name)):
                now, before = float(sizes[name]), float(live_sizes[name])
                found.append(Comparison(name, now, before, before * (1 - self.max_loss)))
        if _is_same_cut(manifest, live):
            found += self._metrics(_held_out(manifest), _held_out(live))
        return found + self._metrics(_recalls(manifest), _recalls(live))

    def _metrics(self, now: Mapping[str, _Measured], before: Mapping[str, _Measured]) -> list[Comparison]:
        return [self._metric(name, each, before[name]) for name, each in now.items() if name in before]

    def _metric(self, name: str, now: _Measured, before: _Measured) -> Comparison:
        """What fell by no more than chance explains did not fall."""
        chance = _DEVIATIONS * math.hypot(now.error, before.error)
        return Comparison(name, now.mean, before.mean, before.mean - max(self.max_metric_loss * before.mean, chance))


@dataclass(frozen=True)
class _Measured:
    """A mean, and its standard error, 0 where it is not known."""

    mean: float
    error: float = 0.0


def _held_out(manifest: Mapping[str, Any]) -> dict[str, _Measured]:
    """What all parts together found of the events that a training held out, by kind of query."""
    metrics = _mapping(manifest.get("metrics"))
    errors = _mapping(metrics.get("validation_errors"))
    found = {}
    for kind, by_part in _mapping(metrics.get("validation")).items():
        mean, error = _mapping(by_part).get(_OF_THE_SUM, ""), errors.get(kind, "")
        if _is_number(mean):
            found[f"ndcg@20 of held-out {kind} cases"] = _Measured(
                float(mean), float(error) if _is_number(error) else 0.0
            )
    return found


def _is_same_cut(manifest: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether both held out events by one rule: next baskets are harder to find than random items of a history."""
    rules = [str(_mapping(each.get("metrics")).get("held_out", "")).partition(":")[0] for each in (manifest, live)]
    return "" in rules or rules[0] == rules[1]


def _recalls(manifest: Mapping[str, Any]) -> dict[str, _Measured]:
    """What the index finds of exact answers, by kind of query."""
    found = {}
    for kind, measured in _mapping(_mapping(manifest.get("index")).get("measured")).items():
        for name, value in _mapping(measured).items():
            if name.startswith("recall@") and _is_number(value):
                found[f"{name} of the index for {kind} queries"] = _Measured(float(value))
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    """Of a manifest, which may hold anything."""
    return value if isinstance(value, Mapping) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}" if value < 10 else f"{math.ceil(value):,}"
