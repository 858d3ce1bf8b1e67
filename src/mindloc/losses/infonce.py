"""InfoNCE over a batch of pairs, with label smoothing by overlap (Weighted-InfoNCE) or the same for all pairs.

Shapes: B pairs of a batch, D channels of a descriptor. Row i of both sides shows the same place.
"""

import mindspore as ms
from mindspore import nn, ops

from mindloc.config.sections import LossConfig
from mindloc.models.layers import precise_exp, unit_rows

DIRECTIONS = ("query_to_reference", "reference_to_query")  # parts of the loss; the loss is their mean
MASKED = -1e30  # finite, so that a fully masked row gives no NaN, forward or backward


def weighted_infonce(query_BD, reference_BD, logit_scale, weight_B, k=5.0, mask_BB=None):
    r"""Symmetric InfoNCE whose label smoothing falls with the overlap of each pair.

    .. math:: \ell_i = \mathrm{LSE}_j s_{ij} - (1 - \epsilon_i) s_{ii} - \epsilon_i \tfrac1B \sum_j s_{ij},
              \qquad \epsilon_i = \sigma(-k w_i)

    Row i of both sides shows the same place and every other cell that counts is a negative, so rows that overlap must
    be masked (see data/sampler.py).

    Args:
        query_BD, reference_BD: descriptors, any length; normalized inside, in float32.
        logit_scale: shape (1,), the multiplier itself, not its logarithm.
        weight_B: IoU of each pair, 0..1.
        mask_BB: True where a cell counts; None means all. The diagonal of a real pair always counts; rows whose
            diagonal does not are padding and are left out of the mean. LSE and mean run over the columns that count.

    Returns:
        (loss, parts): a scalar in nats, and the two scalars whose mean it is, from queries to references and from
        references to queries.

    References:
        Game4Loc, arXiv:2409.16925, section 4.
    """
    return _infonce(query_BD, reference_BD, logit_scale, overlap_smoothing(weight_B, k), mask_BB)


def infonce(query_BD, reference_BD, logit_scale, label_smoothing=0.0, mask_BB=None):
    r"""Symmetric InfoNCE with the same label smoothing for all pairs.

    Args:
        query_BD, reference_BD, logit_scale, mask_BB: as in :func:`weighted_infonce`.
        label_smoothing: 0..1, target mass that is spread evenly over the row's columns, the pair's own included.

    Returns:
        (loss, parts), see :func:`weighted_infonce`.

    References:
        arXiv:1807.03748; label smoothing: arXiv:1512.00567.
    """
    smoothing_B = ops.full((query_BD.shape[0],), label_smoothing, dtype=ms.float32)
    return _infonce(query_BD, reference_BD, logit_scale, smoothing_B, mask_BB)


class WeightedInfonce(nn.Cell):
    """``weighted_infonce`` as a Cell, for one descriptor; ``Criterion`` describes its interface."""

    targets, component_names = ("iou",), DIRECTIONS

    def __init__(self, k: float = 5.0):
        super().__init__()
        self.k = k

    def construct(self, query_BD, reference_BD, logit_scale, targets, mask_BB):
        return weighted_infonce(query_BD, reference_BD, logit_scale, targets["iou"], self.k, mask_BB)


class Infonce(nn.Cell):
    """``infonce`` as a Cell, for one descriptor; ``Criterion`` describes its interface."""

    targets, component_names = (), DIRECTIONS

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def construct(self, query_BD, reference_BD, logit_scale, targets, mask_BB):
        return infonce(query_BD, reference_BD, logit_scale, self.label_smoothing, mask_BB)


def build_weighted_infonce(loss: LossConfig) -> WeightedInfonce:
    """The loss ``weighted_infonce`` with the settings of the config."""
    return WeightedInfonce(loss.k)


def build_infonce(loss: LossConfig) -> Infonce:
    """The loss ``infonce`` with the settings of the config."""
    return Infonce(loss.label_smoothing)


def overlap_smoothing(weight_B, k):
    """sigmoid(-k w), float32: 0.5 without overlap, 0.0067 at full overlap for k = 5."""
    return ops.sigmoid(-k * ops.cast(weight_B, ms.float32))


def _infonce(query_BD, reference_BD, logit_scale, smoothing_B, mask_BB):
    """(InfoNCE, (its part from queries to references, its part from references to queries))."""
    cosine_BB = ops.matmul(unit_rows(query_BD), unit_rows(reference_BD).T)
    logit_BB = ops.cast(logit_scale, ms.float32) * cosine_BB
    if mask_BB is None:
        mask_BB = ops.ones_like(logit_BB)
    counts_BB = ops.cast(mask_BB, ms.float32)
    forth = smoothed_cross_entropy(logit_BB, smoothing_B, counts_BB)
    back = smoothed_cross_entropy(logit_BB.T, smoothing_B, counts_BB.T)
    return 0.5 * (forth + back), (forth, back)


def smoothed_cross_entropy(logit_BB, smoothing_B, counts_BB):
    """Cross-entropy to the diagonal, mean over the real rows; counts is 1.0 where a cell counts, else 0.0."""
    diagonal_BB = ops.eye(logit_BB.shape[0], logit_BB.shape[1], ms.float32)
    shown_BB = logit_BB * counts_BB
    masked_BB = shown_BB + (1.0 - counts_BB) * MASKED
    highest_B1 = ops.stop_gradient(ops.amax(masked_BB, 1, True))
    lse_B = ops.log(ops.sum(precise_exp(masked_BB - highest_B1), 1)) + highest_B1.reshape(-1)
    own_B = ops.sum(shown_BB * diagonal_BB, 1)
    mean_B = ops.sum(shown_BB, 1) / ops.maximum(ops.sum(counts_BB, 1), 1.0)
    real_B = ops.sum(counts_BB * diagonal_BB, 1)
    row_B = ops.select(real_B > 0, lse_B - (1.0 - smoothing_B) * own_B - smoothing_B * mean_B, ops.zeros_like(lse_B))
    return ops.sum(row_B) / ops.maximum(ops.sum(real_B), 1.0)
