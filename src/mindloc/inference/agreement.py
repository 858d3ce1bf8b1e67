"""How far two engines agree on the same pictures.

Suffixes: N pictures, D dimension.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mindloc.inference.engine import Engine


@dataclass(frozen=True)
class Agreement:
    """Of descriptors of two engines, picture by picture."""

    pictures: int
    cosine_min: float
    cosine_mean: float
    largest_difference: float  # between entries of descriptors of length 1

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine_min:.6f} at least, {self.cosine_mean:.6f} on average, "
            f"entries within {self.largest_difference:.1e}, over {self.pictures} pictures"
        )


def compare_descriptors(one_ND: np.ndarray, other_ND: np.ndarray) -> Agreement:
    """Agreement of descriptors of any length, row by row."""
    unit, other_unit = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (_wide(one_ND), _wide(other_ND)))
    cosine_N = (unit * other_unit).sum(1)
    difference = float(np.abs(unit - other_unit).max())
    return Agreement(len(cosine_N), float(cosine_N.min()), float(cosine_N.mean()), difference)


def compare_engines(one: Engine, other: Engine, batches: Iterable[tuple[str, np.ndarray]]) -> Agreement:
    """Agreement of two engines on (view, normalized pictures) batches that both can take."""
    pairs = [tuple(e.encode({view: images})[f"{view}.global"] for e in (one, other)) for view, images in batches]
    return compare_descriptors(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))


def _wide(matrix_ND: np.ndarray) -> np.ndarray:
    return matrix_ND.astype(np.float64)
