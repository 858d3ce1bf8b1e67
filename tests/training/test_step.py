"""Steps on a linear encoder equal float64 arithmetic and the definition of AdamW."""

import mindspore as ms
import numpy as np
import pytest
import small_run
import two_ranks
from mindspore import Parameter, Tensor, nn, ops

from mindloc.config.sections import OptimizerConfig, TrainConfig
from mindloc.losses.criterion import Criterion
from mindloc.losses.infonce import WeightedInfonce
from mindloc.training.checkpointing import collect_arrays
from mindloc.training.optimizer import AdamW
from mindloc.training.step import TrainStep, in_parts, own_cells, part_of
from mindloc.vocabulary import GLOBAL


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


class Product(nn.Cell):
    """An encoder with gradients by hand: that of the matrix is the mean image, that of ``gain`` the mean weight."""

    def __init__(self):
        super().__init__()
        self.matrix = Parameter(Tensor(np.array([[0.5, -0.25]], np.float32)), name="matrix")
        self.gain = Parameter(Tensor(np.array([2.0], np.float32)), name="gain")

    def construct(self, query, reference):
        return {"product": (query * self.matrix).sum(-1), "gain": self.gain}


class MeanProduct(nn.Cell):
    component_names, targets = ("product", "gain"), ("iou",)

    def construct(self, outputs, targets, mask):
        product, gain = outputs["product"].mean(), (outputs["gain"] * targets["iou"]).mean()
        return product + gain, {"product": product, "gain": gain}


def product_step(train: TrainConfig | None = None, **options) -> TrainStep:
    encoder = Product()
    settings = OptimizerConfig(**{"weight_decay": 0.5, "eps": 1e-3, "clip": "none", **options})
    optimizer = AdamW(encoder.trainable_params(), settings)
    return TrainStep(encoder, MeanProduct(), optimizer, train or TrainConfig())


def scaled(start: float) -> TrainConfig:
    """A loss scale that doubles after two steps without overflow."""
    return TrainConfig(precision="fp16", loss_scale_init=start, loss_scale_window=2)


def run_step(step: TrainStep, query, weight, lr: float):
    ops.assign(step.lr, Tensor(lr, ms.float32))
    query, weight = np.asarray(query, np.float32), np.asarray(weight, np.float32)
    mask = np.ones((len(weight), len(weight)), bool)
    return step(Tensor(query), Tensor(query), Tensor(mask), Tensor(weight))


def naive_adamw(start, gradients, lr, decay, eps=1e-3, beta1=0.9, beta2=0.999):
    """The definition in float64, step by step."""
    w, m, v = np.array(start, np.float64), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        w = w - lr * decay * w
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        w = w - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return w


def test_first_step_by_hand():
    # gradient g: m^ = g, v^ = g^2, so the update is lr * g / (|g| + eps) = lr * 0.5 / 0.501, after w *= 1 - 0.1 * 0.5
    step = product_step()
    run_step(step, [[0.5, 0.5]], [0.5], lr=0.1)
    np.testing.assert_allclose(step.encoder.gain.asnumpy(), [2.0 * 0.95 - 0.1 * 0.5 / 0.501], rtol=1e-6)


def test_steps_follow_the_definition():
    images = np.array([[[0.5, -0.1]], [[0.2, 0.001]], [[-0.3, 4.0]]])
    step = product_step(decay_norm_and_bias=False)
    for image in images:
        run_step(step, image, [0.5], lr=0.1)
    expected = naive_adamw([0.5, -0.25], images[:, 0], 0.1, decay=0.5)
    np.testing.assert_allclose(
        step.encoder.matrix.asnumpy()[0], expected, rtol=0, atol=6e-7
    )  # float32 of updates of 0.1
    expected = naive_adamw([2.0], [0.5] * 3, 0.1, decay=0.0)  # one axis: no decay
    np.testing.assert_allclose(step.encoder.gain.asnumpy(), expected, rtol=0, atol=6e-7)


def test_a_learning_rate_scale_scales_update_and_decay():
    step = product_step(lr_scale={"gain": 0.1})
    run_step(step, [[0.5, -0.1]], [0.5], lr=0.1)
    expected = naive_adamw([2.0], [0.5], 0.01, decay=0.5)
    np.testing.assert_allclose(step.encoder.gain.asnumpy(), expected, rtol=1e-6)


def test_a_frozen_parameter_stays_and_has_no_moments():
    step = product_step(freeze=["gain"])
    outputs = run_step(step, [[0.5, -0.1]], [0.5], lr=0.1)
    assert step.encoder.gain.asnumpy() == [2.0]
    assert float(outputs[2]) == pytest.approx(np.hypot(0.5, 0.1))  # its gradient is not in the norm either
    weights, state = collect_arrays(step)
    assert "gain" in weights and "moment1.gain" not in state


@pytest.mark.parametrize(
    ("clip", "clip_at", "factor"), [("value", 0.2, None), ("norm", 0.5, 0.5 / 13.0), ("none", 100.0, 1)]
)
def test_clips(clip, clip_at, factor):
    gradient = np.array([3.0, -4.0, 12.0])  # length 13
    step = product_step(clip=clip, clip_at=clip_at)
    outputs = run_step(step, [gradient[:2]], gradient[2:], lr=0.1)
    assert float(outputs[2]) == pytest.approx(13.0)  # the norm before clipping
    clipped = np.clip(gradient, -0.2, 0.2) if clip == "value" else gradient * factor
    _, state = collect_arrays(step)
    moment = np.concatenate([state["moment1.matrix"].ravel(), state["moment1.gain"]])
    np.testing.assert_allclose(moment, 0.1 * clipped, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    step = product_step()
    run_step(step, [[0.5, -0.1]], [0.5], lr=0.1)
    before = [{name: array.copy() for name, array in part.items()} for part in collect_arrays(step)]
    outputs = run_step(step, [[0.5, bad]], [0.5], lr=0.1)
    assert not bool(outputs[3])
    for part, expected in zip(collect_arrays(step), before, strict=True):
        for name, array in part.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert bool(run_step(step, [[0.5, -0.1]], [0.5], lr=0.1)[3])  # and training continues


def test_loss_scale_halves_on_overflow_and_doubles_after_its_window():
    step = product_step(scaled(8.0))
    scales, norms = [], []
    for image in ([0.3, 0.4], [0.3, 0.4], [0.3, np.inf], [0.3, 0.4], [0.3, 0.4], [0.3, 0.4]):
        outputs = run_step(step, [image], [0.0], lr=0.1)
        scales.append(float(outputs[4]))
        norms.append(float(outputs[2]))
    assert scales == [8.0, 8.0, 16.0, 8.0, 8.0, 16.0]
    np.testing.assert_allclose(np.delete(norms, 2), 0.5, rtol=1e-6)  # unscaled


def test_loss_scale_is_never_below_one():
    step = product_step(scaled(2.0))
    scales = [float(run_step(step, [[0.3, np.nan]], [0.0], lr=0.1)[4]) for _ in range(3)]
    assert scales == [2.0, 1.0, 1.0]


def unclipped_step(**options) -> TrainStep:
    return weighted_step(small_run.LinearEncoder(), weight_decay=0.1, **options)


def weighted_step(encoder: nn.Cell, weight_decay: float = 0.0, **options) -> TrainStep:
    optimizer = AdamW(encoder.trainable_params(), OptimizerConfig(weight_decay=weight_decay, clip="none"))
    return TrainStep(encoder, Criterion({GLOBAL: WeightedInfonce()}), optimizer, TrainConfig(**options))


def test_accumulation_is_the_mean_of_the_gradients_of_the_parts():
    """Parts of 2 pairs in a batch of 4: the moments after one step are those of the mean of two separate gradients."""
    query, reference, mask, weight = small_run.batch(0, 0, rows=4)
    step = unclipped_step(accumulate=2)
    results = [step(Tensor(query), Tensor(reference), Tensor(mask), Tensor(weight)) for _ in range(2)]
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        part = unclipped_step()
        arrays = query[rows], reference[rows], mask[rows, rows], weight[rows]
        loss, components, *_ = part(*map(Tensor, arrays))
        parts.append((collect_arrays(part)[1], float(loss), [float(c) for c in components]))
    moments = collect_arrays(step)[1]
    # learning rate 0, so both steps see the same gradient g: the first moment is 0.1 g, then 0.19 g
    for name in ("moment1.weight", "moment1.log_logit_scale"):
        expected = 1.9 * (parts[0][0][name] + parts[1][0][name]) / 2
        np.testing.assert_allclose(moments[name], expected, rtol=1e-5, atol=1e-7)
    for loss, components, *_ in results:
        assert float(loss) == pytest.approx((parts[0][1] + parts[1][1]) / 2, rel=1e-6)
        for i, value in enumerate(components):
            assert float(value) == pytest.approx((parts[0][2][i] + parts[1][2][i]) / 2, rel=1e-6)


def test_a_part_is_consecutive_rows_of_the_global_batch():
    # two devices of 4 rows, two parts: the second is the last 2 rows here, and the last 4 of all 8
    local, weight = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1), np.arange(8, dtype=np.float32)
    mask = np.random.RandomState(0).uniform(size=(8, 8)) < 0.5
    second = Tensor(1, ms.int32)
    np.testing.assert_array_equal(part_of(in_parts(Tensor(local), 2), second).asnumpy().reshape(-1), [2, 3])
    np.testing.assert_array_equal(part_of(in_parts(Tensor(weight), 2), second).asnumpy(), weight[4:])
    np.testing.assert_array_equal(own_cells(in_parts(Tensor(mask), 2), second).asnumpy(), mask[4:, 4:])


def test_components_are_those_of_the_current_step():
    step = weighted_step(small_run.LinearEncoder())
    for index in range(3):
        loss, components, *_ = step(*map(Tensor, small_run.batch(0, index)))
        assert float(loss) == pytest.approx(sum(map(float, components)) / 2, rel=1e-5)


@pytest.mark.slow
def test_recomputed_blocks_have_the_same_gradients():
    """Only memory differs; values computed twice are bit-identical."""
    ends = []
    for recompute in (False, True):
        encoder = two_ranks.vit_encoder()
        step = weighted_step(encoder, recompute=recompute)
        ops.assign(step.lr, Tensor(1e-3, ms.float32))
        losses = [float(step(*map(Tensor, two_ranks.batch(number)))[0]) for number in range(3)]
        ends.append((losses, {parameter.name: parameter.asnumpy() for parameter in encoder.get_parameters()}))
    np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=1e-6)
    for name, array in ends[0][1].items():
        np.testing.assert_allclose(ends[1][1][name], array, rtol=0, atol=1e-6, err_msg=name)
