"""Contrastive losses equal rows by hand, the naive definition and PyTorch's numbers."""

import mindspore as ms
import numpy as np
import pytest
from loss_graphs import GlobalCriterion, numbers
from mindspore import Tensor

from mindloc.config import Config
from mindloc.losses.criterion import Criterion, build_criterion
from mindloc.losses.infonce import (
    Infonce,
    WeightedInfonce,
    infonce,
    overlap_smoothing,
    smoothed_cross_entropy,
    weighted_infonce,
)
from mindloc.models.layers import precise_exp
from mindloc.vocabulary import GLOBAL

SCALE = 1 / 0.07
LOSSES = {"weighted": WeightedInfonce(k=5.0), "smooth": Infonce(0.1), "plain": Infonce()}
WEIGHTED, PLAIN = GlobalCriterion(LOSSES["weighted"]), GlobalCriterion(LOSSES["plain"])


def naive_rows(cosine, scale, smoothing, mask):
    """The losses of the rows by the definition, in float64 loops; None for a padded row."""
    rows = []
    for i in range(len(cosine)):
        if not mask[i, i]:
            rows.append(None)
            continue
        s = [scale * cosine[i, j] for j in range(len(cosine)) if mask[i, j]]
        rows.append(np.log(np.sum(np.exp(s))) - (1 - smoothing[i]) * scale * cosine[i, i] - smoothing[i] * np.mean(s))
    return rows


def naive_weighted_infonce(query, reference, scale, weight, k, mask):
    query, reference = (x / np.linalg.norm(x, axis=1)[:, None] for x in (query.astype(float), reference.astype(float)))
    smoothing = 1 - 1 / (1 + np.exp(-k * weight.astype(np.float64)))
    forth = naive_rows(query @ reference.T, scale, smoothing, mask)
    back = naive_rows(reference @ query.T, scale, smoothing, mask.T)
    return [np.mean([row for row in rows if row is not None]) for rows in (forth, back)]


def batch(size, width=16, seed=0):
    random = np.random.RandomState(seed)
    query, reference = random.standard_normal((2, size, width)).astype(np.float32)
    return query, reference, random.rand(size).astype(np.float32)


def test_one_row_by_hand():
    # e^8.5 = 4914.77, e^2.1 = 8.17, e^1.8 = 6.05, e^2.3 = 9.97: LSE = ln 4938.96 = 8.50491
    # eps = 1 / (1 + e^2.5) = 0.07586; mean = 3.675; l = 8.50491 - 0.92414 * 8.5 - 0.07586 * 3.675 = 0.3709
    smoothing = overlap_smoothing(Tensor([0.5], ms.float32), 5.0)
    np.testing.assert_allclose(smoothing.asnumpy(), [0.0759], atol=5e-5)
    logit = np.zeros((4, 4), np.float32)
    logit[0] = [8.5, 2.1, 1.8, 2.3]
    counts = np.zeros((4, 4), np.float32)
    counts[0] = 1
    row = smoothed_cross_entropy(Tensor(logit), ms.ops.tile(smoothing, (4,)), Tensor(counts))
    np.testing.assert_allclose(float(row), 0.3709, atol=5e-5)


@pytest.mark.parametrize("weight, expected", [(0.0, 0.5), (0.14, 0.33), (0.47, 0.087), (0.8, 0.018)])
def test_smoothing_falls_with_overlap(weight, expected):  # 1 / (1 + e^(5 w)), to the digits given
    np.testing.assert_allclose(overlap_smoothing(Tensor([weight], ms.float32), 5.0).asnumpy(), [expected], atol=2e-3)


@pytest.fixture(scope="module")
def stored(reference_dir):
    return np.load(reference_dir / "weighted_infonce.npz", allow_pickle=False)


@pytest.mark.parametrize("size", ["b8", "b64"])
@pytest.mark.parametrize("mode", ["weighted", "smooth", "plain"])
def test_value_and_gradients_equal_pytorch(stored, size, mode):
    criterion = Criterion({GLOBAL: LOSSES[mode]})
    query, reference, weight = (Tensor(stored[f"{size}_{key}"]) for key in ("f1", "f2", "w"))
    mask = Tensor(np.ones((len(query), len(query)), bool))

    def forward(query, reference, log_scale):
        outputs = {"query.global": query, "reference.global": reference, "logit_scale": precise_exp(log_scale)}
        return criterion(outputs, {"iou": weight}, mask)

    step = ms.jit(ms.value_and_grad(forward, (0, 1, 2), has_aux=True))
    (total, _), gradients = step(query, reference, Tensor([np.log(SCALE)], ms.float32))
    np.testing.assert_allclose(float(total), stored[f"{size}_{mode}_loss"], rtol=0, atol=1e-5)
    for gradient, key in zip(gradients[:2], ("g1", "g2"), strict=True):
        expected = stored[f"{size}_{mode}_{key}"]
        assert np.linalg.norm(gradient.asnumpy() - expected) <= 1e-5 * np.linalg.norm(expected), key
    # The gradient of the scale is a sum of terms of about 1 that nearly cancel, to 0.01: PyTorch's own value in float32
    # differs from that in float64 by a fraction of 4e-5. So the tolerance is relative to the terms.
    np.testing.assert_allclose(gradients[2].asnumpy(), [stored[f"{size}_{mode}_gt"]], rtol=1e-5, atol=1e-6)


def test_masked_cells_follow_the_definition():
    query, reference, weight = batch(9)
    mask = np.random.RandomState(3).rand(9, 9) < 0.6
    np.fill_diagonal(mask, True)
    mask[[2, 7]] = mask[:, [2, 7]] = False  # two padded rows among the real ones
    expected = naive_weighted_infonce(query, reference, SCALE, weight, 5.0, mask)
    total, *directions = numbers(WEIGHTED, query, reference, weight, mask)
    np.testing.assert_allclose(directions, expected, rtol=1e-5)
    np.testing.assert_allclose(total, np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize("criterion", [WEIGHTED, PLAIN])
def test_padding_changes_nothing(criterion):
    query, reference, weight = batch(5)
    alone = numbers(criterion, query, reference, weight, np.ones((5, 5), bool))
    padded = [np.concatenate([x, np.repeat(x[:1], 3, axis=0)]) for x in (query, reference, weight)]
    mask = np.zeros((8, 8), bool)
    mask[:5, :5] = True
    np.testing.assert_allclose(numbers(criterion, *padded, mask), alone, rtol=1e-6)


def test_padding_has_no_gradient_and_no_nan():
    query, reference, weight = batch(6)
    query[4:] = reference[4:] = 0
    mask = np.zeros((6, 6), bool)
    mask[:4, :4] = True

    def total(query, reference, scale):
        return WEIGHTED(query, reference, Tensor(weight), Tensor(mask), scale)[0]

    gradients = ms.grad(total, (0, 1, 2))(Tensor(query), Tensor(reference), Tensor([SCALE], ms.float32))
    assert all(np.isfinite(gradient.asnumpy()).all() for gradient in gradients)
    for gradient in gradients[:2]:
        assert (gradient.asnumpy()[4:] == 0).all()
        assert (np.abs(gradient.asnumpy()[:4]).max(axis=1) > 0).all()


def test_loss_of_padding_alone_is_zero():
    query, reference, weight = batch(4)
    assert numbers(WEIGHTED, query, reference, weight, np.zeros((4, 4), bool)) == [0.0, 0.0, 0.0]


def test_full_mask_equals_no_mask():
    query, reference, weight = (Tensor(x) for x in batch(7))
    scale = Tensor([SCALE], ms.float32)
    full = Tensor(np.ones((7, 7), bool))
    for loss in (
        lambda mask: weighted_infonce(query, reference, scale, weight, mask_BB=mask),
        lambda mask: infonce(query, reference, scale, 0.1, mask_BB=mask),
    ):
        (loss_all, parts), (loss_full, _) = loss(None), loss(full)
        assert float(loss_full) == float(loss_all) == pytest.approx(np.mean([float(part) for part in parts]))


def test_a_cell_is_its_documented_function():
    query, reference, weight = batch(5)
    mask = np.ones((5, 5), bool)
    arguments = *(Tensor(x) for x in (query, reference)), Tensor([SCALE], ms.float32)
    for cell, (loss, parts) in (
        (WEIGHTED, weighted_infonce(*arguments, Tensor(weight), 5.0)),
        (PLAIN, infonce(*arguments)),
    ):
        expected = [float(value) for value in (loss, *parts)]
        np.testing.assert_allclose(numbers(cell, query, reference, weight, mask), expected, rtol=1e-5)


def test_loss_of_collapsed_descriptors_is_log_batch():
    same = Tensor(np.full((8, 4), 0.5), ms.float32)
    scale = Tensor([10.0], ms.float32)
    np.testing.assert_allclose(float(infonce(same, same, scale)[0]), np.log(8), rtol=1e-6)
    weight = Tensor(np.linspace(0, 1, 8), ms.float32)
    np.testing.assert_allclose(float(weighted_infonce(same, same, scale, weight)[0]), np.log(8), rtol=1e-6)


def test_loss_of_a_batch_of_one_is_zero():
    query, reference, weight = batch(1)
    np.testing.assert_allclose(numbers(WEIGHTED, query, reference, weight, np.ones((1, 1), bool)), 0, atol=1e-5)


@pytest.mark.parametrize("dtype", [ms.float16, ms.float32])
def test_loss_is_float32_for_any_descriptor_type(dtype):
    query, reference, weight = batch(4)
    halves = [Tensor(x.astype(np.float16)) for x in (query, reference)]
    loss, _ = infonce(*(half.astype(dtype) for half in halves), Tensor([1000.0], ms.float32))
    wide, _ = infonce(*(half.astype(ms.float32) for half in halves), Tensor([1000.0], ms.float32))
    assert loss.dtype == ms.float32
    assert float(loss) == float(wide)


def test_builder_follows_the_config():
    config = Config().with_values({"loss.k": 3.0})
    assert build_criterion(config).losses[0].k == 3.0
    config = config.with_values({"loss.name": "infonce", "loss.label_smoothing": 0.2})
    assert build_criterion(config).losses[0].label_smoothing == 0.2
