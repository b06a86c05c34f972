"""Nearcart's trainer: from a shop's events to vectors, measured, and published as a release.

What a program needs is here by name; docs/user-guide.md, "From Python", has an example. Names are imported when they
are first asked for, so that importing one module does not load them all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.als import Embeddings as Embeddings
    from trainer.als import Epoch as Epoch
    from trainer.als import train as train
    from trainer.cleaning import Cleaning as Cleaning
    from trainer.events import EventColumns as EventColumns
    from trainer.interactions import Interactions as Interactions
    from trainer.interactions import read_interactions as read_interactions
    from trainer.options import AlsOptions as AlsOptions
    from trainer.options import TrainOptions as TrainOptions
    from trainer.splits import read_split as read_split
    from trainer.training import train_release as train_release

_HOMES = {
    "AlsOptions": "trainer.options",
    "Cleaning": "trainer.cleaning",
    "Embeddings": "trainer.als",
    "Epoch": "trainer.als",
    "EventColumns": "trainer.events",
    "Interactions": "trainer.interactions",
    "TrainOptions": "trainer.options",
    "read_interactions": "trainer.interactions",
    "read_split": "trainer.splits",
    "train": "trainer.als",
    "train_release": "trainer.training",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
