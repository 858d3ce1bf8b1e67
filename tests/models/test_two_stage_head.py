"""The two-stage head and encoders with it: shapes, lengths, which map each descriptor is computed from, any grid."""

import functools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindloc.config import load_config
from mindloc.models import vit_rope
from mindloc.models.build import build_encoder
from mindloc.models.parameters import initial_value, initialize
from mindloc.models.two_stage import TwoStageHead

WIDTH, CHANNELS, NODES = 12, 8, 3


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


class OnGrid(nn.Cell):
    def __init__(self, head, rows, columns):
        super().__init__()
        self.head, self.rows, self.columns = head, rows, columns

    def construct(self, features_BNW):
        return self.head(features_BNW, self.rows, self.columns)


def head_of(**options):
    head = TwoStageHead(WIDTH, **{"channels": CHANNELS, "nodes": NODES, **options})
    initialize(head, seed=1)
    if head.non_local is not None:  # so that it is not the identity
        last = head.non_local.last.weight
        last.set_data(Tensor(initial_value(last.name, last.shape, "glorot", seed=1)))
    return head


@functools.cache
def described(rows=4, columns=6, **options):
    """The descriptors of one map from a head with these options; computed once."""
    features = np.random.RandomState(0).standard_normal((2, rows * columns, WIDTH)).astype(np.float32)
    return [output.asnumpy() for output in OnGrid(head_of(**options), rows, columns)(Tensor(features))]


@pytest.mark.parametrize("grid", [(4, 6), (1, 5), (7, 3)])
def test_any_grid_gives_two_descriptors_of_length_1(grid):
    omega, phi = described(*grid)
    assert omega.shape == (2, grid[0] * grid[1] * CHANNELS) and phi.shape == (2, NODES * CHANNELS)
    for rows in (omega, phi):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_omega_of_a_coarser_grid_averages_the_map():
    """Averaged over blocks of 2 x 3 positions; averaging commutes with everything except the normalization."""
    whole, coarse = (described(**options)[0] for options in ({}, {"omega_grid": 2}))
    block_B = whole.reshape(2, 2, 2, 2, 3, CHANNELS).mean((2, 4)).reshape(2, -1)
    np.testing.assert_allclose(coarse, block_B / np.linalg.norm(block_B, axis=1, keepdims=True), atol=1e-6)


def test_phi_reads_the_map_before_the_block_by_default():
    with_block, without = described(), described(non_local=None)
    after = described(phi_reads_non_local=True)
    np.testing.assert_array_equal(with_block[1], without[1])
    assert np.abs(with_block[0] - without[0]).max() > 1e-3
    assert np.abs(after[1] - without[1]).max() > 1e-3
    np.testing.assert_array_equal(after[0], with_block[0])


def test_centroids_come_third():
    omega, phi, centroids = described(centroids=True)
    assert head_of(centroids=True).descriptors == ("omega", "phi", "centroids") and centroids.shape == (2, 2 * NODES)
    assert ((centroids >= 0) & (centroids <= 1)).all()
    np.testing.assert_array_equal(phi, described()[1])


TWO_STAGE = [
    "head.name=two_stage",
    "head.channels=16",
    "data.query_size_px=[64, 64]",
    "data.reference_size_px=[64, 64]",
]


@pytest.fixture(scope="module", autouse=True)
def two_blocks():
    """Two blocks in the backbone, which compile faster than six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit_rope.SIZES, "tiny", vit_rope.VitSize(48, 2, 3))
        yield


@functools.cache
def encoder_of(*overrides):
    return build_encoder(load_config(None, ["model.backbone=tiny", *TWO_STAGE, *overrides]))


def images_of(count=2, height=64, width=64, seed=0):
    return Tensor(np.random.RandomState(seed).standard_normal((count, 3, height, width)).astype(np.float32))


@pytest.mark.parametrize("share", ["true", "false"])
def test_an_encoder_names_its_outputs_and_its_side_encoders_return_the_same(share):
    encoder = encoder_of(f"model.share_weights={share}", "head.centroids=true")
    outputs = encoder(images_of(), images_of(seed=1))
    made = {f"{side}.{name}" for side in ("query", "reference") for name in ("omega", "phi", "centroids")}
    assert set(outputs) == made | {"logit_scale"}
    np.testing.assert_allclose(outputs["logit_scale"].asnumpy(), [1 / 0.07] * 2, rtol=1e-6)  # none for the centroids
    for seed, side in enumerate(("query", "reference")):
        alone = encoder.side_encoder(side)(images_of(seed=seed))
        assert list(alone) == [f"{side}.{name}" for name in encoder.descriptors]
        for name, value in alone.items():
            np.testing.assert_allclose(value.asnumpy(), outputs[name].asnumpy(), atol=2e-6)
    heads = {parameter.name.split(".")[0] for parameter in encoder.get_parameters() if "head" in parameter.name}
    assert heads == ({"head"} if share == "true" else {"query_head", "reference_head"})


def test_omega_is_the_adapted_map_position_by_position():
    encoder = encoder_of("head.non_local=none")
    backbone, adapter = encoder.backbone, encoder.head.adapter
    images = images_of()
    rows = backbone.features(images).asnumpy() @ adapter.weight.asnumpy().T + adapter.bias.asnumpy()
    omega = rows.reshape(2, -1) / np.linalg.norm(rows.reshape(2, -1), axis=1, keepdims=True)
    made = encoder.side_encoder("query")(images)["query.omega"].asnumpy()
    np.testing.assert_allclose(made, omega, atol=1e-6)
    fresh = encoder_of()  # a new non-local block is the identity
    np.testing.assert_array_equal(fresh.side_encoder("query")(images)["query.omega"].asnumpy(), made)


def test_the_map_is_the_patch_tokens_after_the_last_norm():
    backbone = encoder_of().backbone
    images = images_of()
    tokens = backbone.tokens(images)[:, 1:]
    expected = backbone.fc_norm(ops.reshape(tokens, (-1, 48))).asnumpy().reshape(2, 16, 48)
    np.testing.assert_array_equal(backbone.features(images).asnumpy(), expected)
