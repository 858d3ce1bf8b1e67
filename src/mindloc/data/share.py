"""A share of a split's drone pictures."""

import numpy as np

from mindloc.data.pairs import Split
from mindloc.errors import DataError

_ORDER_SEED = 20240925  # fixed: the share belongs to the data, not to a run's seed


def share_of_drones(split: Split, ratio: float) -> Split:
    """The split with ``ratio`` of its drone pictures, in file order, the same ones at every call.

    A smaller share is part of every larger one, so that runs with growing shares compare.

    Raises:
        DataError: the ratio is not above 0 and at most 1, or no pair is left.
    """
    if not 0 < ratio <= 1:
        raise DataError(f"data.train_ratio is {ratio}; expected a share above 0, at most 1")
    if ratio == 1:
        return split
    total = len(split.drone_files)
    kept = np.random.default_rng(_ORDER_SEED).permutation(total)[: max(1, round(ratio * total))]
    part = split.take_drones(np.sort(kept))
    if not len(part.semipositive):
        raise DataError(
            f"data.train_ratio={ratio} leaves {len(kept)} of {total} drone pictures and no pair; set a larger share"
        )
    return part
