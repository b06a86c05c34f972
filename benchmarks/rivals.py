"""The trainers that benchmarks.training compares, behind one seam, with one objective.

A trainer is prepared with entries (CSR of float32 ones) and a `Setting` in the project's own terms; what it returns
runs epochs and calls `after_epoch` after each. All start from the same item vectors and from users of zeros, as
Nearcart does. How each library's parameters follow from a0, lambda and nu is derived in docs/algorithm.md, "The same
objective elsewhere", and held against tests/reference.py by tests/test_rivals.py. Heavy modules are imported by the
trainer that needs them, because each runs in a process whose memory is measured.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.options import AlsOptions

CG_STEPS = 3
"""Of a row in an epoch: the default of implicit and of irspack."""
NEARCART_TOLERANCES = {"default": AlsOptions().tolerance, "exact": 0.0}
"""Of a row's loss: what Nearcart trains with unless told otherwise, and the rounding of float32 in every epoch."""
SUBSPACE = 64
"""Coordinates that IALSPP moves at a time: the default of irspack."""
Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]
"""User vectors and item vectors on the scale of docs/algorithm.md: scores aim at 1."""


@dataclass(frozen=True)
class Setting:
    """What to train, in the terms of docs/algorithm.md."""

    factors: int
    unobserved_weight: float
    regularization: float
    exponent: float
    epochs: int
    threads: int
    seed: int = 42
    init_scale: float = 0.1

    def first_items(self, n_items: int) -> NDArray[np.float32]:
        """The item vectors that trainer.als starts from."""
        items = np.random.default_rng(self.seed).standard_normal((n_items, self.factors), dtype=np.float32)
        return items * np.float32(self.init_scale / math.sqrt(self.factors))


@dataclass(frozen=True)
class Entries:
    """Distinct pairs by user, each of weight 1."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    n_items: int

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    def ones(self) -> NDArray[np.float32]:
        return np.ones(len(self.indices), dtype=np.float32)


class AfterEpoch(Protocol):
    """Told of every epoch: how to get its vectors, its seconds where the trainer's own clock knows better, and the
    multiply-adds of its row solves where it counts them."""

    def __call__(
        self, vectors: Callable[[], Vectors], seconds: float | None = None, multiply_adds: float | None = None
    ) -> None: ...


Run = Callable[[AfterEpoch], None]


@dataclass(frozen=True)
class Rival:
    """A library with one of its solvers; `exponent` is the nu that it is run with, Nearcart apart, which takes any."""

    library: str
    solver: str
    exponent: float = 1.0

    @property
    def is_installed(self) -> bool:
        return self.library == "nearcart" or importlib.util.find_spec(self.library) is not None

    def prepare(self, entries: Entries, setting: Setting) -> Run:
        """Everything before the first epoch: imports, matrices, transposition, first vectors."""
        return _PREPARE[self.library](entries, setting, self.solver)


RIVALS: dict[str, Rival] = {
    "implicit-cg": Rival("implicit", "cg", 0.0),
    "implicit-cholesky": Rival("implicit", "cholesky", 0.0),
    "irspack-cg": Rival("irspack", "cg", 1.0),
    "irspack-cholesky": Rival("irspack", "cholesky", 1.0),
    "irspack-ialspp": Rival("irspack", "ialspp", 1.0),
}


def trainer_named(name: str) -> Rival:
    """A rival, or "nearcart-SOLVER"."""
    library, _, solver = name.partition("-")
    return Rival(library, solver) if library == "nearcart" else RIVALS[name]


def child_environment(name: str) -> dict[str, str]:
    """What a trainer's process gets beside its own environment.

    implicit calls BLAS from threads of its own, asks for this, and was not faster without it; irspack has Eigen.
    Nearcart limits BLAS itself and runs as its users run it.
    """
    return {} if name.startswith("nearcart") else {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def implicit_parameters(unobserved_weight: float, regularization: float) -> tuple[float, float, float]:
    """implicit's confidence of an entry of weight 1, its regularization, and the scale of its vectors; nu is 0."""
    confidence = (1 + unobserved_weight) / unobserved_weight
    return confidence, regularization * confidence, math.sqrt(1 + unobserved_weight)


def _nearcart(entries: Entries, setting: Setting, solver: str) -> Run:
    from benchmarks.made_sets import interactions_of
    from trainer.als import train
    from trainer.interactions import Csr

    interactions = interactions_of(Csr(entries.indptr, entries.indices, entries.ones(), n_columns=entries.n_items))
    options = AlsOptions(
        factors=setting.factors,
        epochs=setting.epochs,
        regularization=setting.regularization,
        unobserved_weight=setting.unobserved_weight,
        regularization_exponent=setting.exponent,
        init_scale=setting.init_scale,
        seed=setting.seed,
        threads=setting.threads,
        tolerance=NEARCART_TOLERANCES[solver],
    )

    def run(after_epoch: AfterEpoch) -> None:
        train(
            interactions,
            options,
            on_epoch=lambda done: after_epoch(
                lambda: (done.user_vectors, done.item_vectors), multiply_adds=done.multiply_adds
            ),
        )

    return run


def _implicit(entries: Entries, setting: Setting, solver: str) -> Run:
    from implicit.cpu.als import AlternatingLeastSquares

    if setting.exponent != 0:
        raise ValueError(f"implicit knows nu 0 only, found {setting.exponent:g}")
    confidence, regularization, scale = implicit_parameters(setting.unobserved_weight, setting.regularization)
    model = AlternatingLeastSquares(
        factors=setting.factors,
        regularization=regularization,
        alpha=confidence,
        dtype=np.float32,
        use_cg=solver == "cg",
        iterations=setting.epochs,
        num_threads=setting.threads,
    )
    model.cg_steps = CG_STEPS
    # fit keeps the factors that it finds.
    model.user_factors = np.zeros((entries.n_users, setting.factors), dtype=np.float32)
    model.item_factors = setting.first_items(entries.n_items) * np.float32(scale)
    matrix = _matrix(entries)

    def vectors() -> Vectors:
        return model.user_factors / np.float32(scale), model.item_factors / np.float32(scale)

    def run(after_epoch: AfterEpoch) -> None:
        # fit transposes before its first iteration; its own clock of an iteration leaves that out.
        model.fit(matrix, show_progress=False, callback=lambda _, seconds, __: after_epoch(vectors, seconds))

    return run


def _irspack(entries: Entries, setting: Setting, solver: str) -> Run:
    from irspack.recommenders.ials import (
        CoreTrainer,
        IALSModelConfigBuilder,
        IALSSolverConfigBuilder,
        LossType,
        str_to_solver_type,
    )

    model = (
        IALSModelConfigBuilder()
        .set_K(setting.factors)
        .set_alpha0(setting.unobserved_weight)
        .set_reg(setting.regularization)
        .set_nu(setting.exponent)
        .set_loss_type(LossType.IALSPP)
        .build()
    )
    how = (
        IALSSolverConfigBuilder()
        .set_n_threads(setting.threads)
        .set_solver_type(str_to_solver_type(solver))
        .set_max_cg_steps(CG_STEPS)
        .set_ialspp_iteration(1)
        .set_ialspp_subspace_dimension(SUBSPACE)
        .build()
    )
    core = CoreTrainer(model, _matrix(entries))
    core.user = np.zeros((entries.n_users, setting.factors), dtype=np.float32)
    core.item = setting.first_items(entries.n_items)

    def run(after_epoch: AfterEpoch) -> None:
        for _ in range(setting.epochs):
            core.step(how)
            after_epoch(lambda: (core.user, core.item))

    return run


def _matrix(entries: Entries) -> Any:
    from scipy import sparse

    arrays = (entries.ones(), entries.indices, entries.indptr)
    return sparse.csr_matrix(arrays, shape=(entries.n_users, entries.n_items))


_PREPARE: dict[str, Callable[[Entries, Setting, str], Run]] = {
    "nearcart": _nearcart,
    "implicit": _implicit,
    "irspack": _irspack,
}
