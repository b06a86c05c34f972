"""How the engine finds what folds events into a release: reading them is the trainer's, which the engine never imports.

The trainer registers it as an entry point, as it does its commands (docs/decisions/0001-entry-points-for-commands.md).
What it does is trainer.new_items.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.errors import NearcartError
from engine.index_progress import IndexProgress
from engine.plan import IndexPlan
from engine.repository import Repository

GROUP = "nearcart.fold_in"


class FoldIn(Protocol):
    """Publishes a release with what events say since; `items` is an items file for the new ones."""

    def __call__(
        self,
        repository: Repository,
        release_id: str,
        events: Sequence[str],
        items: Path | None,
        plan: IndexPlan,
        promised_recall: float,
        *,
        promote: bool,
        seconds: float,
        on_step: Callable[[str], None],
        progress: IndexProgress,
    ) -> tuple[str, Mapping[str, Any]]:
        """Returns the new release's id and the manifest's "index". Raises NearcartError."""


def fold_in() -> FoldIn:
    """What is registered. Raises ModuleNotFoundError where the extra `train` is missing, NearcartError without any."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        found: FoldIn = entry.load()
        return found
    raise NearcartError(
        f"found nothing that folds events in, expected an entry point of the group {GROUP!r}: install Nearcart again, "
        "with its extra `train`, as in pip install 'nearcart[train]'"
    )
