"""How far two engines agree on the same pictures.

Suffixes: N pictures, D dimension.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mindloc.inference.engine import Engine

_SHORTEST = 1e-30  # a descriptor of zeros stays one


@dataclass(frozen=True)
class Agreement:
    """Of one descriptor of two engines, picture by picture."""

    pictures: int
    cosine_min: float
    cosine_mean: float
    largest_difference: float  # between entries of descriptors of length 1

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine_min:.6f} at least, {self.cosine_mean:.6f} on average, "
            f"entries within {self.largest_difference:.1e}, over {self.pictures} pictures"
        )


@dataclass(frozen=True)
class EngineAgreement:
    """Of everything that two engines make of the same pictures."""

    of_each: dict[str, Agreement]  # descriptor -> its agreement

    @property
    def facts(self) -> dict[str, Any]:
        """For cards: descriptor -> numbers."""
        return {name: asdict(agreement) for name, agreement in self.of_each.items()}

    def __str__(self) -> str:
        if len(self.of_each) == 1:
            return str(*self.of_each.values())
        return "; ".join(f"{name} {agreement}" for name, agreement in self.of_each.items())


def compare_descriptors(*pairs: tuple[np.ndarray, np.ndarray]) -> Agreement:
    """Agreement of descriptors of any length, row by row.

    Args:
        pairs: (N, D) of both engines; of several pairs, each with its own N and D, all rows count.
    """
    cosines, differences = [], []
    for one_ND, other_ND in pairs:
        unit_ND, other_unit_ND = _unit(one_ND), _unit(other_ND)
        cosines.append((unit_ND * other_unit_ND).sum(1))
        differences.append(np.abs(unit_ND - other_unit_ND).max())
    cosine_N = np.concatenate(cosines)
    return Agreement(len(cosine_N), float(cosine_N.min()), float(cosine_N.mean()), float(max(differences)))


def compare_engines(one: Engine, other: Engine, batches: Iterable[tuple[str, np.ndarray]]) -> EngineAgreement:
    """Agreement of two engines on (view, normalized pictures) batches that both can take."""
    encoded = [(view, one.encode({view: images}), other.encode({view: images})) for view, images in batches]
    return EngineAgreement(
        {
            name: compare_descriptors(*((a[f"{view}.{name}"], b[f"{view}.{name}"]) for view, a, b in encoded))
            for name in one.descriptors
        }
    )


def _unit(matrix_ND: np.ndarray) -> np.ndarray:
    wide_ND = matrix_ND.astype(np.float64)
    return wide_ND / np.maximum(np.linalg.norm(wide_ND, axis=1, keepdims=True), _SHORTEST)
