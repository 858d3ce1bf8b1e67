"""Cosine losses equal rows by hand, the naive definition and PyTorch's formula, and behave at their limits."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindloc.losses.cosine import cosine_embedding, cosine_triplet


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def batch(size=6, width=5, seed=0):
    return np.random.RandomState(seed).standard_normal((2, size, width)).astype(np.float32)


def naive(query, reference, margin, negatives, mask, triplet):
    """The loss by its definition, anchor by anchor, in float64."""
    query, reference = (x / np.linalg.norm(x, axis=1)[:, None] for x in (query.astype(float), reference.astype(float)))
    losses = []
    for j, anchor in enumerate(reference):
        if not mask[j, j]:
            continue
        own = query[j] @ anchor
        shift = margin - own if triplet else -margin
        pushed = [max(0.0, query[i] @ anchor + shift) for i in range(len(query)) if i != j and mask[i, j]]
        reduced = (max(pushed) if negatives == "hardest" else np.mean(pushed)) if pushed else 0.0
        losses.append(reduced if triplet else 1 - own + reduced)
    return np.mean(losses)


def value(function, *arrays, mask=None, **options):
    tensors = [Tensor(array) for array in arrays]
    return float(function(*tensors, mask_BB=None if mask is None else Tensor(mask), **options))


# unit vectors in the plane, whose cosines are easy to compute by hand
REFERENCE = np.array([[1, 0], [0, 1]], np.float32)
QUERY = np.array([[0.6, 0.8], [0.8, 0.6]], np.float32) * 3  # the length does not matter


def test_embedding_by_hand():
    # reference 0: own 0.6, other 0.8 -> 0.4 + 0.8; reference 1: own 0.6, other 0.8 -> the same
    assert value(cosine_embedding, QUERY, REFERENCE) == pytest.approx(1.2, rel=1e-6)
    # margin 0.7: 0.4 + 0.1; margin -1: 0.4 + 1.8
    assert value(cosine_embedding, QUERY, REFERENCE, margin=0.7) == pytest.approx(0.5, rel=1e-6)
    assert value(cosine_embedding, QUERY, REFERENCE, margin=-1.0) == pytest.approx(2.2, rel=1e-6)


def test_triplet_by_hand():
    # 0.8 - 0.6 + 0.2
    assert value(cosine_triplet, QUERY, REFERENCE) == pytest.approx(0.4, rel=1e-6)
    # the pairs exchanged: 0.6 - 0.8 + 0.2 = 0
    assert value(cosine_triplet, QUERY[::-1].copy(), REFERENCE) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("negatives", ["all", "hardest"])
@pytest.mark.parametrize("margin", [-0.3, 0.2])
@pytest.mark.parametrize("function", [cosine_embedding, cosine_triplet])
def test_naive_definition(function, margin, negatives, masked):
    query, reference = batch()
    mask = np.ones((6, 6), bool)
    if masked:  # one cell that is an overlap and so not a negative, in one direction only, and a padded row
        mask[1, 3], mask[5], mask[:, 5] = False, False, False
    got = value(function, query, reference, margin=margin, negatives=negatives, mask=mask)
    triplet = function is cosine_triplet
    assert got == pytest.approx(naive(query, reference, margin, negatives, mask, triplet), rel=1e-5)


def test_the_anchor_is_the_reference():
    """With equal queries every reference has the same negatives; the other references do not matter."""
    same = np.repeat(batch()[0][:1], 6, axis=0)
    reference = batch()[1]
    mask = np.ones((6, 6), bool)
    mask[0, 1:] = False  # query 0 is not a negative of any other reference, but its copies still are: no change
    full, fewer = (value(cosine_triplet, same, reference, mask=m) for m in (np.ones((6, 6), bool), mask))
    assert full == pytest.approx(fewer, rel=1e-6) and full == pytest.approx(0.2, rel=1e-5)
    mask[:, 0] = [True, False, False, False, False, False]  # reference 0 has no negatives: its triplet loss is 0
    assert value(cosine_triplet, same, reference, mask=mask) == pytest.approx(0.2 * 5 / 6, rel=1e-5)


def test_a_batch_of_one_has_no_negatives():
    query, reference = QUERY[:1], REFERENCE[:1]
    assert value(cosine_triplet, query, reference) == 0.0
    assert value(cosine_embedding, query, reference) == pytest.approx(0.4, rel=1e-6)


@pytest.mark.parametrize("negatives", ["all", "hardest"])
@pytest.mark.parametrize("function", [cosine_embedding, cosine_triplet])
def test_gradients_equal_differences_of_the_naive_definition(function, negatives):
    query, reference = batch(seed=2)
    mask = np.ones((6, 6), bool)
    mask[2, 4] = False

    def loss(d, s):
        return function(d, s, 0.1, negatives, Tensor(mask))

    gradients = ops.grad(loss, (0, 1))(Tensor(query), Tensor(reference))
    random, step = np.random.RandomState(3), 1e-6
    for side, gradient in enumerate(gradients):
        toward = random.standard_normal(query.shape)
        ends = []
        for sign in (1, -1):
            pair = [query.astype(np.float64), reference.astype(np.float64)]
            pair[side] = pair[side] + sign * step * toward
            ends.append(naive(*pair, 0.1, negatives, mask, function is cosine_triplet))
        assert (gradient.asnumpy() * toward).sum() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


def test_a_descriptor_of_zeros_gives_no_nan():
    query, reference = batch()
    query[0] = 0
    for function in (cosine_embedding, cosine_triplet):
        gradient = ops.grad(function)(Tensor(query), Tensor(reference)).asnumpy()
        assert np.isfinite(value(function, query, reference)) and np.isfinite(gradient).all()
