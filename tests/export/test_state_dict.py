"""The PyTorch file of a checkpoint: our own reader loads it, and PyTorch with timm's model, if installed."""

import os
import subprocess

import numpy as np
import pytest

from mindloc.cli import main
from mindloc.config import config_to_dict, load_config
from mindloc.errors import CheckpointError, ConfigError
from mindloc.export.state_dict import export_state_dict, state_dict_of, write_state_dict
from mindloc.models.pth_reader import read_state_dict
from mindloc.runtime.checkpoint import save_weights

# loads FILE into Game4Loc's class as its public code has it, strictly, and prints the sum over an image's descriptor
LOAD = """
import sys, numpy as np, timm, torch
from torch import nn
file, name, size, shared = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
class DesModel(nn.Module):
    def __init__(self):
        super().__init__()
        for part in ["model"] if shared else ["model1", "model2"]:
            setattr(self, part, timm.create_model(name, pretrained=False, num_classes=0, img_size=size))
        self.logit_scale = nn.Parameter(torch.ones([]) * np.log(1 / 0.07))
model = DesModel()
state = torch.load(file, weights_only=True)
model.load_state_dict(state, strict=True)
image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32))
with torch.no_grad():
    print(float(model.logit_scale), *(model.model if shared else model.model2).eval()(image)[0, :8].tolist())
"""


def config_of(*overrides):
    return load_config(overrides=["data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]", *overrides])


def test_names_and_values_are_those_of_the_checkpoint(tmp_path):
    arrays = {
        "log_logit_scale": np.array([2.5], np.float32),
        "query_backbone.reg_token": np.arange(6, dtype=np.float32).reshape(1, 1, 6),
        "query_backbone.patch_embed.proj.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        "reference_backbone.blocks.0.gamma_1": np.array([-1.5], np.float32),
    }
    named = state_dict_of(arrays)
    assert list(named) == [
        "logit_scale",
        "model1.reg_token",
        "model1.patch_embed.proj.weight",
        "model2.blocks.0.gamma_1",
    ]
    write_state_dict(tmp_path / "x.pth", named)
    read = read_state_dict(tmp_path / "x.pth")
    assert read["logit_scale"].shape == () and read["logit_scale"] == np.float32(2.5)
    for (_, array), name in zip(list(arrays.items())[1:], list(named)[1:], strict=True):
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("override", ["head.name=two_stage", "model.backbone=resnet50"])
def test_an_encoder_that_the_class_can_not_load_is_refused(tmp_path, override):
    checkpoint = tmp_path / "weights.safetensors"
    save_weights(checkpoint, {"a": np.zeros(1, np.float32)}, config_to_dict(config_of(override)))
    with pytest.raises(ConfigError, match=f"PTH is for ViTs without a head, .*{override}"):
        export_state_dict(checkpoint, tmp_path)
    assert not list(tmp_path.glob("*.pth"))


def test_the_command_writes_it_without_a_device(tmp_path, capsys):
    checkpoint = tmp_path / "run" / "checkpoints" / "weights_end.safetensors"
    arrays = {"log_logit_scale": np.ones(1, np.float32), "backbone.fc_norm.bias": np.arange(4, dtype=np.float32)}
    save_weights(checkpoint, arrays, config_to_dict(config_of("model.mean=[0.1, 0.2, 0.3]")))
    assert main(["export", "--checkpoint", str(checkpoint), "--file_format", "PTH"]) == 0
    file = tmp_path / "run" / "export" / "encoder.pth"
    said = capsys.readouterr().out
    assert said.startswith(f"{file}: 2 tensors; ") and "mean [0.1, 0.2, 0.3], std [0.5, 0.5, 0.5]" in said
    np.testing.assert_array_equal(read_state_dict(file)["model.fc_norm.bias"], np.arange(4))
    words = ["export", "--checkpoint", str(checkpoint), "--file_format", "PTH", "--precision", "fp16", "--unit_length"]
    assert main(words) == 2
    assert "contains weights, not a graph; leave out --precision, --unit_length" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "timm_name", "size"),
    [
        ("base", "vit_base_patch16_rope_reg1_gap_256.sbb_in1k", 64),
        ("vit_small_patch16_224", "vit_small_patch16_224", 224),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_game4locs_class_loads_it_and_gives_the_same_descriptors(tmp_path, backbone, timm_name, size, shared):
    if not os.environ.get("MINDLOC_PEER"):
        pytest.skip("MINDLOC_PEER names no Python with PyTorch and timm (requirements-peer.txt)")
    ms = pytest.importorskip("mindspore")
    from mindloc.models.build import build_encoder

    sizes = [f"data.{side}_size_px=[{size}, {size}]" for side in ("query", "reference")]
    config = load_config(overrides=[*sizes, f"model.backbone={backbone}", f"model.share_weights={shared}"])
    encoder = build_encoder(config)
    random = np.random.default_rng(1)
    for parameter in encoder.get_parameters():  # registers, norms and biases away from 0 and 1
        if parameter.name != "log_logit_scale":
            noise = 0.02 * random.standard_normal(parameter.shape, np.float32)
            parameter.set_data(ms.Tensor(parameter.asnumpy() + noise))
    arrays = {parameter.name: parameter.asnumpy() for parameter in encoder.get_parameters()}
    save_weights(tmp_path / "weights.safetensors", arrays, config_to_dict(config))
    export_state_dict(tmp_path / "weights.safetensors", tmp_path, "peer")
    file = tmp_path / "peer.pth"
    command = [os.environ["MINDLOC_PEER"], "-c", LOAD, file, timm_name, size, shared]
    said = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    scale, *expected = map(float, said.stdout.split())
    assert scale == pytest.approx(float(arrays["log_logit_scale"][0]))
    ms.set_context(mode=ms.GRAPH_MODE)
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    described = encoder.side_encoder("reference")(ms.Tensor(image))["reference.global"].asnumpy()[0, :8]
    np.testing.assert_allclose(described, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "shape"), [("backbonex.weight", (1,)), ("log_logit_scale", (2,))])
def test_a_parameter_of_no_encoder_is_refused(name, shape):
    with pytest.raises(CheckpointError, match=f"has a parameter {name} of shape"):
        state_dict_of({name: np.zeros(shape, np.float32)})


def test_weights_with_nan_come_back_as_they_are(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"backbone.a": np.float32([1, np.nan])}, config_to_dict(config_of()))
    export_state_dict(path, tmp_path / "out")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "out/encoder.pth")["model.a"], np.float32([1, np.nan]))
