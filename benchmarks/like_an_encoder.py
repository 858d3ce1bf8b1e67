"""Vectors as a trained encoder leaves them, any number of them: normal, around an offset, with a falling spectrum.

Nearest-neighbor search on uniform noise says nothing of search among tiles: noise has no neighbors. The model here is
``unit(offset + sum_j sqrt(v_j) g_j e_j)`` with g normal, e an orthonormal frame turned at random, and variances
``v_j ~ (j + knee)^-fall``. Fall, knee and the offset's length are fitted so that a sample as large as the measured
gallery has the gallery's cosines to the 1st, 10th and 100th neighbor, mean cosine of two random tiles, and intrinsic
dimension. Queries are other draws with noise on top, as much as gives them the measured cosine to their first answer.

Suffixes: N vectors, S rows sampled, Q queries, D width, R directions, K neighbors.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

RANKS = (1, 10, 100)
_DIRECTIONS = 512
_BLOCK_ROWS = 20_000
_ID_NEIGHBORS = 20


@dataclass(frozen=True)
class Nearness:
    """How near the vectors of a set lie to each other; medians over rows."""

    count: int
    cosines: tuple[float, float, float]  # to the neighbors of rank 1, 10, 100, itself left out
    mean_pair: float  # cosine of two rows drawn at random
    intrinsic_dimension: float  # Levina and Bickel's estimate from 20 neighbors, inverses averaged
    query_cosine: float | None  # of held-out queries to their first answer

    def line(self) -> str:
        cosines = ", ".join(f"{cosine:.4f}" for cosine in self.cosines)
        query = "-" if self.query_cosine is None else f"{self.query_cosine:.4f}"
        return f"| {self.count} | {cosines} | {self.mean_pair:.3f} | {self.intrinsic_dimension:.1f} | {query} |"


def measure(vector_ND: np.ndarray, query_QD: np.ndarray | None, seed: int = 0, sample: int = 1000) -> Nearness:
    """Nearness of unit vectors, of at most ``sample`` rows to all others."""
    random = np.random.default_rng(seed)
    rows = random.permutation(len(vector_ND))[:sample]
    cosine_SN = vector_ND[rows] @ vector_ND.T
    mean_pair = float((cosine_SN.sum() - len(rows)) / (cosine_SN.size - len(rows)))
    nearest_SK = -np.partition(-cosine_SN, RANKS[-1], axis=1)[:, : RANKS[-1] + 1]
    nearest_SK = -np.sort(-nearest_SK, axis=1)
    distance_SK = np.sqrt(np.maximum(2 - 2 * nearest_SK[:, 1 : _ID_NEIGHBORS + 1].astype(np.float64), 1e-12))
    inverse_S = np.log(distance_SK[:, -1:] / distance_SK[:, :-1]).mean(axis=1)
    cosines = tuple(float(np.median(nearest_SK[:, rank])) for rank in RANKS)
    query = None if query_QD is None else float(np.median((query_QD @ vector_ND.T).max(axis=1)))
    return Nearness(len(vector_ND), cosines, mean_pair, 1 / float(inverse_S.mean()), query)


@dataclass(frozen=True)
class FallingSpectrum:
    """The model; ``vectors`` draws from it."""

    dimension: int
    fall: float  # exponent that variances fall with
    knee: float  # directions before they do
    offset: float  # share of a vector's squared length, on the mean, that all have in common
    query_noise: float = 0.0  # squared length added to queries, of a unit vector's
    seed: int = 0

    def vectors(self, count: int, stream: int) -> np.ndarray:
        """(count, D) float32 of unit length; another stream gives others from the same distribution."""
        return np.concatenate(list(self.blocks(count, stream)))

    def blocks(self, count: int, stream: int) -> Iterator[np.ndarray]:
        """As ``vectors``, some rows at a time."""
        random = np.random.default_rng((self.seed, 1, stream))
        offset_D, direction_RD = self._directions()
        for first in range(0, count, _BLOCK_ROWS):
            rows = min(_BLOCK_ROWS, count - first)
            yield unit(offset_D + random.standard_normal((rows, len(direction_RD)), np.float32) @ direction_RD)

    def queries(self, count: int, stream: int) -> np.ndarray:
        """Vectors that no library holds, with noise of equal size in every direction on top."""
        vector_QD = self.vectors(count, stream)
        random = np.random.default_rng((self.seed, 2, stream))
        noise_QD = random.standard_normal(vector_QD.shape, np.float32)
        return unit(vector_QD + noise_QD * np.float32(np.sqrt(self.query_noise / self.dimension)))

    def _directions(self) -> tuple[np.ndarray, np.ndarray]:
        """What all vectors have in common, and the directions that they vary in, as long as they vary."""
        random = np.random.default_rng((self.seed, 0))
        count = min(self.dimension, _DIRECTIONS)
        turned_DR = np.linalg.qr(random.standard_normal((self.dimension, count)))[0]
        variance_R = (np.arange(1, count + 1) + self.knee) ** -self.fall
        variance_R *= (1 - self.offset) / variance_R.sum()
        offset_D = unit(random.standard_normal((1, self.dimension)))[0] * np.sqrt(self.offset)
        return offset_D.astype(np.float32), (turned_DR * np.sqrt(variance_R)).T.astype(np.float32)


def unit(row_ND: np.ndarray) -> np.ndarray:
    """Rows of unit length."""
    return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


def fit(target: Nearness, dimension: int, seed: int = 0) -> FallingSpectrum:
    """The model whose samples of ``target.count`` vectors are as near to each other as the target's."""
    best, least = None, np.inf
    for fall in np.arange(1.25, 5, 0.25).tolist():
        for knee in (0.0, 1.0, 2.0, 4.0, 8.0):
            model = FallingSpectrum(dimension, fall, knee, min(0.95, max(0.01, target.mean_pair)), seed=seed)
            for _ in range(3):
                found = measure(model.vectors(target.count, 0), None, sample=300)
                wanted = model.offset * target.mean_pair / max(found.mean_pair, 1e-3)
                previous, model = model, replace(model, offset=min(0.95, max(0.01, wanted)))
            miss = _miss(found, target)
            if miss < least:
                best, least = previous, miss
    return _fit_query_noise(best, target)


def _fit_query_noise(model: FallingSpectrum, target: Nearness) -> FallingSpectrum:
    if target.query_cosine is None:
        return model
    gallery_ND, low, high = model.vectors(target.count, 0), 0.0, 1.0
    for _ in range(12):
        model = replace(model, query_noise=(low + high) / 2)
        near = float(np.median((model.queries(300, 9) @ gallery_ND.T).max(axis=1)))
        low, high = (low, model.query_noise) if near < target.query_cosine else (model.query_noise, high)
    return model


def _miss(found: Nearness, target: Nearness) -> float:
    """Squared differences of the logarithms of neighbor distances and intrinsic dimensions."""
    distance = [np.log(1 - np.array(near.cosines)) for near in (found, target)]
    dimension = np.log(found.intrinsic_dimension / target.intrinsic_dimension)
    return float(np.sum((distance[0] - distance[1]) ** 2) + dimension**2)
