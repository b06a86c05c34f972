"""The values of a search for hyper-parameters: what to try, within which bounds, and what became of it.

No Optuna here: trainer.tuning proposes trials, trainer.experiment measures them, trainer.tuning_report shows them.
Checked by tests/test_tuning.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trainer.options import AlsOptions
from trainer.weighting import Weighting

OnEpoch = Callable[[int, float, float], None]
"""Epoch (the first is 1), metric, seconds of training in this epoch."""

STRENGTHS = (0.0003, 0.1)
"""Lambda under nu = 1: the grid of Rendle et al."""
UNOBSERVED_WEIGHT_FACTOR = 10.0
"""How far a0 may be from what the density asks for; docs/decisions/0003-defaults.md found a factor of three."""
REFINEMENT_FACTOR = 3.0
BEST_FEW = 3
"""Trials whose weightings and exponents the next number of factors keeps."""
EXPONENT_STEP = 0.25


class Experiment(Protocol):
    """What is searched; trainer.experiment.EventsExperiment is one."""

    def default_unobserved_weight(self) -> float:
        """The a0 that training takes where none is given."""

    def regularization(self, strength: float, unobserved_weight: float, exponent: float) -> float:
        """The lambda under an exponent nu that is as strong as lambda = strength under nu = 1."""

    def run(self, options: AlsOptions, weighting: Weighting, on_epoch: OnEpoch) -> None:
        """Train and measure after each epoch; what on_epoch raises ends it. Raises TrainingDiverged."""


@dataclass(frozen=True)
class Plan:
    """What to search: `trials` on the first of `factors`, which rise, and `refine_trials` on each other."""

    factors: tuple[int, ...]
    weightings: tuple[Weighting, ...]
    trials: int
    refine_trials: int
    epochs: int
    seed: int = 42
    threads: int = 0


@dataclass(frozen=True)
class Space:
    """Bounds, both included, of what is searched on one number of factors."""

    strength: tuple[float, float]
    unobserved_weight: tuple[float, float]
    exponent: tuple[float, float]
    weightings: tuple[Weighting, ...]


@dataclass(frozen=True)
class Tried:
    """One trial that is over. `strength` is the lambda that would be as strong under nu = 1; `state` is complete,
    pruned (stopped early) or diverged; `by_epoch` and `seconds` hold the metric and the training time of each epoch.
    """

    factors: int
    number: int
    state: str
    weighting: Weighting
    strength: float
    regularization: float
    unobserved_weight: float
    exponent: float
    by_epoch: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def metric(self) -> float:
        """At its best epoch; the worst there is where no epoch ended."""
        return max(self.by_epoch, default=-np.inf)

    @property
    def epochs(self) -> int:
        """The best number of epochs."""
        return int(np.argmax(self.by_epoch)) + 1 if self.by_epoch else 0

    @property
    def told(self) -> str:
        """In words."""
        ends = {
            "complete": f"{self.metric:.4f} after {self.epochs} epochs, {self.training_seconds:.3g} s",
            "pruned": f"stopped after epoch {len(self.by_epoch)} with {self.metric:.4f}",
            "diverged": "diverged",
        }
        setting = f"lambda {self.regularization:g}, a0 {self.unobserved_weight:g}, nu {self.exponent:g}"
        return f"{ends[self.state]} ({setting}, {self.weighting})"

    @property
    def training_seconds(self) -> float:
        """Until the best epoch, without measuring."""
        return sum(self.seconds[: self.epochs])


def ranked(tried: Sequence[Tried]) -> list[Tried]:
    """Complete trials, the best first; of equal ones the cheaper."""
    complete = [each for each in tried if each.state == "complete"]
    return sorted(complete, key=lambda each: (-each.metric, each.training_seconds))


def first_space(plan: Plan, experiment: Experiment) -> Space:
    """Everything."""
    middle = experiment.default_unobserved_weight()
    return Space(STRENGTHS, _around(middle, UNOBSERVED_WEIGHT_FACTOR), (0.0, 1.0), plan.weightings)


def next_space(best: Sequence[Tried]) -> Space:
    """Around the best of ranked trials."""
    few = best[:BEST_FEW]
    exponents = [each.exponent for each in few]
    return Space(
        _around(best[0].strength, REFINEMENT_FACTOR),
        _around(best[0].unobserved_weight, REFINEMENT_FACTOR),
        (min(exponents), max(exponents)),
        tuple(dict.fromkeys(each.weighting for each in few)),
    )


def _around(middle: float, factor: float) -> tuple[float, float]:
    return middle / factor, middle * factor
