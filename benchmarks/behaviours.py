"""The contenders of benchmarks.blends for events of several kinds (views, carts, purchases): which purchase comes next?

Each reads the events with weights by kind of its own choice, has the same number of trials from the same seed, and is
asked with the user's whole history, which is not listed. Checked by tests/test_parts_benchmarks.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import optuna
from scipy import sparse

from benchmarks.asked import Asked, MatrixScorer, learn, mean, measured, only, parts_of, scorer_of, settings_of, weigh
from benchmarks.contenders import WEIGHTINGS, Budget, Setting, Trial, optimized
from benchmarks.quality_models import matrix_of, similarity_of
from engine.evidence import Evidence
from trainer import als
from trainer.blending import with_settings
from trainer.cases import Cases, user_cases
from trainer.cleaning import Cleaning
from trainer.evaluate import Scores, popularity_scorer
from trainer.events import EventColumns
from trainer.interactions import Interactions, read_interactions
from trainer.learned import Learned
from trainer.metrics import parse_metrics
from trainer.model_options import BLEND, PARTS_OF, ModelOptions
from trainer.options import AlsOptions

METRICS = parse_metrics("hr@10,ndcg@10")
AIM = "hr@10"
COLUMNS = EventColumns(user="user", item="item")
_OFTEN = ("binary", "count", "log")


@dataclass(frozen=True)
class Part:
    """Files: events of all kinds to learn from, and one purchase of each user to be found."""

    events: Path
    purchases: Path

    def train(self, setting: Setting) -> Interactions:
        """A view and a cart weigh what the setting says, a purchase 1."""
        weights = {"view": setting["view"], "cart": setting["cart"], "buy": 1.0}
        cleaning = Cleaning(event_weights=weights, weighting=setting["weighting"])
        return read_interactions([str(self.events)], COLUMNS, cleaning=cleaning)

    def cases(self, train: Interactions) -> Cases:
        return user_cases(train, read_interactions([str(self.purchases)], COLUMNS), repeats=False)


def last_purchases_out(part: Part, directory: Path) -> Part:
    """Each user's last purchase, and the events without any of that user and item."""
    left = Part(directory / "events.parquet", directory / "purchases.parquet")
    with duckdb.connect() as connection:
        connection.execute(
            f"""
            CREATE TABLE events AS SELECT * FROM read_parquet('{part.events}');
            CREATE TABLE last AS SELECT "user", item FROM events WHERE event = 'buy'
            QUALIFY row_number() OVER (PARTITION BY "user" ORDER BY timestamp DESC, item DESC) = 1;
            COPY (SELECT * FROM last ORDER BY ALL) TO '{left.purchases}';
            COPY (SELECT * FROM events ANTI JOIN last USING ("user", item) ORDER BY ALL) TO '{left.events}'"""
        )
    return left


class Contender(Protocol):
    name: str
    library: str

    def tune(self, validation: Part, budget: Budget) -> list[Trial]: ...

    def fit(self, train: Interactions, cases: Cases, setting: Setting, seed: int) -> Scores: ...


class Popular:
    name, library = "popular", "trainer"

    def tune(self, validation: Part, budget: Budget) -> list[Trial]:
        """Whether views and carts count: all, or purchases alone."""
        tried = [{"view": weight, "cart": weight, "weighting": "binary"} for weight in (1.0, 0.0)]
        return [_tried(self, validation, setting, budget.seed) for setting in tried]

    def fit(self, train: Interactions, cases: Cases, setting: Setting, seed: int) -> Scores:
        return popularity_scorer(train, len(cases.evidence))


class ItemKnn:
    name, library = "item-knn", "implicit"

    def tune(self, validation: Part, budget: Budget) -> list[Trial]:
        def tried(trial: optuna.Trial) -> Trial:
            setting = by_kind(trial)
            setting["weighting"] = trial.suggest_categorical("weighting", _OFTEN)
            setting["similarity"] = trial.suggest_categorical("similarity", ["cosine", "tfidf", "bm25"])
            setting["neighbours"] = trial.suggest_int("neighbours", 5, 1000, log=True)
            if setting["similarity"] == "bm25":
                setting["K1"] = trial.suggest_float("K1", 0.1, 100, log=True)
                setting["B"] = trial.suggest_float("B", 0, 1)
            return _tried(self, validation, setting, budget.seed)

        first = {"view": 1.0, "cart": 1.0, "weighting": "count", "similarity": "cosine", "neighbours": 20}
        return optimized(tried, first, budget)

    def fit(self, train: Interactions, cases: Cases, setting: Setting, seed: int) -> Scores:
        similarity = similarity_of(matrix_of(train.by_user), setting)

        def answer(shown: Sequence[Evidence]) -> Any:
            return (_bags(shown, train.n_items) @ similarity).toarray().astype(np.float32)

        return MatrixScorer(train.n_items, cases.evidence, answer)


class Ials:
    name, library = "ials", "trainer"

    def tune(self, validation: Part, budget: Budget) -> list[Trial]:
        def tried(trial: optuna.Trial) -> Trial:
            setting = by_kind(trial)
            setting["weighting"] = trial.suggest_categorical("weighting", WEIGHTINGS)
            setting["factors"] = trial.suggest_categorical("factors", budget.factors)
            setting["epochs"] = trial.suggest_int("epochs", 2, budget.epochs)
            setting["regularization"] = trial.suggest_float("regularization", 0.0003, 1, log=True)
            setting["unobserved_weight"] = trial.suggest_float("unobserved_weight", 0.0003, 0.3, log=True)
            setting["regularization_exponent"] = trial.suggest_float("regularization_exponent", 0, 1, step=0.25)
            return _tried(self, validation, setting, budget.seed)

        first = {"view": 1.0, "cart": 1.0, "weighting": "log", "factors": budget.factors[-1], "regularization": 0.003}
        return optimized(tried, {**first, "epochs": min(8, budget.epochs), "regularization_exponent": 1.0}, budget)

    def fit(self, train: Interactions, cases: Cases, setting: Setting, seed: int) -> Scores:
        options = {name: value for name, value in setting.items() if name not in ("view", "cart", "weighting")}
        return scorer_of(Learned(als.train(train, AlsOptions(**options, seed=seed))), cases, train.n_items)


class Parts:
    """A model of `nearcart train --model`, its weights found on the purchases that were held out."""

    library = "trainer"

    def __init__(self, model: str, name: str = "") -> None:
        self.model, self.name = model, name or model

    def tune(self, validation: Part, budget: Budget) -> list[Trial]:
        first = {"view": 1.0, "cart": 1.0, "weighting": "log", "penalty": 1.0, "size_damping": 0.3}
        return optimized(
            lambda trial: self.weighed(validation, {**by_kind(trial), **proposed(trial)}, budget.seed),
            {**first, "distance_damping": 0.5, "backward_weight": 0.7, "nearest_sessions": 300},
            budget,
        )

    def weighed(self, validation: Part, setting: Setting, seed: int) -> Trial:
        """The setting with what each part counts and how fast it forgets, and what it finds."""
        train = validation.train(setting)
        cases = validation.cases(train)
        learned = only(self.learned(train, PARTS_OF[self.model], setting, seed), self.model)
        found = weigh(learned, Asked(train, cases))
        weighed = {**setting, "parts": parts_of(found, "user")}
        scorer = scorer_of(with_settings(learned, found.settings), cases, train.n_items)
        return Trial(weighed, mean(measured(scorer, cases, METRICS), AIM))

    def learned(self, train: Interactions, names: Sequence[str], setting: Setting, seed: int) -> Learned:
        aside = ("view", "cart", "weighting", "parts")
        options = ModelOptions(**{name: value for name, value in setting.items() if name not in aside})
        return learn(train, names, options, lambda: Learned(als.train(train, AlsOptions(seed=seed))))

    def fit(self, train: Interactions, cases: Cases, setting: Setting, seed: int) -> Scores:
        learned = self.learned(train, list(setting["parts"]), setting, seed)
        return scorer_of(with_settings(learned, settings_of(setting["parts"])), cases, train.n_items)


class DefaultParts(Parts):
    """The same with every option at its default."""

    def tune(self, validation: Part, budget: Budget) -> list[Trial]:
        return [self.weighed(validation, {"view": 1.0, "cart": 1.0, "weighting": "log"}, budget.seed)]


CONTENDERS: tuple[Contender, ...] = (
    Parts(BLEND),
    DefaultParts(BLEND, "blend-default"),
    Popular(),
    ItemKnn(),
    Ials(),
)


def by_kind(trial: optuna.Trial) -> Setting:
    return {name: trial.suggest_float(name, 0.05, 1, log=True) for name in ("view", "cart")}


def proposed(trial: optuna.Trial) -> Setting:
    """How often a history counts, and options of trainer.model_options."""
    return {
        "weighting": trial.suggest_categorical("weighting", _OFTEN),
        "penalty": trial.suggest_float("penalty", 0.1, 30, log=True),
        "size_damping": trial.suggest_float("size_damping", 0, 1),
        "distance_damping": trial.suggest_float("distance_damping", 0, 2),
        "backward_weight": trial.suggest_float("backward_weight", 0, 1.5),
        "nearest_sessions": trial.suggest_int("nearest_sessions", 50, 3000, log=True),
    }


def _tried(contender: Contender, part: Part, setting: Setting, seed: int) -> Trial:
    train = part.train(setting)
    cases = part.cases(train)
    return Trial(setting, mean(measured(contender.fit(train, cases, setting, seed), cases, METRICS), AIM))


def _bags(shown: Sequence[Evidence], n_items: int) -> sparse.csr_matrix:
    indptr = np.append(0, np.cumsum([len(each.rows) for each in shown]))
    items, weights = (np.concatenate([getattr(each, name) for each in shown]) for name in ("rows", "weights"))
    return sparse.csr_matrix((weights, items, indptr), shape=(len(shown), n_items))
