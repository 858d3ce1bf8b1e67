"""The RoPE ViT equals timm's stored values."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from timm_weights import with_reference_weights, written_shapes

from mindloc.models.parameters import initialize, names_within
from mindloc.models.vit_rope import SIZES, RopeVit, VitSize
from mindloc.runtime.checkpoint import read_tensor_file


class Tokens(nn.Cell):
    def __init__(self, backbone):
        super().__init__(auto_prefix=False)
        self.backbone = backbone

    def construct(self, images):
        return self.backbone.tokens(images)


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def tiny_reference(reference_dir):
    return np.load(reference_dir / "vit_rope_tiny.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def tiny(reference_dir):
    return loaded(RopeVit(VitSize(96, 3, 3)), read_tensor_file(reference_dir / "vit_rope_tiny.safetensors")[0])


def loaded(backbone, weights):
    parameters = dict(names_within(backbone))
    assert parameters.keys() == weights.keys()
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(weights[name]))
    return backbone


def test_tokens_equal_timm(tiny, tiny_reference):
    tokens = Tokens(tiny)(Tensor(tiny_reference["x"])).asnumpy()
    np.testing.assert_allclose(tokens, tiny_reference["tokens"], rtol=0, atol=2e-5)  # required: 1e-4


def test_pooled_equals_timm(tiny, tiny_reference):
    pooled = tiny(Tensor(tiny_reference["x"])).asnumpy()
    np.testing.assert_allclose(pooled, tiny_reference["pooled"], rtol=0, atol=1e-5)  # required: 1e-4


@pytest.mark.slow
def test_base_at_384_px_equals_timm(reference_dir):
    reference = np.load(reference_dir / "vit_base_384.npz", allow_pickle=False)
    backbone = with_reference_weights(RopeVit(SIZES["base"]), int(reference["weight_seed"]))
    assert written_shapes(backbone) == dict(zip(reference["names"], reference["shapes"], strict=True))
    x = np.random.RandomState(int(reference["x_seed"])).standard_normal((1, 3, 384, 384)).astype(np.float32)
    np.testing.assert_allclose(backbone(Tensor(x)).asnumpy(), reference["pooled"], rtol=0, atol=1e-4)  # required: 5e-4


@pytest.mark.parametrize(
    "name, millions", [("tiny", 2.8), ("compact", 6.5), ("small", 21.6), ("medium", 38.2), ("base", 85.66)]
)
def test_sizes(name, millions):
    # one block: 12 C^2 weights + 12 C biases and scales; patches 768 C + C; register and fc_norm 3 C
    size = SIZES[name]
    expected = size.depth * (12 * size.width**2 + 14 * size.width) + (768 + 1 + 3) * size.width
    count = sum(parameter.size for _, parameter in names_within(RopeVit(size)))
    assert count == expected
    assert abs(count / 1e6 - millions) < 0.06
    assert size.width == 64 * size.heads


def test_a_batch_equals_its_images_one_by_one(tiny):
    images = np.random.RandomState(0).standard_normal((3, 3, 64, 32)).astype(np.float32)  # neither square nor 96
    together = tiny(Tensor(images)).asnumpy()
    alone = np.concatenate([tiny(Tensor(images[i : i + 1])).asnumpy() for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_height_and_width_are_distinguished(tiny):
    image = np.random.RandomState(0).standard_normal((1, 3, 64, 32)).astype(np.float32)
    turned = np.ascontiguousarray(image.transpose(0, 1, 3, 2))
    assert np.abs(tiny(Tensor(image)).asnumpy() - tiny(Tensor(turned)).asnumpy()).max() > 1e-2


def test_half_precision_is_near():
    backbones = [RopeVit(VitSize(96, 1, 3), precision) for precision in ("fp32", "fp16")]
    for backbone in backbones:
        initialize(backbone, seed=1)
    images = Tensor(np.random.RandomState(0).standard_normal((2, 3, 32, 32)).astype(np.float32))
    wide, half = (backbone(images) for backbone in backbones)
    assert half.dtype == ms.float32
    np.testing.assert_allclose(half.asnumpy(), wide.asnumpy(), atol=2e-2)
    assert not np.array_equal(half.asnumpy(), wide.asnumpy())
