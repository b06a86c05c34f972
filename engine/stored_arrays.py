"""Values whose fields are arrays, each stored under its name in a directory of a release."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.release import Draft

Read = Callable[[str, type[np.generic], tuple[int | None, ...]], NDArray[Any]]
"""Reads the array of a name, a dtype and a shape, as engine.release.Release.array does."""


class Files(Protocol):
    """Where arrays lie: a Release, or the Draft of one."""

    def has(self, name: str) -> bool:
        """Whether it holds the array."""

    def array(self, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """One array, memory-mapped."""

    def verified_path(self, name: str) -> Path:
        """The path of a file that is what was written."""


@dataclass(frozen=True)
class StoredArrays:
    """A value whose fields are arrays."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the arrays, in this order."""
        return tuple(field.name for field in fields(cls))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of them by name."""
        return {name: getattr(self, name) for name in self.names()}

    def store(self, draft: Draft, directory: str) -> None:
        """Write them. Raises PublishFailed."""
        for name, array in self.arrays().items():
            draft.add_array(f"{directory}/{name}", array)


def reader(files: Files, directory: str) -> Read:
    """Reads arrays of a directory, after their SHA-256 was compared: a flipped bit would cost answers unseen."""

    def read(name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        array = files.array(f"{directory}/{name}", dtype, shape)
        files.verified_path(f"{directory}/{name}.npy")
        return array

    return read
