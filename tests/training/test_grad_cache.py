"""GradCache computes the same updates as the whole batch, up to rounding."""

import mindspore as ms
import numpy as np
import pytest
import small_run
from mindspore import ParameterTuple, Tensor, nn, ops

from mindloc.losses.cosine import CosineEmbedding, CosineTriplet
from mindloc.losses.criterion import Criterion
from mindloc.losses.infonce import Infonce, WeightedInfonce
from mindloc.models.encoder import PairEncoder
from mindloc.models.two_stage import TwoStageHead
from mindloc.models.vit_rope import RopeVit, VitSize
from mindloc.training.checkpointing import collect_arrays, load_state_into, load_weights_into
from mindloc.training.step import GradCache, MeanGradients, TrainStep
from mindloc.vocabulary import GLOBAL, OMEGA, PHI

WIDTH, PAIRS, SEEDS = 16, 8, (1, 2, 3)
SQUARE, WIDE = (32, 32), (32, 48)


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def make_encoder(backbones: int = 1, two_stage: bool = False, centroids: bool = False) -> nn.Cell:
    size = VitSize(width=WIDTH, depth=1, heads=1, reference_grid=2)
    heads = None
    if two_stage:
        heads = tuple(
            TwoStageHead(WIDTH, channels=8, omega_grid=1, centroids=centroids, nodes=3) for _ in range(backbones)
        )
    encoder = PairEncoder(*[RopeVit(size) for _ in range(backbones)], heads=heads)
    random = np.random.RandomState(3)
    for parameter in encoder.get_parameters():
        if parameter.name != "log_logit_scale" and "norm" not in parameter.name:
            parameter.set_data(Tensor(0.2 * random.standard_normal(parameter.shape).astype(np.float32)))
    return encoder


def batch(seed: int, reference_px: tuple[int, int] = SQUARE) -> list[Tensor]:
    """A batch with some masked cells; its last two rows are padding if the seed is even."""
    random = np.random.RandomState(seed)
    query, reference = (random.standard_normal((PAIRS, 3, *px)).astype(np.float32) for px in (SQUARE, reference_px))
    weight = random.uniform(0.2, 0.9, PAIRS).astype(np.float32)
    mask = (random.uniform(size=(PAIRS, PAIRS)) < 0.7) | np.eye(PAIRS, dtype=bool)
    if seed % 2 == 0:
        mask[-2:], mask[:, -2:], weight[-2:] = False, False, 0
    return [Tensor(array) for array in (query, reference, mask, weight)]


def weighted() -> Criterion:
    return Criterion({GLOBAL: WeightedInfonce()})


CASES = {
    "weighted": (2, weighted, {}, SQUARE),
    "plain, one pair a part": (PAIRS, lambda: Criterion({GLOBAL: Infonce(0.1)}), {}, SQUARE),
    "two backbones, two sizes": (4, weighted, {"backbones": 2}, WIDE),
    "two stages": (
        2,
        lambda: Criterion({OMEGA: CosineEmbedding(), PHI: WeightedInfonce()}, (0.3, 0.7)),
        {"two_stage": True, "centroids": True},
        WIDE,
    ),
    "two stages, hardest, two backbones": (
        4,
        lambda: Criterion({OMEGA: WeightedInfonce(), PHI: CosineTriplet(0.5, "hardest")}, (0.5, 0.5)),
        {"two_stage": True, "backbones": 2},
        SQUARE,
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if "two" in case else []) for case in CASES]
)
def test_gradients_equal_those_of_the_whole_batch(case):
    parts, criterion, options, reference_px = CASES[case]
    encoder = make_encoder(**options)
    weights = ParameterTuple(list(encoder.get_parameters()))
    whole = MeanGradients(encoder, criterion(), weights, 1, nn.Identity())
    cached = GradCache(encoder, criterion(), weights, parts, nn.Identity())
    for seed in SEEDS:
        inputs = batch(seed, reference_px)
        expected, found = (cell(*inputs[:3], Tensor(8.0, ms.float32), *inputs[3:]) for cell in (whole, cached))
        assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-5)
        for value, wanted in zip(found[1], expected[1], strict=True):
            assert float(value) == pytest.approx(float(wanted), rel=1e-5)
        largest = max(float(np.abs(gradient.asnumpy()).max()) for gradient in expected[2])
        assert largest > 1e-2
        for parameter, gradient, wanted in zip(weights, found[2], expected[2], strict=True):
            error = np.abs(gradient.asnumpy() - wanted.asnumpy()).max()
            assert error <= 1e-5 * largest, parameter.name


@pytest.mark.slow
def test_steps_equal_those_of_the_whole_batch_also_with_an_overflow():
    """Moments, weights, norm and loss scale of three steps are compared; an image of the second step is not finite."""
    ends = []
    for parts in (1, 4):
        step = make_step(parts)
        seen = []
        for seed in range(3):
            arrays = [array.copy() for array in small_run.batch(0, seed, PAIRS)]
            if seed == 1:
                arrays[0][5, 0, 0, 0] = np.nan
            loss, components, norm, finite, scale = step(*map(Tensor, arrays))
            seen.append([float(value) for value in (loss, *components, norm, finite, scale)])
        ends.append((np.array(seen), collect_arrays(step)))
    (expected, arrays), (found, arrays_too) = ends
    assert expected[:, -2].tolist() == [1, 0, 1] and expected[:, -1].tolist() == [8, 8, 4]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for part, part_too in zip(arrays, arrays_too, strict=True):
        for name, array in part.items():
            np.testing.assert_allclose(part_too[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_steps_after_a_checkpoint_are_bit_identical():
    """Four steps are compared with two steps, a save, a load into another ``TrainStep``, and two more steps."""
    through, before, after = make_step(2), make_step(2), make_step(2)
    for number in range(4):
        run(through, number)
    for number in range(2):
        run(before, number)
    weights, state = collect_arrays(before)
    load_weights_into(after, Saved(weights))
    load_state_into(after, Saved(state))
    for number in range(2, 4):
        run(after, number)
    for part, part_too in zip(collect_arrays(through), collect_arrays(after), strict=True):
        for name, array in part.items():
            np.testing.assert_array_equal(part_too[name], array, err_msg=name)


class Saved:
    """Arrays of a matching checkpoint."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = {name: array.copy() for name, array in arrays.items()}

    def require(self, shapes: dict[str, tuple[int, ...]]) -> None:
        assert {name: array.shape for name, array in self.arrays.items()} == shapes


def make_step(parts: int) -> TrainStep:
    step = small_run.make_step(accumulate=parts, grad_cache=parts > 1)
    ops.assign(step.lr, Tensor(0.01, ms.float32))
    return step


def run(step: TrainStep, number: int) -> None:
    step(*map(Tensor, small_run.batch(1, number, PAIRS)))
