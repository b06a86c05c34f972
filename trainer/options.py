"""The options of training, declared once: for the Python API, the flags, the TOML file and the manifest.

This module stays light, because `nearcart --help` loads it: whatever is heavy is imported inside methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.configuration import option
from engine.errors import UsageError
from engine.gate import MAX_LOSS, MAX_METRIC_LOSS
from engine.vector_formats import FLOAT32, FORMATS
from trainer.model_options import ALS, PARTS_OF, ModelOptions

if TYPE_CHECKING:
    from trainer.cleaning import Cleaning
    from trainer.events import EventColumns
    from trainer.splits import Split

EVENTS_HELP = "Parquet, CSV or JSON lines (also .gz, .zst): files, globs or directories"


@dataclass(frozen=True, kw_only=True)
class AlsOptions:
    """Named as in the paper (Rendle et al. 2021); where the defaults come from: docs/decisions/0003-defaults.md."""

    factors: int = option("length of a vector", 128, metavar="N", minimum=1, maximum=8192)
    epochs: int = option("passes over users and items", 8, metavar="N", minimum=1)
    regularization: float = option("lambda: larger for less and noisier data", 0.003, metavar="X", minimum=0)
    unobserved_weight: float | None = option(
        "a0: weight of what was not observed, against 1 for what was (default: 4 density^(2/3), where density is the "
        "share of all pairs of user and item that were observed)",
        None,
        metavar="X",
        minimum=0,
    )
    regularization_exponent: float = option(
        "nu: 1 scales lambda with a row's entries, 0 is the same for all rows", 1.0, metavar="X", minimum=0
    )
    init_scale: float = option(
        "first vectors are normal with init-scale / sqrt(factors)", 0.1, metavar="X", minimum=1e-6
    )
    seed: int = option("seed of everything random; the same seed gives the same bits", 42, metavar="N", minimum=0)
    threads: int = option("training threads; 0 takes every core", 0, metavar="N", minimum=0)
    scratch: Path | None = option(
        "directory for the users' vectors while training, where they do not fit into memory", None, metavar="DIR"
    )
    momentum: float = option(
        "how much of the last epoch's movement of the items an epoch begins with, at most; 0 for plain alternation",
        0.7,
        metavar="X",
        minimum=0,
        maximum=1,
    )
    tolerance: float = option(
        "each row is solved until its loss is within this share of its minimum; in the last epoch to the rounding of "
        "float32",
        1e-4,
        metavar="X",
        minimum=0,
        maximum=0.1,
    )

    def unobserved_weight_for(self, n_users: int, n_items: int, n_entries: int) -> float:
        """The unobserved weight given, or the one that data of this density asks for.

        The best weight falls with the density (Rendle et al. tune .1 for ML-20M and .02 for MSD); the curve was fitted
        to the shops and sets of docs/decisions/0003-defaults.md.
        """
        if self.unobserved_weight is not None:
            return self.unobserved_weight
        density = n_entries / max(1, n_users * n_items)
        return float(f"{4 * density ** (2 / 3):.3g}")

    def als(self) -> AlsOptions:
        """The options of ALS alone, of options that hold others beside them."""
        return AlsOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(AlsOptions)})


@dataclass(frozen=True, kw_only=True)
class EventOptions:
    """How events are read and cleaned."""

    user_column: str = option("column of the user", "user_id", metavar="NAME")
    item_column: str = option("column of the item", "item_id", metavar="NAME")
    timestamp_column: str = option("column of the time", "timestamp", metavar="NAME")
    timestamp_format: str = option(
        "format of times that are text but not ISO 8601, such as '%d.%m.%Y %H:%M'", "", metavar="FORMAT"
    )
    event_column: str = option("column of the kind of event", "event", metavar="NAME")
    quantity_column: str = option("column of the quantity; negative ones are returns", "quantity", metavar="NAME")
    price_column: str = option("column of the price", "price", metavar="NAME")
    basket_column: str = option("column of the basket or invoice", "basket_id", metavar="NAME")
    event_weights: str = option("weights by kind of event, such as view=0.2,purchase=1", "", metavar="LIST")
    weighting: str = option(
        "weight of an entry: see docs/user-guide.md",
        "log",
        choices=("binary", "count", "log", "propensity", "tfidf", "bm25"),
    )
    saturation: float = option(
        "k1 of bm25: how soon more events of a user and item stop counting", 1.2, metavar="X", minimum=1e-6
    )
    length_normalization: float = option(
        "b of bm25: how much less an entry of a user with many events weighs",
        0.75,
        metavar="X",
        minimum=0,
        maximum=1,
    )
    half_life_days: float | None = option(
        "days in which the weight of an event is halved (default: weights do not decay)",
        None,
        metavar="DAYS",
        minimum=0.001,
    )
    min_user_items: int = option("users with fewer items are dropped", 1, metavar="N", minimum=1)
    min_item_users: int = option("items with fewer users are dropped", 1, metavar="N", minimum=1)
    non_product_pattern: str | None = option(
        "regular expression of item ids that are fees, not products; '' keeps all", None, metavar="REGEX"
    )
    memory_limit: str = option("memory for reading events; beyond it, temporary files", "2GB", metavar="SIZE")
    quiet: bool = option("no progress; the report of dropped rows remains", False)

    def columns(self) -> EventColumns:
        """The column mapping."""
        from trainer.events import EventColumns

        names = (field.name for field in dataclasses.fields(EventColumns))
        return EventColumns(**{name: getattr(self, f"{name}_column") for name in names})

    def cleaning(self) -> Cleaning:
        """The cleaning rules. Raises UsageError."""
        from trainer.cleaning import Cleaning

        weights = {}
        for entry in filter(None, (each.strip() for each in self.event_weights.split(","))):
            kind, _, number = entry.rpartition("=")
            try:
                weights[kind.strip()] = float(number)
            except ValueError:
                raise UsageError(f"--event-weights: found {entry!r}, expected KIND=NUMBER, such as view=0.2") from None
        rules = Cleaning(
            event_weights=weights,
            weighting=self.weighting,  # type: ignore[arg-type]
            saturation=self.saturation,
            length_normalization=self.length_normalization,
            half_life_days=self.half_life_days,
            min_user_items=self.min_user_items,
            min_item_users=self.min_item_users,
        )
        if self.non_product_pattern is None:
            return rules
        return dataclasses.replace(rules, non_product_pattern=self.non_product_pattern)


@dataclass(frozen=True, kw_only=True)
class LearnOptions(ModelOptions, AlsOptions, EventOptions):
    """What is learned, and from which events."""

    def split_events(self, sources: Sequence[str], rule: str, within: str = "") -> Split:
        """The events of some files, cut into training and test (trainer.splits). Raises what reading raises."""
        from trainer.splits import read_split

        return read_split(
            sources,
            self.columns(),
            rule,
            cleaning=self.cleaning(),
            seed=self.seed,
            threads=self.threads,
            memory_limit=self.memory_limit,
            timestamp_format=self.timestamp_format,
            within=within,
        )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LearnOptions):
    """Everything that a training from events to a published release takes."""

    events: tuple[str, ...] = option(EVENTS_HELP, positional=True, metavar="EVENTS")
    releases: Path = option("directory of releases", metavar="DIR")
    items: Path | None = option(
        "items file: item_id, optionally title, category, price, available", None, metavar="FILE"
    )
    title_column: str | None = option("column of the events that names the item", None, metavar="NAME")
    recall: float = option("recall@20 that the index must keep, from 0 to 1", 0.99, metavar="R", minimum=0, maximum=1)
    factory: str = option(
        "index: auto takes the fastest that keeps --recall, Pruned is exact, or another (Quantized1, HNSW32)",
        "auto",
        metavar="STRING",
    )
    search_parameters: str = option("of a given index, such as 'efSearch=256'", "", metavar="STRING")
    index_seconds: float = option(
        "seconds that auto may take, about, to build indexes that it compares", 20.0, metavar="S", minimum=0
    )
    checkpoint: Path | None = option(
        "file that holds the state after each epoch: the same command goes on from it; removed when it has published",
        None,
        metavar="FILE",
    )
    early_stopping: int = option(
        "end after N epochs that find held-out items no better than the best epoch, whose items are the result; 0: off",
        0,
        metavar="N",
        minimum=0,
    )
    warm_start: str | None = option(
        "start from the item vectors of this release, an id or 'live'; fewer --epochs will do", None, metavar="RELEASE"
    )
    vectors: str = option(
        "what the release carries vectors in: float32, or codes of 16 or 8 bits, a half or a quarter as large",
        FLOAT32,
        choices=FORMATS,
    )
    promote: bool = option("make the release live", True)
    max_loss: float = option(
        "the release does not become live with fewer users, items or events than the live one by more than this share",
        MAX_LOSS,
        metavar="SHARE",
        minimum=0,
        maximum=1,
    )
    max_metric_loss: float = option(
        "nor where what was measured on held-out events, or the index's recall, is lower by more than this share",
        MAX_METRIC_LOSS,
        metavar="SHARE",
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True, kw_only=True)
class TuneOptions(EventOptions):
    """Everything that a search for hyper-parameters takes."""

    events: tuple[str, ...] = option(EVENTS_HELP, positional=True, metavar="EVENTS")
    output: Path = option("directory of the results and of the search's state", Path("tuning"), metavar="DIR")
    model: str = option(
        "what to search for: als (vectors), neighbours, regression, sessions, or blend (all of them)",
        ALS,
        choices=tuple(PARTS_OF),
    )
    split: str = option(
        "validation events of vectors, cut from the events: random:0.2, last, time:28d, basket, or users:0.1",
        "random:0.2",
        metavar="RULE",
    )
    validation: str = option(
        "those of the other parts: auto, which is what train takes, or a rule", "auto", metavar="RULE"
    )
    metric: str = option("what is to be high: a metric of evaluate", "ndcg@20", metavar="METRIC")
    factors: str = option("lengths of a vector to search, comma-separated", "64,128,256", metavar="LIST")
    weighting: str = option(
        "weightings to search among, comma-separated", "binary,count,log,propensity,tfidf,bm25", metavar="LIST"
    )
    trials: int = option("trials with the fewest factors, and of each other part", 40, metavar="N", minimum=1)
    refine_trials: int = option("trials around the best with each other number", 12, metavar="N", minimum=0)
    epochs: int = option("most epochs of a trial; the best number is part of the result", 16, metavar="N", minimum=1)
    validation_users: int = option(
        "most users to measure with, drawn at random; 0 takes all", 10_000, metavar="N", minimum=0
    )
    seed: int = option("seed of everything random", 42, metavar="N", minimum=0)
    threads: int = option("training threads; 0 takes every core", 0, metavar="N", minimum=0)
