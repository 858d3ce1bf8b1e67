"""Non-local block: every position of a map receives from all others, weighted by likeness.

Shapes: B images, N = H * W positions row by row, S positions after pooling, C channels, I channels inside.

References:
    Wang et al., Non-local Neural Networks, CVPR 2018, arXiv:1711.07971.
"""

from typing import Literal

from mindspore import nn, ops

from mindloc.models.layers import Linear

NonLocalForm = Literal["dot_product", "embedded_gaussian"]


class NonLocalBlock(nn.Cell):
    r"""Map (B, N, C) -> the map plus what its positions receive from one another, (B, N, C), float32.

    .. math:: y_i = x_i + W \sum_j f(x_i, x_j)\, g(x_j), \qquad
              f = \tfrac1S \theta(x_i)^\top \phi(x_j) \ \text{or}\ \mathrm{softmax}_j\, \theta(x_i)^\top \phi(x_j)

    Where the last projection W is zero the block is the identity: so it starts (``start_as_identity``).

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
        self.last = Linear(self.inner, channels)
        self.matmul = ops.BatchMatMul()
        self.matmul_ta = ops.BatchMatMul(transpose_a=True)
        self.matmul_tb = ops.BatchMatMul(transpose_b=True)

    def start_as_identity(self) -> None:
        """Set the last projection to zero; before the first step."""
        for projection in (self.last.weight, self.last.bias):
            projection.set_data(ops.zeros_like(projection))

    def construct(self, x_BNC, rows, columns):
        """Args: rows, columns: H and W of the grid."""
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
