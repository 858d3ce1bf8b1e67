"""Which reference images are near a query, by descriptors or on the map: tables of indices, exact, in blocks.

Shapes: Q queries, N reference items, B queries of a block, D dimension, K neighbors kept, E excluded cells.
"""

import numpy as np

from mindloc.descriptors.ranking import float64_rows
from mindloc.geo.points import EARTH_RADIUS_M, PlaceUnit

NO_NEIGHBOR = -1  # in a table: fewer than K items were left
_BLOCK_SCORES = 2**24  # held at once, with their indices: 192 MB of float32, 256 MB of float64


def nearest_by_descriptor(
    query_QD: np.ndarray, reference_ND: np.ndarray, k: int, excluded: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(Q, K) int32 reference indices by falling cosine, in float32; equal ones that are kept in the reference's order.

    Args:
        query_QD, reference_ND: any float type, any length, memmaps welcome.
        k: at most so many of each query; ``NO_NEIGHBOR`` fills up.
        excluded: (query, reference item) of the cells that are no neighbors, whatever their score.
    """
    reference_ND = float64_rows(reference_ND, normalize=True).astype(np.float32)
    return _nearest(lambda rows: float64_rows(query_QD[rows], True).astype(np.float32), reference_ND, k, excluded)


def nearest_on_map(
    query_Q2: np.ndarray, reference_N2: np.ndarray, unit: PlaceUnit, k: int, excluded: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(Q, K) int32 reference indices by growing distance; places in ``unit``, the rest as ``nearest_by_descriptor``.

    Degrees are compared by the chord through the globe, which grows with the distance.

    Raises:
        ValueError: an unknown unit.
    """
    query_QD, reference_ND = _in_space(query_Q2, unit), _in_space(reference_N2, unit)
    if not len(reference_ND):  # then it has no middle
        return np.full((len(query_QD), k), NO_NEIGHBOR, np.int32)
    middle_D = reference_ND.mean(axis=0)  # near the middle, squares lose no digits
    query_QD, reference_ND = query_QD - middle_D, reference_ND - middle_D
    # 2 q.g - g.g falls with |q - g|
    reference_NE = np.concatenate([2 * reference_ND, -np.square(reference_ND).sum(axis=1, keepdims=True)], axis=1)
    query_QE = np.concatenate([query_QD, np.ones((len(query_QD), 1))], axis=1)
    return _nearest(lambda rows: query_QE[rows], reference_NE, k, excluded)


def _in_space(place_N2: np.ndarray, unit: PlaceUnit) -> np.ndarray:
    """Meters: (N, 2) on a plane, (N, 3) around the middle of the globe."""
    place_N2 = np.asarray(place_N2, np.float64).reshape(-1, 2)
    if unit == "plane_m":
        return place_N2
    if unit != "lat_lon_deg":
        raise ValueError(f"place unit {unit!r} is none of plane_m, lat_lon_deg")
    lat_N, lon_N = np.radians(place_N2).T
    around = (np.cos(lat_N) * np.cos(lon_N), np.cos(lat_N) * np.sin(lon_N), np.sin(lat_N))
    return EARTH_RADIUS_M * np.stack(around, axis=1)


def _nearest(query_of, reference_ND: np.ndarray, k: int, excluded: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Args: query_of: slice -> (B, D) of the reference's type."""
    query_E, item_E = (np.asarray(index, np.int64) for index in excluded)
    order_E = np.argsort(query_E, kind="stable")
    query_E, item_E = query_E[order_E], item_E[order_E]
    count, rows = len(reference_ND), max(1, _BLOCK_SCORES // max(1, len(reference_ND)))
    parts, first = [], 0
    while len(query_BD := query_of(slice(first, first + rows))):
        cost_BN = -query_BD @ reference_ND.T  # the rows are negated, not the scores: those would be held twice
        low, high = np.searchsorted(query_E, (first, first + len(query_BD)))
        cost_BN[query_E[low:high] - first, item_E[low:high]] = np.inf
        parts.append(_cheapest_of(cost_BN, min(k, count)))
        first += len(query_BD)
    table_QK = np.concatenate(parts) if parts else np.zeros((0, min(k, count)), np.int32)
    return np.pad(table_QK, ((0, 0), (0, k - table_QK.shape[1])), constant_values=NO_NEIGHBOR)


def _cheapest_of(cost_BN: np.ndarray, k: int) -> np.ndarray:
    """(B, K) indices of the lowest costs, equal ones in order; ``NO_NEIGHBOR`` for those of infinity."""
    index_BK = np.argpartition(cost_BN, k - 1, axis=1)[:, :k]
    index_BK.sort(axis=1)  # so that the stable sort leaves equal costs in the reference's order
    cost_BK = np.take_along_axis(cost_BN, index_BK, axis=1)
    order_BK = np.argsort(cost_BK, axis=1, kind="stable")
    cost_BK, index_BK = (np.take_along_axis(array, order_BK, axis=1) for array in (cost_BK, index_BK))
    return np.where(np.isposinf(cost_BK), NO_NEIGHBOR, index_BK).astype(np.int32)
