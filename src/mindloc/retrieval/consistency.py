"""How well the nodes of a query and of a tile match one to one.

Suffixes: M tiles, K nodes, C width of a node, E = K * C, P permutations.
"""

from itertools import permutations

import numpy as np

from mindloc.errors import TileIndexError

MAX_NODES = 8  # 40 320 assignments

_BLOCK_NUMBERS = 2**20  # float64 of one block's (M, P) sums: 8 MB


def node_consistency(query_E: np.ndarray, tile_ME: np.ndarray, nodes: int) -> np.ndarray:
    """(M,) float64: mean cosine of the nodes under the best one-to-one assignment of the query's to the tile's.

    Args:
        query_E, tile_ME: the nodes of each one after the other; a node of zeros has cosine 0 with any.
        nodes: K, at most ``MAX_NODES``.

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
    step = max(1, _BLOCK_NUMBERS // len(assignment_PK))
    best_M = np.empty(len(tile_ME))
    for start in range(0, len(tile_ME), step):
        block_MKK = cosine_MKK[start : start + step]
        total_MP = sum(block_MKK[:, node, assignment_PK[:, node]] for node in range(nodes))
        best_M[start : start + step] = total_MP.max(axis=1)
    return best_M / nodes


def _unit(row_KC: np.ndarray) -> np.ndarray:
    return row_KC / np.maximum(np.linalg.norm(row_KC, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
