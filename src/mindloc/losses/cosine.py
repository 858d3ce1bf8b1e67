"""Cosine losses of SGM-Net over a batch of pairs: the anchor is a reference image, the rest are query images.

Shapes: B pairs of a batch, D channels of a descriptor. Row i of both sides shows the same place; the negatives of
reference j are the queries i other than j whose cell (i, j) counts.
"""

from typing import Literal

import mindspore as ms
from mindspore import nn, ops

from mindloc.config.sections import LossConfig
from mindloc.models.layers import unit_rows

Negatives = Literal["all", "hardest"]


def cosine_embedding(query_BD, reference_BD, margin=0.0, negatives="all", mask_BB=None):
    r"""Cosine embedding loss: raises the cosine of pairs and pushes negatives below a margin.

    .. math:: \ell_j = (1 - \cos_{jj}) + \operatorname{reduce}_{i \ne j} \max(0, \cos_{ij} - m)

    Args:
        query_BD, reference_BD: descriptors, any length; normalized inside, in float32.
        margin: m, a cosine; with -1 every negative contributes.
        negatives: "all" takes the mean over an anchor's negatives, "hardest" the largest term. An anchor without
            negatives keeps the first term alone.
        mask_BB: rows query, columns reference, True where a cell counts; None means all. Rows whose diagonal does not
            count are padding and are left out of the mean.

    Returns:
        Scalar, the mean over anchors, 0 to 3 - m.

    References:
        SGM-Net; the loss is PyTorch's CosineEmbeddingLoss.
    """
    cosine_BB, counts_BB, own_BB = _cosines(query_BD, reference_BD, mask_BB)
    push_BB = ops.relu(cosine_BB - margin)
    pull_B = 1.0 - ops.sum(cosine_BB * own_BB, 0)
    return _mean_over_anchors(pull_B + _over_negatives(push_BB, counts_BB, own_BB, negatives), counts_BB, own_BB)


def cosine_triplet(query_BD, reference_BD, margin=0.2, negatives="all", mask_BB=None):
    r"""Triplet loss of cosines: a reference is closer to its own query than to any other, by a margin.

    .. math:: \ell_j = \operatorname{reduce}_{i \ne j} \max(0, \cos_{ij} - \cos_{jj} + m)

    Args:
        margin: m, a difference of cosines. The other arguments are those of :func:`cosine_embedding`.

    Returns:
        Scalar, the mean over anchors, 0 to 2 + m.

    References:
        SGM-Net; FaceNet, arXiv:1503.03832.
    """
    cosine_BB, counts_BB, own_BB = _cosines(query_BD, reference_BD, mask_BB)
    own_1B = ops.sum(cosine_BB * own_BB, 0, True)
    short_BB = ops.relu(cosine_BB - own_1B + margin)
    return _mean_over_anchors(_over_negatives(short_BB, counts_BB, own_BB, negatives), counts_BB, own_BB)


class CosineEmbedding(nn.Cell):
    """``cosine_embedding`` as a Cell, for one descriptor; ``Criterion`` describes its interface."""

    targets, component_names = (), ()

    def __init__(self, margin: float = 0.0, negatives: Negatives = "all"):
        super().__init__()
        self.margin, self.negatives = margin, negatives

    def construct(self, query_BD, reference_BD, logit_scale, targets, mask_BB):
        return cosine_embedding(query_BD, reference_BD, self.margin, self.negatives, mask_BB), ()


class CosineTriplet(nn.Cell):
    """``cosine_triplet`` as a Cell, for one descriptor; ``Criterion`` describes its interface."""

    targets, component_names = (), ()

    def __init__(self, margin: float = 0.2, negatives: Negatives = "all"):
        super().__init__()
        self.margin, self.negatives = margin, negatives

    def construct(self, query_BD, reference_BD, logit_scale, targets, mask_BB):
        return cosine_triplet(query_BD, reference_BD, self.margin, self.negatives, mask_BB), ()


def build_cosine_embedding(loss: LossConfig) -> CosineEmbedding:
    """The loss ``cosine_embedding`` with the settings of the config."""
    return CosineEmbedding(loss.embedding_margin, loss.negatives)


def build_cosine_triplet(loss: LossConfig) -> CosineTriplet:
    """The loss ``cosine_triplet`` with the settings of the config."""
    return CosineTriplet(loss.triplet_margin, loss.negatives)


def _cosines(query_BD, reference_BD, mask_BB):
    """Cosines, 1.0 where a cell counts, and the unit matrix, each (B, B)."""
    cosine_BB = ops.matmul(unit_rows(query_BD), unit_rows(reference_BD).T)
    counts_BB = ops.ones_like(cosine_BB) if mask_BB is None else ops.cast(mask_BB, ms.float32)
    return cosine_BB, counts_BB, ops.eye(cosine_BB.shape[0], cosine_BB.shape[1], ms.float32)


def _over_negatives(term_BB, counts_BB, own_BB, negatives):
    """(B,): mean or largest of the terms (>= 0) over each anchor's negatives; 0 without negatives."""
    negative_BB = counts_BB * (1.0 - own_BB)
    term_BB = term_BB * negative_BB
    if negatives == "hardest":
        return ops.amax(term_BB, 0)
    return ops.sum(term_BB, 0) / ops.maximum(ops.sum(negative_BB, 0), 1.0)


def _mean_over_anchors(term_B, counts_BB, own_BB):
    real_B = ops.sum(counts_BB * own_BB, 0)
    return ops.sum(term_B * real_B) / ops.maximum(ops.sum(real_B), 1.0)
