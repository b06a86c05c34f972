"""The hyper-parameters of ALS, declared once: for the Python API, the flags, the TOML file and the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from engine.configuration import option


@dataclass(frozen=True, kw_only=True)
class AlsOptions:
    """Named as in the paper (Rendle et al. 2021); where the defaults come from: docs/decisions/0003-defaults.md."""

    factors: int = option("length of a vector", 128, metavar="N", minimum=1)
    epochs: int = option("passes over users and items", 12, metavar="N", minimum=1)
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
    init_scale: float = option("first vectors are normal with init-scale / sqrt(factors)", 0.1, metavar="X", minimum=0)
    seed: int = option("seed of everything random; the same seed gives the same bits", 42, metavar="N", minimum=0)
    threads: int = option("training threads; 0 takes every core", 0, metavar="N", minimum=0)
    solver: str = option("row solver", "exact", choices=("exact",))

    def unobserved_weight_for(self, n_users: int, n_items: int, n_entries: int) -> float:
        """The unobserved weight given, or the one that data of this density asks for.

        The best weight falls with the density (Rendle et al. tune .1 for ML-20M and .02 for MSD); the curve was fitted
        to the shops and sets of docs/decisions/0003-defaults.md.
        """
        if self.unobserved_weight is not None:
            return self.unobserved_weight
        density = n_entries / max(1, n_users * n_items)
        return float(f"{4 * density ** (2 / 3):.3g}")
