"""Properties of both ResNet-50 and VGG-16: PyTorch's values, order of the map, gradients, initial values, exports."""

import mindspore as ms
import numpy as np
import pytest
from conv_weights import with_reference_weights
from mindspore import Tensor, nn, ops

from mindloc.models import convolutional
from mindloc.models.convolutional import ResNet50, Vgg16
from mindloc.models.parameters import initial_value, initialize

BACKBONES = {"resnet50_layer3": ResNet50, "vgg16_pool4": Vgg16}


class MapAndDescriptor(nn.Cell):
    def __init__(self, backbone):
        super().__init__(auto_prefix=False)
        self.backbone = backbone

    def construct(self, images):
        return self.backbone.features(images), self.backbone(images)


class MeanSquare(nn.Cell):
    def __init__(self, backbone):
        super().__init__(auto_prefix=False)
        self.backbone = backbone

    def construct(self, images):
        descriptor_BC = self.backbone(images)
        return ops.mean(descriptor_BC * descriptor_BC)


class Slopes(nn.Cell):
    """Gradients of the mean square by the trainable parameters."""

    def __init__(self, backbone):
        super().__init__(auto_prefix=False)
        self.trainable = ms.ParameterTuple(backbone.trainable_params())
        self.gradient = ops.value_and_grad(MeanSquare(backbone), None, self.trainable)

    def construct(self, images):
        return self.gradient(images)[1]


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def key(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(key):
    return with_reference_weights(BACKBONES[key]())


def short_backbone(key, precision="fp32"):
    """A ResNet with 4 residual blocks instead of 13, which compiles in a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutional, "RESNET_STAGES", ((2, 64, 1), (1, 128, 2), (1, 256, 2)))
        return BACKBONES[key](precision)


@pytest.fixture(scope="module")
def short(key):
    return with_reference_weights(short_backbone(key))


@pytest.fixture(scope="module")
def expected_BNC(key, reference_dir):
    map_BCHW = np.load(reference_dir / "conv_backbones.npz", allow_pickle=False)[key]
    return map_BCHW.reshape(*map_BCHW.shape[:2], -1).transpose(0, 2, 1)


@pytest.fixture(scope="module")
def reference_images(reference_dir):
    seed = int(np.load(reference_dir / "conv_backbones.npz", allow_pickle=False)["x_seed"])
    return Tensor(np.random.RandomState(seed).standard_normal((1, 3, 64, 64)).astype(np.float32))


def noise(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def test_the_map_equals_torchvisions_and_the_descriptor_is_its_mean(backbone, expected_BNC, reference_images):
    assert (backbone.stride, backbone.width) == (16, expected_BNC.shape[2])
    features_BNC, descriptor_BC = MapAndDescriptor(backbone)(reference_images)
    assert features_BNC.dtype == descriptor_BC.dtype == ms.float32
    atol = 1e-5 * np.abs(expected_BNC).max()  # required: 1e-3
    np.testing.assert_allclose(features_BNC.asnumpy(), expected_BNC, rtol=0, atol=atol)
    np.testing.assert_allclose(descriptor_BC.asnumpy(), expected_BNC.mean(axis=1), rtol=0, atol=atol)


def test_a_batch_equals_its_images_one_by_one(short):
    images = noise(3, 3, 64, 32)  # not square
    together = short(Tensor(images)).asnumpy()
    alone = np.concatenate([short(Tensor(images[i : i + 1])).asnumpy() for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


BLANK, SPOT = 0, 1  # images of ``fresh_BNC``; the rest is noise


@pytest.fixture(scope="module")
def fresh_BNC(key):
    """Maps with 4 rows of 6 positions, from untrained backbones."""
    backbone, images = BACKBONES[key](), noise(4, 3, 64, 96)
    initialize(backbone, seed=3)
    images[[BLANK, SPOT]] = 0
    images[SPOT, :, 16:32, 64:80] = 5 * noise(3, 16, 16)  # row 1, column 4
    return MapAndDescriptor(backbone)(Tensor(images))[0].asnumpy()


def test_positions_run_row_by_row(fresh_BNC):
    # new residual blocks return their input, so that a position depends on little beyond its own square
    change_N = np.abs(fresh_BNC[SPOT] - fresh_BNC[BLANK]).sum(axis=1)
    assert change_N.shape == (24,) and change_N.argmax() == 1 * 6 + 4


def test_the_map_of_a_new_network_neither_vanishes_nor_explodes(fresh_BNC):
    of_noise = fresh_BNC[SPOT + 1 :]
    # pixels have a mean square of 1; He's variance keeps it, and each pooling (VGG has 4) raises it fourfold at most
    assert 0.25 < np.mean(of_noise**2) < 4.0**4
    assert np.ptp(of_noise, axis=(0, 1)).max() > 0.1  # and positions still differ


def test_half_precision_is_near(key, short):
    images = Tensor(noise(1, 3, 64, 32))
    half, wide = with_reference_weights(short_backbone(key, "fp16"))(images), short(images).asnumpy()
    assert half.dtype == ms.float32
    np.testing.assert_allclose(half.asnumpy(), wide, rtol=0, atol=5e-3 * np.abs(wide).max())
    assert not np.array_equal(half.asnumpy(), wide)


def test_every_trainable_parameter_has_a_gradient_from_the_second_step_on_and_statistics_never(key):
    backbone, images = short_backbone(key), Tensor(noise(2, 3, 32, 32))
    initialize(backbone, seed=1)
    statistics = [p for p in backbone.get_parameters() if p.name.endswith(("running_mean", "running_var"))]
    trainable = backbone.trainable_params()
    assert len(trainable) + len(statistics) == len(list(backbone.get_parameters()))
    assert {p.name for p in trainable}.isdisjoint(p.name for p in statistics)
    slopes = Slopes(backbone).set_train()
    for parameter, slope in zip(trainable, slopes(images), strict=True):  # makes the last scales nonzero
        ops.assign(parameter, parameter - 0.01 * slope)
    flat = [p.name for p, slope in zip(trainable, slopes(images), strict=True) if not slope.asnumpy().any()]
    assert flat == []
    for parameter in statistics:
        assert np.all(parameter.asnumpy() == (0.0 if parameter.name.endswith("mean") else 1.0)), parameter.name


def test_initial_values_depend_on_seed_and_name(key):
    one, again, other = BACKBONES[key](), BACKBONES[key](), BACKBONES[key]()
    for backbone, seed in ((one, 1), (again, 1), (other, 2)):
        initialize(backbone, seed)
    for a, b, c in zip(one.get_parameters(), again.get_parameters(), other.get_parameters(), strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())
        assert np.array_equal(a.asnumpy(), c.asnumpy()) == (len(a.shape) == 1), a.name


@pytest.mark.parametrize("name", ["features.21.weight", "layer3.5.conv2.weight", "layer1.0.downsample.0.weight"])
def test_convolutions_have_initial_values_by_he(name):
    starts = {p.name: p.start for network in (ResNet50, Vgg16) for p in network().get_parameters()}
    value = initial_value(name, (256, 64, 3, 3), starts[name], seed=0)
    assert abs(value.std() / np.sqrt(2 / (64 * 9)) - 1) < 0.01 and abs(value.mean()) < 1e-3


def test_onnx_runtime_and_a_reloaded_mindir_give_the_same(key, backbone, reference_images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    live = backbone(reference_images).asnumpy()
    ms.export(backbone, reference_images, file_name=str(tmp_path / "it.onnx"), file_format="ONNX")
    session = onnxruntime.InferenceSession(str(tmp_path / "it.onnx"))
    (descriptor,) = session.run(None, {session.get_inputs()[0].name: reference_images.asnumpy()})
    np.testing.assert_allclose(descriptor, live, rtol=0, atol=1e-5 * np.abs(live).max())  # required: 1e-4
    any_batch = Tensor(shape=[None, 3, 64, 64], dtype=ms.float32)
    dynamic = with_reference_weights(BACKBONES[key]())
    dynamic.set_inputs(any_batch)
    ms.export(dynamic, any_batch, file_name=str(tmp_path / "it.mindir"), file_format="MINDIR")
    reloaded = nn.GraphCell(ms.load(str(tmp_path / "it.mindir")))
    pair = np.concatenate([reference_images.asnumpy()] * 2)
    np.testing.assert_allclose(reloaded(Tensor(pair)).asnumpy()[1:], live, rtol=0, atol=1e-5 * np.abs(live).max())
