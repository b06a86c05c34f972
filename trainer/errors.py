"""Every error the trainer raises on purpose.

    NearcartError                     engine.errors; the root of this tree and of the engine's
    └── TrainerError
        ├── EventsError               something about the events; also: not enough memory or disk to read them
        │   ├── EventsUnreadable      a file is missing, empty, cut, corrupt or of no known form
        │   ├── ColumnMissing         a file has no column of a name that is needed
        │   ├── IdTooLong             an id is longer than engine.ids.MAX_ID_BYTES, or holds a NUL byte
        │   └── NothingLeft           no event is left after cleaning
        ├── ItemsError                the items file is unreadable or has a value that cannot be understood
        ├── TrainingDiverged          vectors or loss became NaN or infinite
        ├── FoldInImpossible          nothing of the events is new, or the release cannot say how to read and weigh them
        ├── MemoryShort               training would not fit into the memory that is available
        ├── CheckpointMismatch        a checkpoint is of another training, or damaged
        ├── OutputMismatch            a directory of results is of another job, or of none
        └── EvaluationError           the held-out events cannot be measured against the model

A message says what was found, what was expected and what to do. engine.cli turns each into exit code 1.
"""

from __future__ import annotations

from engine.errors import NearcartError


class TrainerError(NearcartError):
    """Root of what the trainer raises."""


class EventsError(TrainerError):
    """Something about the events, or about reading them."""


class EventsUnreadable(EventsError):
    """A file is missing, empty, cut, corrupt, or of a form that is not known."""


class ColumnMissing(EventsError):
    """A file has no column of a name that is needed."""


class IdTooLong(EventsError):
    """An id is longer than engine.ids.MAX_ID_BYTES, or holds a NUL byte."""


class NothingLeft(EventsError):
    """No event is left after cleaning."""


class ItemsError(TrainerError):
    """The items file is unreadable, or has a value that cannot be understood."""


class TrainingDiverged(TrainerError):
    """Vectors or loss became NaN or infinite."""


class FoldInImpossible(TrainerError):
    """Nothing of the events is new to the release, or the release does not say how to read and weigh them."""


class MemoryShort(TrainerError):
    """Training would not fit into the memory that is available."""


class CheckpointMismatch(TrainerError):
    """A checkpoint is of another training, or damaged."""


class OutputMismatch(TrainerError):
    """A directory of results is of another job, or holds what no job wrote."""


class EvaluationError(TrainerError):
    """The held-out events cannot be measured against the model."""
