"""A training that was interrupted goes on: the item vectors after the last finished epoch, in one file.

Rows are solved from nothing in each epoch (trainer.als), so items, with momentum those of the epoch before, and losses
are all there is to keep, and what early stopping remembers. The file is replaced by rename: whoever is killed leaves
the epoch before or the epoch after, whole. What it was writing has one fixed name beside the file, so that the next
save takes its place. The file names the data and options that it belongs to, and the release that a warm start began
with. Checked by tests/test_checkpoint.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.release import flush
from trainer.digest import digest_of
from trainer.errors import CheckpointMismatch
from trainer.interactions import Interactions
from trainer.options import AlsOptions

_log = logging.getLogger("nearcart")

_FORMAT = 1
_FREE = ("threads", "scratch")
"""Options that may change between stopping and going on: they change no bit of the result."""
STARTED_FROM = "started_from"
"""The detail that names the release whose vectors a warm start began with; None where random vectors did."""
_BEFORE = "items_before"
_COMPANION = "companion_"
_DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file raises: besides its own errors, numpy and zipfile take bad bytes for other formats."""


@dataclass(frozen=True)
class Saved:
    """The state after the epoch `len(losses)`."""

    item_vectors: NDArray[np.float32]
    items_before: NDArray[np.float32] | None
    """Those of the epoch before, in the same basis, where momentum needs them."""
    losses: tuple[float, ...]


class Companion(Protocol):
    """What else a training must have again to go on, such as early stopping."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What to save after an epoch."""

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Be as when `state` was saved."""


class Checkpoint:
    """A file that holds the state of one training, and of its companion.

    `details` are options that change the result beside those of ALS. `on_step` is told, in words, where training goes
    on.
    """

    def __init__(
        self,
        path: Path,
        *,
        companion: Companion | None = None,
        details: Mapping[str, Any] | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self._beside = path.with_name(f".{path.name}.partial")
        self._companion = companion
        self._details = dict(details or {})
        self._on_step = on_step
        self._epochs = 0
        self._identity: dict[str, Any] = {}

    def bind(
        self, interactions: Interactions, options: AlsOptions, unobserved_weight: float, start: NDArray[np.float32]
    ) -> None:
        """Say what the training is of: data, options, and the item vectors that it starts from.

        Raises UsageError where the file cannot be written: better now than after the first epoch.
        """
        named = {name: value for name, value in dataclasses.asdict(options.als()).items() if name not in _FREE}
        del named["unobserved_weight"]
        # In the order in which a difference is told: causes before what follows from them, as all first vectors do
        # from the release they are of.
        self._identity = {
            "format": _FORMAT,
            **self._details,
            **named,
            "data": digest_of(*interactions.arrays()),
            "unobserved_weight": unobserved_weight,
            "start": digest_of(start),
        }
        self._epochs = options.epochs
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._beside.touch()
            self._beside.unlink()
        except OSError as error:
            raise UsageError(
                f"the checkpoint {self.path} cannot be written ({error}): name a file in a directory that you may "
                "write to"
            ) from error

    def require_details(self) -> None:
        """Compare the details alone, where there is a file: before `bind` has data to compare as well.

        Raises CheckpointMismatch where it is of another training, or cannot be read.
        """
        with contextlib.suppress(FileNotFoundError), self._reading() as file:
            self._require(json.loads(str(file["identity"])), self._details)

    def load(self) -> Saved | None:
        """The state that the file holds, also given back to the companion; None where there is no file.

        Raises CheckpointMismatch where it is of another training, or cannot be read.
        """
        try:
            with self._reading() as file:
                self._require(json.loads(str(file["identity"])), self._identity)
                before = file[_BEFORE] if self._identity["momentum"] > 0 else None
                saved = Saved(file["item_vectors"], before, tuple(file["losses"].tolist()))
                names = [name for name in file.files if name.startswith(_COMPANION)]
                state = {name.removeprefix(_COMPANION): file[name] for name in names}
        except FileNotFoundError:
            return None
        if self._companion is not None:
            self._companion.restore(state)
        if self._on_step is not None:
            self._on_step(f"going on after epoch {len(saved.losses)} of {self._epochs}, from {self.path}")
        return saved

    def save(self, saved: Saved) -> None:
        """Replace the file, atomically and durably. A full disk is a warning: the training is worth more."""
        state = self._companion.state() if self._companion is not None else {}
        arrays: dict[str, Any] = {
            "identity": np.array(json.dumps(self._identity)),
            "item_vectors": saved.item_vectors,
            "losses": np.array(saved.losses, dtype=np.float64),
            **({} if saved.items_before is None else {_BEFORE: saved.items_before}),
            **{f"{_COMPANION}{name}": array for name, array in state.items()},
        }
        try:
            with self._beside.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            self._beside.replace(self.path)
            flush(self.path.parent)  # a name is on the disk only when its directory is
        except OSError as error:
            _log.warning("the checkpoint %s could not be written, training goes on without: %s", self.path, error)

    def remove(self) -> None:
        """Remove the file: what it was kept for is done."""
        self._beside.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """The opened file. Raises FileNotFoundError; CheckpointMismatch where reading it fails."""
        try:
            # Opened here: np.load leaves a damaged file open.
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                yield file
        except FileNotFoundError:
            raise
        except _DAMAGE as error:
            raise CheckpointMismatch(
                f"{self.path} is no checkpoint, or a damaged one: name another file; if it is a checkpoint that was "
                "damaged, remove it to start anew"
            ) from error

    def _require(self, identity: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for name, expected in wanted.items():
            found = identity.get(name)
            if found != expected and name == STARTED_FROM:
                there, here = (f"release {each}" if each else "random vectors" for each in (found, expected))
                raise CheckpointMismatch(
                    f"the checkpoint {self.path} started from {there}, and this training starts from {here}: it may "
                    "have been published already; remove it to start anew, or give the --warm-start that it began with"
                )
            if found != expected:
                told = {"data": "other events", "start": "other first vectors"}.get(
                    name, f"{name} {found}, and this training has {expected}"
                )
                raise CheckpointMismatch(
                    f"the checkpoint {self.path} is of a training with {told}: "
                    "remove it to start anew, or give the options and events that it was made with"
                )
