"""Public weights: every layout and naming of them gives the same encoder."""

import json
import re

import mindspore as ms
import numpy as np
import pytest
from conv_weights import weight_from_name
from mindspore import Parameter, Tensor, nn
from safetensors.numpy import save_file

from mindloc.config import Config
from mindloc.errors import CheckpointError, ConfigError
from mindloc.models.build import build_encoder, with_normalization_of
from mindloc.models.convolutional import ResNet50, Vgg16
from mindloc.models.encoder import PairEncoder
from mindloc.models.import_weights import import_weights, stated_normalization, unstated_normalization
from mindloc.models.parameters import names_within
from mindloc.models.public_weights import IMAGENET
from mindloc.models.vit_rope import RopeVit, VitSize
from mindloc.runtime.checkpoint import read_tensor_file, save_weights

SIZE = VitSize(96, 3, 3)


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def timm(reference_dir):
    return read_tensor_file(reference_dir / "vit_rope_tiny.safetensors")[0]


def encoder_of(count=1):
    return PairEncoder(*(RopeVit(SIZE) for _ in range(count)))


def saved(tmp_path, arrays):
    path = tmp_path / "model.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(path))
    return path


def prefixed(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


def assert_contains(encoder, view, weights):
    for name, parameter in names_within(encoder.backbone_of(view)):
        np.testing.assert_array_equal(parameter.asnumpy(), weights[name], err_msg=name)


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "backbone.", "drone_encoder."])
def test_one_encoder_under_any_prefix(tmp_path, timm, prefix):
    encoder = encoder_of()
    report = import_weights(encoder, saved(tmp_path, prefixed(prefix, timm)))
    assert_contains(encoder, "query", timm)
    assert len(report.matched) == len(timm)
    assert report.missing == report.unexpected == report.mismatched == report.ignored == []


def test_weights_of_mindspore_itself(tmp_path, timm):
    parameters = [{"name": name, "data": Tensor(array)} for name, array in timm.items()]
    ms.save_checkpoint(parameters, str(tmp_path / "encoder.ckpt"))
    encoder = encoder_of()
    import_weights(encoder, tmp_path / "encoder.ckpt")
    assert_contains(encoder, "query", timm)
    whole = (tmp_path / "encoder.ckpt").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "other": b"x" * 99}.items():
        (tmp_path / f"{name}.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match="^[^\n]*is not a complete MindSpore checkpoint [^\n]*$"):
            import_weights(encoder, tmp_path / f"{name}.ckpt")


@pytest.mark.parametrize(
    "query, reference",
    [
        ("model1.", "model2."),
        ("drone_encoder.", "satellite_encoder."),
        ("drone_encoder.model.", "satellite_encoder.model."),
        ("query_backbone.", "reference_backbone."),
    ],
)
def test_an_encoder_for_each_view(tmp_path, timm, query, reference):
    other = {name: -array for name, array in timm.items()}
    scale = {"logit_scale": np.float32(3.5)}
    path = saved(tmp_path, {**prefixed(query, timm), **prefixed(reference, other), **scale})
    encoder = encoder_of(2)
    report = import_weights(encoder, path)
    assert_contains(encoder, "query", timm)
    assert_contains(encoder, "reference", other)
    assert report.missing == report.unexpected == []
    with pytest.raises(CheckpointError, match="share_weights=false"):
        import_weights(encoder_of(1), path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda timm: timm.pop("fc_norm.bias"), "1 missing .backbone.fc_norm.bias."),
        (lambda timm: timm.update({"extra.weight": np.ones(2, np.float32)}), "1 unexpected .extra.weight."),
    ],
)
def test_strict_loading_refuses_what_is_otherwise_only_reported(tmp_path, timm, change, said):
    arrays = dict(timm)
    change(arrays)
    path = saved(tmp_path, arrays)
    assert re.search(said, import_weights(encoder_of(), path).summary())
    with pytest.raises(CheckpointError, match=f"{said}.*: not every name matches; .* model.pretrained_strict=false"):
        import_weights(encoder_of(), path, strict=True)


def test_strict_loading_accepts_a_file_that_fits(tmp_path, timm):
    assert import_weights(encoder_of(), saved(tmp_path, timm), strict=True).missing == []


def test_one_set_of_weights_fills_both_encoders(tmp_path, timm):
    encoder = encoder_of(2)
    import_weights(encoder, saved(tmp_path, prefixed("model.", timm)))
    assert_contains(encoder, "query", timm)
    assert_contains(encoder, "reference", timm)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_logit_scale_is_read_as_a_logarithm(tmp_path, timm, shape):
    encoder = encoder_of()
    report = import_weights(encoder, saved(tmp_path, {**timm, "logit_scale": np.full(shape, 3.5, np.float32)}))
    assert encoder.log_logit_scale.asnumpy().tolist() == [3.5]
    assert "log_logit_scale" in report.matched


def full_bias(timm):
    """timm's layout with one bias for q, k and v."""
    arrays = dict(timm)
    for i in range(SIZE.depth):
        q, v = (arrays.pop(f"blocks.{i}.attn.{part}_bias") for part in "qv")
        arrays[f"blocks.{i}.attn.qkv.bias"] = np.concatenate([q, np.zeros_like(q), v])
    return arrays


def unfused(timm):
    """timm's layout with separate matrices for q, k and v."""
    arrays = dict(timm)
    for i in range(SIZE.depth):
        stem = f"blocks.{i}.attn."
        for part, weight in zip("qkv", np.split(arrays.pop(stem + "qkv.weight"), 3), strict=True):
            arrays[f"{stem}{part}_proj.weight"] = weight
        for part in "qv":
            arrays[f"{stem}{part}_proj.bias"] = arrays.pop(f"{stem}{part}_bias")
    return arrays


@pytest.mark.parametrize("layout", [full_bias, unfused])
def test_layouts_of_the_attention_weights(tmp_path, timm, layout):
    encoder = encoder_of()
    report = import_weights(encoder, saved(tmp_path, layout(timm)))
    assert_contains(encoder, "query", timm)
    assert report.missing == report.unexpected == []


def test_key_bias_is_not_dropped_silently(tmp_path, timm):
    arrays = full_bias(timm)
    arrays["blocks.1.attn.qkv.bias"] += 1
    with pytest.raises(CheckpointError, match="key bias at blocks.1.attn"):
        import_weights(encoder_of(), saved(tmp_path, arrays))


def test_tables_and_classifier_are_known_and_ignored(tmp_path, timm):
    extra = {name: np.zeros(3, np.float32) for name in ("rope.bands", "rope.periods", "head.weight", "head.bias")}
    extra["blocks.0.attn.k_bias"] = np.zeros(96, np.float32)
    report = import_weights(encoder_of(), saved(tmp_path, prefixed("model.", {**timm, **extra})))
    assert len(report.ignored) == 5 and report.unexpected == []


def test_the_report_names_what_does_not_fit(tmp_path, timm):
    arrays = {**timm, "surplus.weight": np.zeros(3, np.float32)}
    del arrays["fc_norm.bias"]
    report = import_weights(encoder_of(), saved(tmp_path, arrays))
    assert report.missing == ["backbone.fc_norm.bias"] and report.unexpected == ["surplus.weight"]
    assert f"{len(timm) - 1} parameters matched" in report.summary() and "\n" not in report.summary()


def test_weights_of_another_model_do_not_change_the_encoder(tmp_path, timm):
    encoder = encoder_of()
    before = {parameter.name: parameter.asnumpy().copy() for parameter in encoder.get_parameters()}
    shorter = {name: array for name, array in timm.items() if not name.startswith("blocks.2.")}
    wider = {**timm, "fc_norm.bias": np.zeros(192, np.float32)}
    for arrays in (shorter, wider, {"something": np.zeros(3, np.float32)}):
        with pytest.raises(CheckpointError, match="model.backbone"):
            import_weights(encoder, saved(tmp_path, arrays))
    for parameter in encoder.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])


def test_unreadable_files(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name in ("cut.safetensors", "absent.safetensors", "absent.pth"):
        with pytest.raises(CheckpointError, match=name):
            import_weights(encoder_of(), tmp_path / name)


def write_config_json(directory, mean):
    (directory / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": mean, "std": [0.25, 0.25, 0.25]}}))


@pytest.mark.slow
def test_normalization_follows_the_weights(tmp_path, timm):
    path = saved(tmp_path, timm)
    assert stated_normalization(path) is None
    write_config_json(tmp_path, [0.1, 0.2, 0.3])
    config = Config().with_values({"model.backbone": "tiny", "model.pretrained": path})
    with pytest.raises(ConfigError, match=r"model.mean=\[0.1, 0.2, 0.3\]"):
        build_encoder(config)
    config = with_normalization_of(path, config)
    assert config.model.mean == (0.1, 0.2, 0.3) and config.model.std == (0.25, 0.25, 0.25)
    with pytest.raises(CheckpointError, match="not the weights of this backbone"):  # after the check, in loading
        build_encoder(config)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"mean": ["x"], "std": [1]}',
        '{"pretrained_cfg": {"mean": [NaN], "std": [1]}}',
        '{"mean": [[]], "std": []}',
    ],
)
def test_broken_config_json_is_named(tmp_path, timm, text):
    path = saved(tmp_path, timm)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json"):
        stated_normalization(path)


def test_own_files_state_their_normalization(tmp_path, timm):
    path = tmp_path / "weights.safetensors"
    config = {"model": {"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}}
    save_file(timm, str(path), metadata={"config": json.dumps(config)})
    assert stated_normalization(path) == ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))


def test_one_line_says_what_was_loaded(tmp_path):
    config = Config().with_values({"model.backbone": "tiny"})
    arrays = {name: value.asnumpy() for name, value in build_encoder(config).parameters_and_names()}
    del arrays["backbone.fc_norm.bias"]
    said = []
    build_encoder(config.with_values({"model.pretrained": saved(tmp_path, arrays)}), said.append)
    assert len(said) == 1 and f"{len(arrays)} parameters matched; 1 missing (backbone.fc_norm.bias)" in said[0]


def torchvision_file(tmp_path, network, behind):
    """All names of the backbone, and some further ones of torchvision's files."""
    arrays = {name: weight_from_name(name, parameter.shape) for name, parameter in names_within(network())}
    return arrays, saved(tmp_path, {**arrays, **{name: np.ones((2, 2), np.float32) for name in behind}})


@pytest.mark.parametrize(
    "network, behind",
    [
        (
            ResNet50,
            ["bn1.num_batches_tracked", "layer1.0.downsample.1.num_batches_tracked"]
            + ["layer4.0.conv1.weight", "layer4.2.bn3.running_var", "fc.weight", "fc.bias"],
        ),
        (Vgg16, ["features.24.weight", "features.26.bias", "features.28.weight", "classifier.0.weight"]),
    ],
)
def test_torchvisions_files_fill_the_convolutional_backbones(tmp_path, network, behind):
    arrays, path = torchvision_file(tmp_path, network, behind)
    encoder = PairEncoder(network(), network())
    report = import_weights(encoder, path)
    for view in ("query", "reference"):
        assert_contains(encoder, view, arrays)
    assert len(report.matched) == 2 * len(arrays) and sorted(report.ignored) == sorted(behind)
    assert report.missing == report.unexpected == report.mismatched == report.new == []


def test_weights_of_another_convolutional_network_are_refused(tmp_path, timm):
    _, deeper = torchvision_file(tmp_path, ResNet50, ["layer3.6.conv1.weight"])  # as in ResNet-101
    with pytest.raises(CheckpointError, match="1 unexpected .* set model.backbone to match the weights"):
        import_weights(PairEncoder(ResNet50()), deeper)
    with pytest.raises(CheckpointError, match="set model.backbone to match the weights"):
        import_weights(PairEncoder(Vgg16()), saved(tmp_path, timm))


def test_torchvisions_normalization_is_suggested_if_the_config_has_the_default(tmp_path, timm):
    path, half = saved(tmp_path, timm), (0.5, 0.5, 0.5)
    message = unstated_normalization(path, half, half, IMAGENET)
    assert "model.mean: [0.485, 0.456, 0.406] and model.std: [0.229, 0.224, 0.225]" in message and "\n" not in message
    assert unstated_normalization(path, *IMAGENET, IMAGENET) is None
    write_config_json(tmp_path, [0.5, 0.5, 0.5])
    assert unstated_normalization(path, half, half, IMAGENET) is None  # it is stated now, and checked elsewhere


class Head(nn.Cell):
    """The parameters of a head, by the names of one that turns a map into two descriptors."""

    descriptors = ("omega", "phi")

    def __init__(self, nodes=4):
        super().__init__()
        self.adapter = Parameter(Tensor(np.zeros((8, 96), np.float32)), name="adapter")
        self.centers = Parameter(Tensor(np.zeros((nodes, 8), np.float32)), name="centers")


def with_heads(count, nodes=4):
    return PairEncoder(*(RopeVit(SIZE) for _ in range(count)), heads=tuple(Head(nodes) for _ in range(count)))


def own_checkpoint(tmp_path, encoder):
    """The values of a checkpoint, a different constant for each parameter, and the file that contains them."""
    arrays = {p.name: np.full(p.shape, i + 1, np.float32) for i, p in enumerate(encoder.get_parameters())}
    save_weights(tmp_path / "own.safetensors", arrays, config={})
    return arrays, tmp_path / "own.safetensors"


def test_a_checkpoint_of_this_project_fills_the_head_too(tmp_path):
    arrays, path = own_checkpoint(tmp_path, with_heads(1))
    encoder = with_heads(1)
    report = import_weights(encoder, path)
    for parameter in encoder.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), arrays[parameter.name], err_msg=parameter.name)
    assert sorted(report.matched) == sorted(arrays) and report.new == report.ignored == []


def test_one_head_fills_both_heads_and_what_does_not_fit_keeps_its_initial_values(tmp_path):
    arrays, path = own_checkpoint(tmp_path, with_heads(1))
    encoder = with_heads(2, nodes=6)
    report = import_weights(encoder, path)
    for head in (encoder.query_head, encoder.reference_head):
        np.testing.assert_array_equal(head.adapter.asnumpy(), arrays["head.adapter"])
        assert not head.centers.asnumpy().any()
    assert report.new == ["query_head.centers", "reference_head.centers"] and report.ignored == ["head.centers"]
    assert "2 new (query_head.centers, reference_head.centers)" in report.summary()


def test_a_head_is_ignored_if_the_encoder_has_none(tmp_path):
    _, path = own_checkpoint(tmp_path, with_heads(1))
    report = import_weights(encoder_of(), path)
    assert report.ignored == ["head.adapter", "head.centers", "log_logit_scale"]  # it has two scales
    assert report.unexpected == []


def test_public_weights_do_not_change_the_head_and_fill_every_logit_scale(tmp_path, timm):
    stranger = {"head.adapter": np.ones((8, 96), np.float32), "logit_scale": np.float32(3.5)}
    encoder = with_heads(1)
    report = import_weights(encoder, saved(tmp_path, {**timm, **stranger}))
    assert_contains(encoder, "query", timm)
    assert not encoder.head.adapter.asnumpy().any()
    assert report.new == ["head.adapter", "head.centers"] and report.ignored == ["head.adapter"]
    assert encoder.log_logit_scale.asnumpy().tolist() == [3.5, 3.5]
