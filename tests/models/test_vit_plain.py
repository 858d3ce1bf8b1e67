"""The plain ViT equals timm's stored values."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from timm_weights import with_reference_weights, written_shapes

from mindloc.config import Config
from mindloc.models.build import build_encoder
from mindloc.models.encoder import PairEncoder
from mindloc.models.parameters import initial_value, initialize, names_within
from mindloc.models.vit_plain import PlainVit, PlainVitSize, plain_vit_size, resampled_table
from mindloc.registry import BACKBONES

TINY = PlainVitSize(96, 3, 3, 16, 4)
POOLS = ("token", "avg")


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def reference(reference_dir):
    return np.load(reference_dir / "vit_plain_tiny.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def tiny(reference):
    seed = int(reference["weight_seed"])
    return {pool: with_reference_weights(PlainVit(TINY, pool), seed) for pool in POOLS}


def images_of(reference, px):
    return Tensor(np.random.RandomState(int(reference[f"x{px}_seed"])).standard_normal((2, 3, px, px)), ms.float32)


@pytest.mark.parametrize("pool", POOLS)
def test_names_and_shapes_are_timms(tiny, reference, pool):
    assert written_shapes(tiny[pool]) == dict(zip(reference[f"{pool}_names"], reference[f"{pool}_shapes"], strict=True))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("px", "key"), [(64, "64"), (96, "96_resampled")])
def test_descriptors_equal_timm_at_the_tables_grid_and_at_another(tiny, reference, pool, px, key):
    descriptors = tiny[pool](images_of(reference, px)).asnumpy()
    np.testing.assert_allclose(descriptors, reference[f"{pool}_{key}"], rtol=0, atol=5e-6)  # required: 1e-4


def test_a_table_resampled_in_advance_gives_the_same(tiny, reference):
    other = PlainVit(PlainVitSize(96, 3, 3, 16, 6))
    given = {name: parameter.asnumpy() for name, parameter in names_within(tiny["token"])}
    given["pos_embed"] = resampled_table(given["pos_embed"], (6, 6))
    for name, parameter in names_within(other):
        parameter.set_data(Tensor(given[name]))
    images = images_of(reference, 96)
    np.testing.assert_allclose(other(images).asnumpy(), tiny["token"](images).asnumpy(), atol=1e-5)


class Positions(nn.Cell):
    def __init__(self, backbone, rows, columns):
        super().__init__(auto_prefix=False)
        self.backbone, self.rows, self.columns = backbone, rows, columns

    def construct(self):
        return self.backbone.positions(self.rows, self.columns)


@pytest.mark.parametrize("grid", [(2, 7), (6, 3)])
def test_a_grid_that_is_not_square(tiny, grid):
    table = tiny["token"].pos_embed.asnumpy()
    np.testing.assert_allclose(Positions(tiny["token"], *grid)().asnumpy(), resampled_table(table, grid), atol=1e-6)


class SquaredPositions(Positions):
    def construct(self):
        return ops.sum(ops.square(self.backbone.positions(self.rows, self.columns)))


def test_the_table_learns_through_the_resampling(tiny):
    """The gradient of sum (R p)^2 is 2 R^T R p; R has the resampled unit vectors as columns."""
    units = np.concatenate([np.zeros((1, 1, 16)), np.eye(16)[None]], axis=1).astype(np.float32)
    matrix = resampled_table(units, (3, 5))[0, 1:].astype(np.float64)
    loss = SquaredPositions(tiny["token"], 3, 5)
    gradient = ms.grad(loss, grad_position=None, weights=tiny["token"].pos_embed)().asnumpy()[0]
    table = tiny["token"].pos_embed.asnumpy()[0]
    np.testing.assert_allclose(gradient[1:], 2 * matrix.T @ (matrix @ table[1:]), atol=1e-5)
    np.testing.assert_allclose(gradient[0], 2 * table[0], atol=1e-6)


class Features(nn.Cell):
    def __init__(self, backbone):
        super().__init__(auto_prefix=False)
        self.backbone = backbone

    def construct(self, images):
        return self.backbone.features(images), self.backbone.tokens(images)


@pytest.mark.parametrize("pool", POOLS)
def test_the_map_is_the_patch_tokens_after_the_last_norm(tiny, pool):
    images = Tensor(np.random.RandomState(0).standard_normal((2, 3, 32, 64)), ms.float32)
    features, tokens = (rows.asnumpy() for rows in Features(tiny[pool])(images))
    patches = tokens[:, 1:].astype(np.float64)
    assert features.shape == (2, 2 * 4, 96) and tokens.shape == (2, 9, 96)
    norm = dict(names_within(tiny[pool]))
    name = {"token": "norm", "avg": "fc_norm"}[pool]
    deviation = np.sqrt(patches.var(2, keepdims=True) + 1e-6)
    expected = (patches - patches.mean(2, keepdims=True)) / deviation * norm[f"{name}.weight"].asnumpy()
    np.testing.assert_allclose(features, expected + norm[f"{name}.bias"].asnumpy(), atol=1e-5)


def test_a_batch_equals_its_images_one_by_one(tiny):
    images = np.random.RandomState(0).standard_normal((3, 3, 64, 32)).astype(np.float32)  # neither square nor 64
    together = tiny["token"](Tensor(images)).asnumpy()
    alone = np.concatenate([tiny["token"](Tensor(images[i : i + 1])).asnumpy() for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_half_precision_is_near():
    backbones = [PlainVit(PlainVitSize(96, 1, 3, 16, 2), "token", precision) for precision in ("fp32", "fp16")]
    for backbone in backbones:
        initialize(backbone, seed=1)
    images = Tensor(np.random.RandomState(0).standard_normal((2, 3, 32, 32)).astype(np.float32))
    wide, half = (backbone(images) for backbone in backbones)
    assert half.dtype == ms.float32
    np.testing.assert_allclose(half.asnumpy(), wide.asnumpy(), atol=2e-2)
    assert not np.array_equal(half.asnumpy(), wide.asnumpy())


@pytest.mark.parametrize(
    ("name", "millions"),  # timm's, without the classifier
    [
        ("vit_tiny_patch16_224", 5.52),
        ("vit_small_patch16_224", 21.67),
        ("vit_small_patch32_384", 22.53),
        ("vit_base_patch16_384", 86.09),
    ],
)
def test_sizes(name, millions):
    # one block: 12 C^2 weights + 13 C biases and scales; a patch 3 * side^2 C + C; class token, norm 3 C; positions
    size = plain_vit_size(name)
    expected = size.depth * (12 * size.width**2 + 13 * size.width)
    expected += (3 * size.patch_px**2 + 1 + 3 + 1 + size.grid**2) * size.width
    assert sum(parameter.size for _, parameter in names_within(PlainVit(size))) == expected
    assert round(expected / 1e6, 2) == millions


def test_the_stride_in_the_table_of_backbones_is_that_of_the_name():
    names = [name for name, entry in BACKBONES.items() if entry.builder.endswith(":build_plain_vit")]
    assert len(names) == 16
    assert all(plain_vit_size(name).patch_px == BACKBONES[name].stride for name in names)


@pytest.mark.parametrize("name", ["cls_token", "pos_embed"])
def test_tokens_and_positions_initially_have_timms_deviation(name):
    value = initial_value(name, (1, 100, 192), dict(names_within(PlainVit(TINY)))[name].start, seed=1)
    assert abs(value.std() - 0.02 * 0.8796) < 2e-4  # normal, truncated at two deviations: sqrt(1 - 4 phi(2) / 0.9545)
    assert np.abs(value).max() <= 0.04


def test_the_builder_uses_name_and_pool():
    values = {"model.backbone": "vit_tiny_patch16_224", "model.pool": "avg", "model.share_weights": False}
    encoder = build_encoder(Config().with_values(values))
    for view in ("query", "reference"):
        backbone = encoder.backbone_of(view)
        assert backbone.size == plain_vit_size("vit_tiny_patch16_224") and backbone.pos_embed.shape == (1, 197, 192)
        assert "fc_norm.weight" in dict(names_within(backbone)) and len(backbone.blocks) == 12


class Sum(nn.Cell):
    """A sum that depends on every descriptor of both views."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def construct(self, query, reference):
        outputs = self.encoder(query, reference)
        return ops.sum(ops.sin(outputs["query.global"])) + ops.sum(ops.cos(outputs["reference.global"]))


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_every_parameter_learns_and_recomputing_changes_nothing(pool):
    gradients = []
    images = [Tensor(np.random.RandomState(i).standard_normal((2, 3, 32, 32 + 16 * i)), ms.float32) for i in (0, 1)]
    for recompute in (False, True):
        backbone = PlainVit(PlainVitSize(48, 1, 3, 16, 2), pool)
        initialize(backbone, seed=1)
        encoder = PairEncoder(backbone)  # the query side uses the learned table, the reference side a resampled one
        if recompute:
            encoder.recompute_blocks()
        learned = [parameter for parameter in encoder.trainable_params() if parameter.name != "log_logit_scale"]
        step = ms.value_and_grad(Sum(encoder), grad_position=None, weights=learned)
        gradients.append([gradient.asnumpy() for gradient in step(*images)[1]])
    for parameter, kept, again in zip(learned, *gradients, strict=True):
        assert np.abs(kept).max() > 1e-6, parameter.name
        np.testing.assert_allclose(again, kept, atol=1e-5, err_msg=parameter.name)
