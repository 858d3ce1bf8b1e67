"""Invariances and bounds of every loss of pairs, for any descriptors, overlaps and masks."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from loss_graphs import OfTensors, numbers

from mindloc.losses.cosine import CosineEmbedding, CosineTriplet
from mindloc.losses.infonce import Infonce, WeightedInfonce

PAIRS, WIDTH = 6, 5
CONTRASTIVE = {"weighted": OfTensors(WeightedInfonce(k=5.0)), "plain": OfTensors(Infonce(0.1))}
# each loss with its largest value: a pull of 2 plus a push of 1 - margin; a difference of two cosines plus margin
COSINE = {
    "embedding": (OfTensors(CosineEmbedding(0.0)), 3.0),
    "embedding, hardest": (OfTensors(CosineEmbedding(-1.0, "hardest")), 4.0),
    "triplet": (OfTensors(CosineTriplet(0.2)), 2.2),
    "triplet, hardest": (OfTensors(CosineTriplet(0.5, "hardest")), 2.5),
}
LOSSES = {**CONTRASTIVE, **{name: loss for name, (loss, _) in COSINE.items()}}


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@st.composite
def batches(draw):
    """(query, reference, IoU, mask): no descriptor is zero; some cells are masked, some last pairs are padding."""
    entries = st.floats(-4, 4, width=32)
    sides = [draw(arrays(np.float32, (PAIRS, WIDTH), elements=entries)) for _ in range(2)]
    assume(all((np.linalg.norm(side, axis=1) > 0.1).all() for side in sides))
    iou = draw(arrays(np.float32, PAIRS, elements=st.floats(0, 1, width=32)))
    mask = draw(arrays(bool, (PAIRS, PAIRS))) | np.eye(PAIRS, dtype=bool)
    real = np.arange(PAIRS) < draw(st.integers(1, PAIRS))
    return *sides, iou, mask & real & real[:, None]


any_batch = given(batch=batches(), data=st.data())
often = settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@every_loss
@often
@any_batch
def test_the_order_of_the_pairs_does_not_matter(loss, batch, data):
    query, reference, iou, mask = batch
    order = np.array(data.draw(st.permutations(range(PAIRS))))
    shuffled = numbers(loss, query[order], reference[order], iou[order], mask[order][:, order])
    np.testing.assert_allclose(shuffled, numbers(loss, *batch), rtol=1e-5, atol=1e-5)


@every_loss
@often
@any_batch
def test_the_lengths_of_the_descriptors_do_not_matter(loss, batch, data):
    query, reference, iou, mask = batch
    factors = arrays(np.float32, (2, PAIRS, 1), elements=st.floats(0.015625, 64, width=32))
    by_query, by_reference = data.draw(factors)
    stretched = numbers(loss, query * by_query, reference * by_reference, iou, mask)
    np.testing.assert_allclose(stretched, numbers(loss, *batch), rtol=1e-5, atol=1e-5)


@every_loss
@often
@any_batch
def test_padding_and_masked_cells_are_not_read(loss, batch, data):
    """Changing the descriptors of padded pairs changes nothing."""
    query, reference, iou, mask = batch
    padding = ~mask.diagonal()[:, None]
    other = data.draw(arrays(np.float32, (2, PAIRS, WIDTH), elements=st.floats(-4, 4, width=32)))
    query, reference = (np.where(padding, new, old) for new, old in zip(other, (query, reference), strict=True))
    np.testing.assert_allclose(
        numbers(loss, query, reference, np.where(padding[:, 0], 0.5, iou).astype(np.float32), mask),
        numbers(loss, *batch),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("loss", CONTRASTIVE.values(), ids=CONTRASTIVE)
@often
@any_batch
def test_exchanging_the_sides_exchanges_the_directions(loss, batch, data):
    query, reference, iou, mask = batch
    total, forth, back = numbers(loss, *batch)
    swapped = numbers(loss, reference, query, iou, mask.T)
    np.testing.assert_allclose(swapped, (total, back, forth), rtol=1e-5, atol=1e-5)
    assert min(forth, back) > -1e-5  # log-sum-exp is at least any weighted mean of the logits


@pytest.mark.parametrize(("loss", "most"), COSINE.values(), ids=COSINE)
@often
@any_batch
def test_cosine_losses_stay_within_their_bounds(loss, most, batch, data):
    assert -1e-6 <= numbers(loss, *batch)[0] <= most + 1e-5
