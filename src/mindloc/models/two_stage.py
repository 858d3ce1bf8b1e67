"""SGM-Net's head: a backbone's map -> Omega, by which references are recalled, and Phi, by which they are re-ranked.

Shapes: B images, N = H * W positions row by row, W channels of the backbone, C of the adapted map, K centers (and
nodes), S positions after pooling, I channels inside the non-local block, 2 (row, column).

References:
    SGM-Net; Wang et al., Non-local Neural Networks, CVPR 2018, arXiv:1711.07971.
"""

from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindloc.config.sections import HeadConfig
from mindloc.models.layers import Linear, unit_rows
from mindloc.models.parameters import parameter
from mindloc.vocabulary import CENTROIDS, OMEGA, PHI

NonLocalForm = Literal["dot_product", "embedded_gaussian"]
Similarity = Literal["dot", "cosine"]
Area = Literal["soft", "count"]
_LEAST_AREA = 1e-12  # so that a node without similar positions has the center of the grid as its centroid


def build_two_stage_head(head: HeadConfig, width: int) -> "TwoStageHead":
    """The head ``two_stage``, for a backbone of ``width`` channels."""
    return TwoStageHead(
        width,
        channels=head.channels,
        non_local=None if head.non_local == "none" else head.non_local,
        non_local_pool=head.non_local_pool,
        omega_grid=head.omega_grid,
        phi_reads_non_local=head.phi_reads_non_local,
        centroids=head.centroids,
        nodes=head.nodes,
        similarity=head.similarity,
        area=head.area,
        sort=head.sort_by_area,
    )


class TwoStageHead(nn.Cell):
    """Map (B, N, W) float32 -> omega (B, H*W*C) and phi (B, K*C), both of length 1, and on request centroids (B, 2K).

    Omega is the map after the non-local block, flattened. Phi are the nodes of CSMG, by default of the map before that
    block.

    Args:
        width: W.
        channels: C.
        non_local: form of the block; None leaves it out.
        non_local_pool: ``pool`` of ``NonLocalBlock``.
        omega_grid: side of the grid to which the map is averaged for Omega, which then has C * side^2 numbers; 0 keeps
            the map.
        phi_reads_non_local: compute Phi from the map after the non-local block.
        centroids: also return the place of each node, (row, column) in 0..1.
        csmg: further arguments of ``CSMG``.
    """

    def __init__(
        self,
        width: int,
        channels: int = 256,
        non_local: NonLocalForm | None = "dot_product",
        non_local_pool: int = 1,
        omega_grid: int = 0,
        phi_reads_non_local: bool = False,
        centroids: bool = False,
        **csmg: Any,
    ):
        super().__init__()
        self.width, self.channels, self.omega_grid = width, channels, omega_grid
        self.phi_reads_non_local, self.with_centroids = phi_reads_non_local, centroids
        self.descriptors = (OMEGA, PHI, CENTROIDS) if centroids else (OMEGA, PHI)
        self.adapter = Linear(width, channels)
        self.non_local = None if non_local is None else NonLocalBlock(channels, non_local, non_local_pool)
        self.csmg = CSMG(channels, **csmg)

    def construct(self, features_BNW, rows, columns):
        """The descriptors of a map; ``rows`` and ``columns`` are H and W of its grid."""
        x_MC = self.adapter(ops.reshape(features_BNW, (-1, self.width)))
        x_BNC = ops.reshape(x_MC, (-1, rows * columns, self.channels))
        mixed_BNC = x_BNC if self.non_local is None else self.non_local(x_BNC, rows, columns)
        phi_BE, centroid_BK2 = self.csmg(mixed_BNC if self.phi_reads_non_local else x_BNC, rows, columns)
        omega_BD, phi_BE = unit_rows(self._flat(mixed_BNC, rows, columns)), unit_rows(phi_BE)
        if self.with_centroids:
            return omega_BD, phi_BE, ops.reshape(centroid_BK2, (centroid_BK2.shape[0], -1))
        return omega_BD, phi_BE

    def _flat(self, x_BNC, rows, columns):
        side, positions = self.omega_grid, rows * columns
        if side:
            high, wide = rows // side, columns // side
            strips = ops.reshape(x_BNC, (-1, side, high, columns * self.channels))
            strips = ops.reshape(ops.mean(strips, 2), (-1, side, wide, self.channels))
            x_BNC, positions = ops.mean(strips, 2), side * side
        return ops.reshape(x_BNC, (-1, positions * self.channels))


class NonLocalBlock(nn.Cell):
    r"""Map (B, N, C) -> the map plus what its positions receive from one another, (B, N, C), float32.

    .. math:: y_i = x_i + W \sum_j f(x_i, x_j)\, g(x_j), \qquad
              f = \tfrac1S \theta(x_i)^\top \phi(x_j) \ \text{or}\ \mathrm{softmax}_j\, \theta(x_i)^\top \phi(x_j)

    The last projection W starts at zero, so a new block is the identity.

    Args:
        channels: C; half of them are used inside.
        form: "dot_product" divides by the number of positions, "embedded_gaussian" takes the softmax over them.
        pool: side of the squares of positions over which keys and values are max-pooled; 1 for none. Both sides of
            the grid must be multiples of it.
    """

    def __init__(self, channels: int, form: NonLocalForm = "dot_product", pool: int = 1):
        super().__init__()
        self.channels, self.inner, self.pool = channels, max(1, channels // 2), pool
        self.softmax = form == "embedded_gaussian"
        self.theta = Linear(channels, self.inner)
        self.phi = Linear(channels, self.inner)
        self.g = Linear(channels, self.inner)
        self.last = Linear(self.inner, channels, start=None)
        self.matmul = ops.BatchMatMul()
        self.matmul_ta = ops.BatchMatMul(transpose_a=True)
        self.matmul_tb = ops.BatchMatMul(transpose_b=True)

    def construct(self, x_BNC, rows, columns):
        """The map after the block; ``rows`` and ``columns`` are H and W of its grid."""
        positions = rows * columns
        x_MC = ops.reshape(x_BNC, (-1, self.channels))
        query_BNI = ops.reshape(self.theta(x_MC), (-1, positions, self.inner))
        key_BSI = self._pooled(self.phi(x_MC), rows, columns)
        value_BSI = self._pooled(self.g(x_MC), rows, columns)
        if self.softmax:
            weight_BNS = ops.softmax(self.matmul_tb(query_BNI, key_BSI), -1)
            received_BNI = self.matmul(weight_BNS, value_BSI)
        else:  # (Q K^T) V = Q (K^T V): no N x S matrix
            mixed_BII = self.matmul_ta(key_BSI, value_BSI) / key_BSI.shape[1]
            received_BNI = self.matmul(query_BNI, mixed_BII)
        change_MC = self.last(ops.reshape(received_BNI, (-1, self.inner)))
        return x_BNC + ops.reshape(change_MC, x_BNC.shape)

    def _pooled(self, x_MI, rows, columns):
        """(B*N, I) -> (B, S, I), the maximum over squares of ``pool`` by ``pool`` positions."""
        side = self.pool
        if side > 1:
            strips = ops.reshape(x_MI, (-1, rows // side, side, columns * self.inner))
            strips = ops.reshape(ops.amax(strips, 2), (-1, columns // side, side, self.inner))
            x_MI = ops.amax(strips, 2)
        return ops.reshape(x_MI, (-1, (rows // side) * (columns // side), self.inner))


class CSMG(nn.Cell):
    r"""Cosine-similarity mask graph: map (B, N, C) -> K nodes, sums of the positions weighted by likeness to a center.

    .. math:: s_{ki} = \max(0, c_k \cdot x_i), \quad d_k = \sum_i s_{ki} x_i, \quad
              a_k = \sum_i s_{ki} \ \text{or}\ \sum_i [s_{ki} > 0]

    Nodes are float32 and concatenated, largest area first; of nodes with equal area, that of the earlier center comes
    first, on every device. Permuting the positions of the map changes only the centroids.

    Args:
        channels: C.
        nodes: K.
        similarity: "dot" as above, or "cosine": center and position are first divided by their lengths.
        area: "soft", the sum of the similarities, or "count", the number of positions with a similarity above 0.
        sort: False leaves the nodes in the order of their centers.

    References:
        SGM-Net; tests/reference/csmg.npz fixes the soft form.
    """

    def __init__(
        self, channels: int, nodes: int = 4, similarity: Similarity = "dot", area: Area = "soft", sort: bool = True
    ):
        super().__init__()
        self.channels, self.nodes = channels, nodes
        self.cosine, self.count, self.sort = similarity == "cosine", area == "count", sort
        self.centers = parameter("centers", nodes, channels, start="glorot")
        self.earlier_KK = Tensor(np.tril(np.ones((nodes, nodes), np.float32), -1))  # [i, j] = 1: j comes before i
        self.place_K = Tensor(np.arange(nodes, dtype=np.float32))
        self.matmul_tb = ops.MatMul(transpose_b=True)
        self.matmul_ta = ops.BatchMatMul(transpose_a=True)

    def construct(self, x_BNC, rows, columns):
        """The nodes and their centroids.

        Args:
            rows, columns: H and W of the grid.

        Returns:
            phi (B, K*C), not normalized; centroid (B, K, 2) of each node, in the order of phi: the mean (row, column)
            of the positions, weighted by similarity. 0 is the center of the first cell of a side, 1 that of the last;
            a side of one cell has 0.5.
        """
        similarity_BNK = ops.relu(self._similarity(x_BNC))
        node_BKC = self.matmul_ta(similarity_BNK, x_BNC)
        soft_BK = ops.sum(similarity_BNK, 1)
        area_BK = ops.sum(ops.cast(similarity_BNK > 0, ms.float32), 1) if self.count else soft_BK
        centroid_BK2 = self._centroids(similarity_BNK, soft_BK, rows, columns)
        takes_BKK1 = ops.expand_dims(self._permutation(ops.stop_gradient(area_BK)), -1)
        # sums of one term and zeros instead of matrix products: exact on every device
        node_BKC = ops.sum(takes_BKK1 * ops.expand_dims(node_BKC, 1), 2)
        centroid_BK2 = ops.sum(takes_BKK1 * ops.expand_dims(centroid_BK2, 1), 2)
        return ops.reshape(node_BKC, (-1, self.nodes * self.channels)), centroid_BK2

    def _similarity(self, x_BNC):
        x_MC, center_KC = ops.reshape(x_BNC, (-1, self.channels)), self.centers
        if self.cosine:
            x_MC, center_KC = unit_rows(x_MC), unit_rows(center_KC)
        return ops.reshape(self.matmul_tb(x_MC, center_KC), (-1, x_BNC.shape[1], self.nodes))

    def _permutation(self, area_BK):
        """(B, K, K), 1.0 if the node at place r is that of center k: a stable sort by comparisons, largest first."""
        own_BK1, other_B1K = ops.expand_dims(area_BK, 2), ops.expand_dims(area_BK, 1)
        larger_BKK = ops.cast(other_B1K > own_BK1, ms.float32)
        tied_BKK = ops.cast(other_B1K == own_BK1, ms.float32)
        rank_BK = ops.sum(larger_BKK + tied_BKK * self.earlier_KK, 2) if self.sort else area_BK * 0 + self.place_K
        return ops.cast(ops.expand_dims(rank_BK, 1) == ops.expand_dims(self.place_K, 1), ms.float32)

    def _centroids(self, similarity_BNK, soft_BK, rows, columns):
        place_N2 = _grid_places(rows, columns)
        moment_BK2 = self.matmul_ta(similarity_BNK, ops.broadcast_to(place_N2, (similarity_BNK.shape[0], -1, -1)))
        return 0.5 + moment_BK2 / ops.maximum(ops.expand_dims(soft_BK, -1), _LEAST_AREA)


@ops.constexpr
def _grid_places(rows, columns):
    """(1, N, 2) float32: (row, column) of every position, -0.5 to 0.5; a constant of the graph."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    places = np.stack([row / max(rows - 1, 1), column / max(columns - 1, 1)], axis=1)
    places -= [0.5 if rows > 1 else 0.0, 0.5 if columns > 1 else 0.0]
    return Tensor(places[None].astype(np.float32))
