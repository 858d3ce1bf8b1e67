"""Images as the queries of a search: what is known of them before a device starts, then their descriptors in batches.

Shapes: B images of a batch, H, W their height and width.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mindloc.inference.build import Source
from mindloc.inference.engine import Engine
from mindloc.registry import HEADS
from mindloc.search.extraction import Batch, Queries
from mindloc.vocabulary import PHI, SideName


def known_queries(source: Source, count: int) -> Queries:
    """What is known of ``count`` images that will be encoded by the encoder of ``source``."""
    file = next(iter(source.files.values()), None)
    if source.reduction:
        dimension = source.reduction.dimension
    else:
        dimension = next(iter(file.dimensions.values())) if file else None
    return Queries(
        count=count,
        checkpoint_sha256=source.checkpoint_sha256,
        reduction_sha256=source.reduction.sha256 if source.reduction else None,
        dimension=dimension,
        has_rerank=PHI in (file.descriptors if file else HEADS[source.config.head.name].losses),
    )


def encoded_queries(
    engine: Engine, side: SideName, batches: Iterable[tuple[np.ndarray, int]], names: Sequence[str]
) -> Iterator[Batch]:
    """The descriptors of images, encoded as they are taken.

    Args:
        batches: (images (B, 3, H, W) float32, number of real ones), all of ``names``, in order.
    """
    done = 0
    for image_B3HW, count in batches:
        encoded = engine.encode({side: image_B3HW[:count]})
        recall_BD = encoded[f"{side}.{engine.descriptors[0]}"]
        yield Batch(list(names[done : done + count]), recall_BD, encoded.get(f"{side}.{PHI}"))
        done += count
