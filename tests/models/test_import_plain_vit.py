"""The weights of timm's plain ViTs are imported by name."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file
from timm_weights import weight_from_name

from mindloc.errors import CheckpointError
from mindloc.models.encoder import PairEncoder
from mindloc.models.import_weights import import_weights
from mindloc.models.parameters import names_within
from mindloc.models.vit_plain import PlainVit, PlainVitSize
from mindloc.models.vit_rope import RopeVit, VitSize


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def size(grid=4):
    return PlainVitSize(96, 3, 3, 16, grid)


@pytest.fixture(scope="module")
def reference(reference_dir):
    return np.load(reference_dir / "vit_plain_tiny.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def timm(reference):
    """Random weights with the names and shapes of timm's file, including its classifier."""
    rows = zip(reference["token_names"], reference["token_shapes"], strict=True)
    shapes = {str(name): tuple(json.loads(shape)) for name, shape in rows}
    arrays = {name: weight_from_name(name, shape, int(reference["weight_seed"])) for name, shape in shapes.items()}
    return {**arrays, "head.weight": np.ones((10, 96), np.float32), "head.bias": np.ones(10, np.float32)}


def saved(tmp_path, arrays):
    path = tmp_path / "model.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(path))
    return path


def assert_contains(encoder, weights):
    for name, parameter in names_within(encoder.backbone_of("query")):
        np.testing.assert_array_equal(parameter.asnumpy(), weights[name], err_msg=name)


def test_timms_file_fits_except_its_classifier(tmp_path, timm):
    encoder = PairEncoder(PlainVit(size()))
    report = import_weights(encoder, saved(tmp_path, timm))
    assert_contains(encoder, timm)  # including the part of the bias for keys
    assert len(report.matched) == len(timm) - 2 and sorted(report.ignored) == ["head.bias", "head.weight"]
    assert report.missing == report.unexpected == report.mismatched == report.resampled == []
    assert "2 ignored (head." in report.summary()


def test_a_table_of_another_grid_is_resampled_and_the_descriptors_are_timms(tmp_path, timm, reference):
    encoder = PairEncoder(PlainVit(size(grid=6)))
    report = import_weights(encoder, saved(tmp_path, timm))
    table = encoder.backbone.pos_embed.asnumpy()
    np.testing.assert_allclose(table, reference["pos_embed_96"], rtol=0, atol=1e-6)  # required: 1e-5
    assert "1 resampled (backbone.pos_embed: 4 x 4 in the file, 6 x 6 here)" in report.summary()
    images = np.random.RandomState(int(reference["x96_seed"])).standard_normal((2, 3, 96, 96)).astype(np.float32)
    descriptors = encoder.backbone(Tensor(images)).asnumpy()
    np.testing.assert_allclose(descriptors, reference["token_96_resampled"], rtol=0, atol=2e-5)


def unfused(timm):
    """timm's layout with separate matrices for query, key and value."""
    arrays = dict(timm)
    for i in range(3):
        for kind in ("weight", "bias"):
            parts = np.split(arrays.pop(f"blocks.{i}.attn.qkv.{kind}"), 3)
            arrays.update({f"blocks.{i}.attn.{p}_proj.{kind}": array for p, array in zip("qkv", parts, strict=True)})
    return arrays


def test_three_matrices_become_one(tmp_path, timm):
    encoder = PairEncoder(PlainVit(size()))
    report = import_weights(encoder, saved(tmp_path, unfused(timm)))
    assert_contains(encoder, timm)
    assert report.missing == report.unexpected == []


def test_a_missing_bias_of_the_keys_becomes_zeros(tmp_path, timm):
    arrays, expected = dict(timm), dict(timm)
    for i in range(3):
        query, key, value = np.split(arrays.pop(f"blocks.{i}.attn.qkv.bias"), 3)
        arrays |= {f"blocks.{i}.attn.q_bias": query, f"blocks.{i}.attn.v_bias": value}
        expected[f"blocks.{i}.attn.qkv.bias"] = np.concatenate([query, 0 * key, value])
    encoder = PairEncoder(PlainVit(size()))
    import_weights(encoder, saved(tmp_path, arrays))
    assert_contains(encoder, expected)


def test_the_norm_of_the_other_pooling_is_reported(tmp_path, timm):
    report = import_weights(PairEncoder(PlainVit(size(), "avg")), saved(tmp_path, timm))
    assert report.missing == ["backbone.fc_norm.weight", "backbone.fc_norm.bias"]
    assert report.unexpected == ["norm.bias", "norm.weight"]


@pytest.mark.parametrize(
    "further",
    [
        "blocks.0.ls1.gamma",  # DeiT III, DINOv2
        "blocks.3.norm1.weight",  # a deeper network
        "norm_pre.weight",  # CLIP
        "reg_token",
        "dist_token",
    ],
)
def test_layers_that_this_model_lacks_are_refused(tmp_path, timm, further):
    path = saved(tmp_path, {**timm, further: np.ones(96, np.float32)})
    with pytest.raises(CheckpointError, match=f"1 unexpected .{further}.*set model.backbone to match the weights"):
        import_weights(PairEncoder(PlainVit(size())), path)


def test_plain_and_rope_are_distinguished(tmp_path, timm, reference_dir):
    with pytest.raises(CheckpointError, match="set model.backbone to match the weights"):
        import_weights(PairEncoder(PlainVit(size())), reference_dir / "vit_rope_tiny.safetensors")
    with pytest.raises(CheckpointError, match="has a key bias"):
        import_weights(PairEncoder(RopeVit(VitSize(96, 3, 3))), saved(tmp_path, timm))


def test_positions_without_a_grid_are_refused(tmp_path, timm):
    path = saved(tmp_path, {**timm, "pos_embed": np.zeros((1, 16, 96), np.float32)})  # no class token
    with pytest.raises(CheckpointError, match=r"pos_embed has shape \(1, 16, 96\)"):
        import_weights(PairEncoder(PlainVit(size())), path)
