"""SGM-Net's head: a backbone's map -> Omega, by which tiles are recalled, and Phi, by which they are re-ranked.

Shapes: B images, N = H * W positions row by row, W channels of the backbone, C of the adapted map, K nodes.
"""

from typing import Any

from mindspore import nn, ops

from mindloc.models.csmg import CSMG
from mindloc.models.layers import Linear, unit_rows
from mindloc.models.non_local import NonLocalBlock, NonLocalForm


class TwoStageHead(nn.Cell):
    """Map (B, N, W) float32 -> omega (B, H*W*C) and phi (B, K*C), both of length 1, and on request centroids (B, 2K).

    Omega is the map after the non-local block, flattened; Phi the nodes of CSMG, by default of the map before it.

    Args:
        width: W.
        channels: C.
        non_local: form of the block; None leaves it out.
        non_local_pool: as ``NonLocalBlock``.
        omega_grid: side of the grid that the map is averaged to for Omega, C times its square long; 0 keeps the map.
        phi_reads_non_local: Phi from the map after the block.
        centroids: add where the nodes lie, (row, column) of each in 0..1.
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
        self.descriptors = ("omega", "phi", "centroids") if centroids else ("omega", "phi")
        self.adapter = Linear(width, channels)
        self.non_local = None if non_local is None else NonLocalBlock(channels, non_local, non_local_pool)
        self.csmg = CSMG(channels, **csmg)

    def construct(self, features_BNW, rows, columns):
        """Args: rows, columns: H and W of the grid."""
        x_MC = self.adapter(ops.reshape(features_BNW, (-1, self.width)))
        x_BNC = ops.reshape(x_MC, (-1, rows * columns, self.channels))
        mixed_BNC = x_BNC if self.non_local is None else self.non_local(x_BNC, rows, columns)
        phi_BE, _, _, centroid_BK2 = self.csmg(mixed_BNC if self.phi_reads_non_local else x_BNC, rows, columns)
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
