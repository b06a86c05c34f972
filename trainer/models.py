"""From interactions to the parts of a recommender, whichever model is asked for.

Vectors alone are trained and that is all. Other models first learn from a part of the events, find what each part
counts with the rest (trainer.validation, trainer.blending), and then learn from everything those parts that count.
Checked by tests/test_models.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.evidence import OLDEST
from trainer import als
from trainer.blending import Setting, equal_settings, find_settings, with_settings
from trainer.interactions import Interactions
from trainer.learned import Learned
from trainer.model_options import ALS, PARTS_OF
from trainer.sparse_models import learn_parts
from trainer.validation import AUTO, NONE, rule_for, validation_of

if TYPE_CHECKING:
    from trainer.als import Embeddings
    from trainer.options import LearnOptions
    from trainer.splits import Split

Say = Callable[[str], None]


def learn(
    interactions: Interactions,
    options: LearnOptions,
    vectors: Callable[[], Embeddings],
    cut: Callable[[str], Split],
    on_step: Say,
) -> Learned:
    """What a training publishes; `vectors` trains the dense part on all of the interactions, where it is one.

    `cut` splits the events behind the interactions by a rule. Raises NearcartError.
    """
    names = PARTS_OF[options.model]
    if names == (ALS,):
        return Learned(vectors())
    settings, metrics = _validated(interactions, options, cut, on_step)
    if settings is not None:
        names = tuple(name for name in names if name in settings)
    embeddings = vectors() if ALS in names else None
    learned = Learned(embeddings, learn_parts(interactions, options, names, options.threads, on_step))
    learned = with_settings(learned, equal_settings(learned) if settings is None else settings)
    return _with_ages(learned, interactions, {"validation": metrics} if metrics else {})


def _validated(
    interactions: Interactions, options: LearnOptions, cut: Callable[[str], Split], on_step: Say
) -> tuple[Mapping[str, Setting] | None, Mapping[str, Any]]:
    """What each part counts, None where there is nothing to find it with, and the metrics that say so."""
    if options.validation == NONE:
        return None, {}
    rule = rule_for(interactions) if options.validation == AUTO else options.validation
    on_step(f"finding what each part counts: holding out {rule}")
    split = cut(rule)
    validation = validation_of(split, most=options.validation_cases, seed=options.seed)
    if not validation.cases:
        on_step("nothing that was held out can be asked for: all parts count alike")
        return None, {}
    names: Collection[str] = PARTS_OF[options.model]
    embeddings = als.train(split.train, options.als()) if ALS in names else None
    learned = Learned(embeddings, learn_parts(split.train, options, names, options.threads))
    found = find_settings(learned, validation.cases, validation.repeats, on_step)
    return found.settings, found.metrics


def _with_ages(learned: Learned, interactions: Interactions, metrics: Mapping[str, Any]) -> Learned:
    """With the ages of all entries, where an encoder asks for them."""
    forgets = any(part.encoder.recency.user > 0 for part in learned.sparse)
    ages = np.minimum(interactions.ages(), OLDEST).astype(np.uint16) if forgets else None
    return Learned(learned.embeddings, learned.sparse, learned.dense_weight, ages, metrics)
