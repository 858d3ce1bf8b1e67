"""How well the nodes of a query and of a tile match one to one, and whether they lie alike.

Suffixes: M tiles, K nodes, C width of a node, E = K * C, P permutations.
"""

from itertools import permutations

import numpy as np

from mindloc.errors import TileIndexError

MAX_NODES = 8  # 40 320 assignments


def node_consistency(
    query_E: np.ndarray,
    tile_ME: np.ndarray,
    nodes: int,
    query_centroids: np.ndarray | None = None,
    tile_centroids: np.ndarray | None = None,
) -> np.ndarray:
    """(M,) float64: mean cosine of the nodes under the best one-to-one assignment of the query's to the tile's.

    With centroids, the mean of that and of the layout agreement under the same assignment: 1 - mean over pairs of
    nodes of |distance in the query - distance in the tile| / sqrt(2). Distances do not change when a tile is turned.

    Args:
        query_E, tile_ME: the nodes of each one after the other; a node of zeros has cosine 0 with any.
        nodes: K, at most ``MAX_NODES``.
        query_centroids, tile_centroids: (2K,) and (M, 2K), pairs (row, column) in 0..1; both or none.

    Raises:
        TileIndexError: nodes out of range, or vectors that do not consist of so many.
    """
    query_E, tile_ME = np.asarray(query_E, np.float64), np.asarray(tile_ME, np.float64)
    if not 1 <= nodes <= MAX_NODES or len(query_E) % nodes or tile_ME.shape[1:] != query_E.shape:
        raise TileIndexError(
            f"vectors of width {len(query_E)} and {tile_ME.shape[-1]} can't be compared as {nodes} nodes; "
            f"both must consist of equally many, 1 to {MAX_NODES}"
        )
    query_KC, tile_MKC = _unit(query_E.reshape(nodes, -1)), _unit(tile_ME.reshape(len(tile_ME), nodes, -1))
    cosine_MKK = np.einsum("kc,mlc->mkl", query_KC, tile_MKC)
    assignment_PK = np.array(list(permutations(range(nodes))))
    total_MP = sum(cosine_MKK[:, node, assignment_PK[:, node]] for node in range(nodes))
    best_M = total_MP.argmax(axis=1)
    node_M = total_MP[np.arange(len(tile_ME)), best_M] / nodes
    if query_centroids is None or tile_centroids is None:
        return node_M
    return (node_M + _layout(query_centroids, tile_centroids, assignment_PK[best_M])) / 2


def _layout(query_centroids: np.ndarray, tile_centroids: np.ndarray, assignment_MK: np.ndarray) -> np.ndarray:
    nodes = assignment_MK.shape[1]
    if nodes == 1:
        return np.ones(len(assignment_MK))  # a single node lies alike anywhere
    query_KK = _distances(np.asarray(query_centroids, np.float64).reshape(nodes, 2))
    tile_MK2 = np.asarray(tile_centroids, np.float64).reshape(-1, nodes, 2)
    tile_MKK = _distances(np.take_along_axis(tile_MK2, assignment_MK[:, :, None], axis=1))
    one, other = np.triu_indices(nodes, 1)
    return 1 - np.abs(query_KK - tile_MKK)[:, one, other].mean(axis=1) / np.sqrt(2)


def _distances(place_K2: np.ndarray) -> np.ndarray:
    """(..., K, K) distances between the places of each."""
    return np.linalg.norm(place_K2[..., :, None, :] - place_K2[..., None, :, :], axis=-1)


def _unit(row_KC: np.ndarray) -> np.ndarray:
    return row_KC / np.maximum(np.linalg.norm(row_KC, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
