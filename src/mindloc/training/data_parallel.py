"""Data-parallel training with one contrastive loss: every rank sees the descriptors of the global batch.

N ranks with B pairs each compute the same update as one rank with G = N * B pairs: each computes the loss over all G
descriptors, and its gradient is sent to the ranks that encoded them.

Shapes: B pairs of this rank, G pairs of all ranks, P parts of a batch, N ranks, C channels of a descriptor.
"""

from mindspore import nn, ops
from mindspore.communication import get_group_size, get_rank


class GatherRows(nn.Cell):
    """(B, C) of each rank -> (G, C) on every rank, in the order of the global batch, with a gradient.

    MindSpore's operator has no gradient on CPUs. Here it is the sum of all ranks' gradients with respect to this rank's
    rows. As every rank computes the same loss, the sum is N times too large; ``average_gradients`` corrects this when
    it averages the gradients of the parameters.

    Args:
        parts: P. A rank's rows are ordered by part; those of the global batch by part, then rank.
    """

    def __init__(self, parts: int = 1):
        super().__init__()
        self.rank, self.ranks, self.parts = get_rank(), get_group_size(), parts
        self.gather = ops.AllGather()
        self.sum = ops.AllReduce()

    def construct(self, rows_BC):
        gathered_GC = self.gather(rows_BC)  # ordered by rank
        if self.parts == 1:
            return gathered_GC
        share_NPBC = ops.reshape(gathered_GC, (self.ranks, self.parts, -1, rows_BC.shape[1]))
        return ops.reshape(ops.transpose(share_NPBC, (1, 0, 2, 3)), gathered_GC.shape)

    def bprop(self, rows_BC, gathered_GC, gradient_GC):
        summed_GC = self.sum(gradient_GC)
        share_PNBC = ops.reshape(summed_GC, (self.parts, self.ranks, -1, rows_BC.shape[1]))
        return (ops.reshape(share_PNBC[:, self.rank], rows_BC.shape),)


class GatherOutputs(nn.Cell):
    """An encoder's named outputs -> those with the descriptors of all ranks; the logit scale is equal on all ranks.

    Args:
        names: outputs to gather, which the criterion reads; others are dropped.
        parts: of the rows of every rank, see ``GatherRows``.
    """

    def __init__(self, names: tuple[str, ...], parts: int = 1):
        super().__init__()
        self.names = names
        self.rows = GatherRows(parts)

    def construct(self, outputs):
        gathered = {"logit_scale": outputs["logit_scale"]}
        for name in self.names:
            gathered[name] = self.rows(outputs[name])
        return gathered


def average_gradients(parameters) -> nn.Cell:
    """Cell: gradients of the parameters on this rank -> their mean over all ranks, bit-identical on all."""
    return nn.DistributedGradReducer(parameters, mean=True, degree=get_group_size())
