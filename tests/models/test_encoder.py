"""The encoder of pairs: names, shared weights, sizes, initial values."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindloc.config import Config
from mindloc.models.build import build_encoder
from mindloc.models.encoder import PairEncoder
from mindloc.models.parameters import initial_value, initialize, names_within
from mindloc.models.vit_rope import RopeVit, VitSize
from mindloc.vocabulary import SIDES

SMALL = VitSize(64, 2, 2)


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def encoder_of(count, seed=1):
    backbones = [RopeVit(SMALL) for _ in range(count)]
    for backbone in backbones:
        initialize(backbone, seed)
    return PairEncoder(*backbones)


@pytest.fixture(scope="module")
def encoders():
    """Number of backbones -> encoder."""
    return {count: encoder_of(count) for count in (1, 2)}


@pytest.fixture(scope="module")
def side_encoders(encoders):
    return {(count, side): encoders[count].side_encoder(side) for count in encoders for side in SIDES}


def images_of(height, width, count=2, seed=0):
    return Tensor(np.random.RandomState(seed).standard_normal((count, 3, height, width)).astype(np.float32))


def test_outputs_of_a_shared_encoder(encoders):
    outputs = encoders[1](images_of(32, 32), images_of(32, 32, seed=1))
    assert set(outputs) == {"query.global", "reference.global", "logit_scale"}
    assert outputs["query.global"].shape == outputs["reference.global"].shape == (2, 64)
    np.testing.assert_allclose(outputs["logit_scale"].asnumpy(), [1 / 0.07], rtol=1e-6)


@pytest.mark.parametrize("reference_px", [(32, 32), (48, 16)])
@pytest.mark.parametrize("backbones", [1, 2])
def test_side_encoders_give_the_outputs_of_the_pair_encoder(encoders, side_encoders, backbones, reference_px):
    query, reference = images_of(32, 32), images_of(*reference_px, seed=1)
    outputs = encoders[backbones](query, reference)
    for side, images in (("query", query), ("reference", reference)):
        alone = side_encoders[backbones, side](images)
        assert list(alone) == [f"{side}.global"]
        np.testing.assert_allclose(alone[f"{side}.global"].asnumpy(), outputs[f"{side}.global"].asnumpy(), atol=1e-5)


def test_parameter_names(encoders, side_encoders):
    """Side encoders, which share the parameters, do not change their names."""
    shared = [parameter.name for parameter in encoders[1].get_parameters()]
    assert "backbone.blocks.0.attn.qkv.weight" in shared and "log_logit_scale" in shared
    apart = [parameter.name for parameter in encoders[2].get_parameters()]
    assert {name.split(".")[0] for name in apart} == {"query_backbone", "reference_backbone", "log_logit_scale"}
    assert len(set(apart)) == len(apart) == 2 * len(shared) - 1


def test_every_parameter_has_a_gradient(encoders):
    encoder = encoders[2]
    parameters = encoder.trainable_params()

    def total(query, reference):
        outputs = encoder(query, reference)
        return (outputs["query.global"] * outputs["reference.global"] * outputs["logit_scale"]).sum()

    gradients = ms.grad(total, None, parameters)(images_of(32, 32), images_of(32, 32, seed=1))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert np.abs(gradient.asnumpy()).max() > 0, parameter.name


def test_a_deep_graph_is_built():
    # with a concatenation of parameters in a graph that returns a dict, six blocks once took minutes
    backbone = RopeVit(VitSize(64, 12, 2))
    outputs = PairEncoder(backbone).side_encoder("query")(images_of(16, 16, count=1))
    assert outputs["query.global"].shape == (1, 64)


def test_initial_values_depend_on_seed_and_name_alone():
    one, again, other = encoder_of(1), encoder_of(2), encoder_of(1, seed=2)
    weights = [dict(names_within(encoder.backbone_of("reference"))) for encoder in (one, again, other)]
    for name, parameter in weights[0].items():
        assert np.array_equal(parameter.asnumpy(), weights[1][name].asnumpy()), name
    qkv = "blocks.0.attn.qkv.weight"
    assert not np.array_equal(weights[0][qkv].asnumpy(), weights[2][qkv].asnumpy())
    assert not np.array_equal(weights[0][qkv].asnumpy(), weights[0]["blocks.1.attn.qkv.weight"].asnumpy())


def test_deviations_of_initial_values():
    qkv = initial_value("blocks.0.attn.qkv.weight", (600, 200), "glorot", seed=0)
    # variance 1 / 200 for three square matrices; truncation at two deviations reduces it to 0.774 of that
    np.testing.assert_allclose(qkv.std(), np.sqrt(0.774 / 200), rtol=0.02)
    assert np.abs(qkv).max() <= 2 / np.sqrt(200)
    backbone = RopeVit(SMALL, layer_scale=0.3)
    initialize(backbone, seed=0)
    values = {name: parameter.asnumpy() for name, parameter in names_within(backbone)}
    assert (values["blocks.0.gamma_1"] == np.float32(0.3)).all()
    assert (values["blocks.0.norm1.weight"] == 1).all()
    assert (values["blocks.0.norm1.bias"] == 0).all()
    assert (values["blocks.0.attn.q_bias"] == 0).all()
    drawn = {name for name, parameter in names_within(backbone) if parameter.start}
    assert drawn == {name for name, value in values.items() if value.ndim > 1} and all(values[n].any() for n in drawn)


def test_builder_follows_the_config():
    values = {"model.backbone": "tiny", "model.share_weights": False, "model.logit_scale_init": 20.0}
    encoder = build_encoder(Config().with_values({**values, "data.query_size_px": (32, 48)}))
    assert encoder.query_backbone.width == 192
    np.testing.assert_allclose(encoder.log_logit_scale.asnumpy(), [np.log(20)], rtol=1e-6)
