"""How the events of a release were read and weighed, from its manifest: further ones must be read and weighed alike.

Checked by tests/test_recipe.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.configuration import require_valid
from engine.errors import UsageError
from engine.ids import IdTable
from engine.release import Release
from trainer.errors import ColumnMissing, FoldInImpossible, NothingLeft
from trainer.growth import Support
from trainer.interactions import Interactions, read_interactions
from trainer.items import Items, read_catalogue
from trainer.options import EventOptions
from trainer.weighting import AMONG_ALL

_OWN = ("quiet", "memory_limit")
"""Options of reading that say nothing about what is read."""


@dataclass(frozen=True)
class Recipe:
    """The options of reading events that a release was trained with, and what else of its configuration counts."""

    release_id: str
    events: EventOptions
    title_column: str | None
    seed: int
    threads: int

    @classmethod
    def of(cls, release: Release) -> Recipe:
        """Read a manifest. Raises FoldInImpossible where it does not say, or what it says needs all events at once."""
        configuration = release.manifest.get("configuration")
        given: Mapping[str, Any] = configuration if isinstance(configuration, dict) else {}
        names = [field.name for field in dataclasses.fields(EventOptions)]
        missing = [name for name in names if name not in given and name not in _OWN]
        if missing:
            raise FoldInImpossible(
                f"release {release.release_id} does not say how its events were read: its configuration lacks "
                f"{', '.join(missing)}. It was published by another version of the program, or not by `nearcart "
                "train`: train again"
            )
        try:
            events = EventOptions(**{name: given[name] for name in names if name in given})
            require_valid(events)
            events.cleaning()
            title_column, seed, threads = given.get("title_column"), given.get("seed", 0), given.get("threads", 0)
            recipe = cls(release.release_id, events, title_column, int(seed), int(threads))
        except (UsageError, TypeError, ValueError, AttributeError) as error:
            raise FoldInImpossible(
                f"release {release.release_id} has a configuration that this program cannot read events by ({error}): "
                "fold in with the program that wrote it, or train again"
            ) from None
        if events.weighting in AMONG_ALL:
            raise FoldInImpossible(
                f"release {release.release_id} was trained with --weighting {events.weighting}, which weighs each "
                "entry among all that training had: new ones alone cannot be weighed so. Train again, or train with "
                "binary, count or log"
            )
        return recipe

    @property
    def support(self) -> Support:
        """What users and items must have."""
        return Support(self.events.min_user_items, self.events.min_item_users)

    def read(self, sources: Sequence[str], on_step: Callable[[str], None]) -> Interactions:
        """Events as training read them, but for least numbers: those are about all events. Raises EventsError."""
        whole = dataclasses.replace(self.events.cleaning(), min_user_items=1, min_item_users=1)
        with self._saying_who_asks():
            return read_interactions(
                sources,
                self.events.columns(),
                cleaning=whole,
                threads=self.threads,
                memory_limit=self.events.memory_limit,
                timestamp_format=self.events.timestamp_format,
                on_step=on_step,
            )

    def read_items(
        self, items_file: Path | None, sources: Sequence[str], item_ids: IdTable, kinds: Mapping[str, str]
    ) -> Items:
        """What is known of items, attributes being of `kinds` by name. Raises ItemsError, EventsError."""
        with self._saying_who_asks():
            return read_catalogue(
                items_file,
                sources,
                self.events.columns(),
                self.title_column,
                item_ids,
                threads=self.threads,
                memory_limit=self.events.memory_limit,
                kinds=kinds,
            )

    @contextmanager
    def _saying_who_asks(self) -> Iterator[None]:
        """Where events are written otherwise, the error says who asks for what: there are no flags for it here."""
        try:
            yield
        except (ColumnMissing, NothingLeft, UsageError) as error:
            raise type(error)(
                f"{error}\nColumns, formats and weights are those that release {self.release_id} was trained with: "
                "events to fold in must be written as those were"
            ) from None
