"""Twenty training steps of the small RoPE ViT equal PyTorch's stored ones (see tests/reference/README.md)."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops
from safetensors.numpy import load_file

from mindloc.config.sections import OptimizerConfig
from mindloc.losses.criterion import Criterion
from mindloc.losses.infonce import WeightedInfonce
from mindloc.models.encoder import PairEncoder
from mindloc.models.vit_rope import RopeVit, VitSize
from mindloc.training.optimizer import AdamW
from mindloc.training.step import TrainStep
from mindloc.vocabulary import GLOBAL


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def reference_encoder(reference_dir: Path) -> PairEncoder:
    start = load_file(reference_dir / "vit_rope_tiny.safetensors")
    with np.load(reference_dir / "vit_rope_tiny.npz", allow_pickle=False) as file:
        config = json.loads(str(file["config"]))
    size = VitSize(config["embed"], config["depth"], config["heads"], config["patch"], config["ref_feat_shape"][0])
    encoder = PairEncoder(RopeVit(size))
    parameters = encoder.parameters_dict()
    for name, array in start.items():
        parameters.pop(f"backbone.{name}").set_data(Tensor(array))
    assert set(parameters) == {"log_logit_scale"}
    return encoder


def train(encoder, reference_dir, lrs, weight_decay, clip, clip_at) -> list[float]:
    """The loss of each step before its update; four batches alternate."""
    settings = OptimizerConfig(weight_decay=weight_decay, betas=(0.9, 0.999), eps=1e-8, clip=clip, clip_at=clip_at)
    step = TrainStep(encoder, Criterion({GLOBAL: WeightedInfonce(k=5.0)}), AdamW(encoder.trainable_params(), settings))
    step.set_train()
    with np.load(reference_dir / "trajectory.npz", allow_pickle=False) as file:
        images, weights = file["images"].astype(np.float32), file["weights"].astype(np.float32)
    losses = []
    for i, lr in enumerate(lrs):
        ops.assign(step.lr, Tensor(np.float32(lr)))
        query, reference = images[i % 4]
        outputs = step(Tensor(query), Tensor(reference), Tensor(np.ones((6, 6), bool)), Tensor(weights[i % 4]))
        assert bool(outputs[3])
        losses.append(float(outputs[0]))
    return losses


@pytest.mark.slow
def test_losses_follow_pytorch_for_twenty_steps(reference_dir):
    with np.load(reference_dir / "trajectory.npz", allow_pickle=False) as file:
        lrs, expected, scale = file["lrs"], file["losses"], float(file["final_logit_scale"])
    encoder = reference_encoder(reference_dir)
    losses = train(encoder, reference_dir, lrs, 0.01, "value", 100.0)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(encoder.log_logit_scale.asnumpy()[0], scale, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("clip", "clip_at"), [("value", 0.02), ("norm", 0.5)])
def test_strong_decay_and_active_clipping_end_at_the_float64_weights(reference_dir, clip, clip_at):
    with np.load(reference_dir / "trajectory.npz", allow_pickle=False) as file:
        lrs = 5 * file["lrs"]
    with np.load(reference_dir / "trajectory_strict.npz", allow_pickle=False) as file:
        expected, scale = file[f"{clip}_losses"], float(file[f"{clip}_final_logit_scale"])
    encoder = reference_encoder(reference_dir)
    losses = train(encoder, reference_dir, lrs, 0.5, clip, clip_at)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=5e-5)

    start = load_file(reference_dir / "vit_rope_tiny.safetensors")
    final = load_file(reference_dir / f"trajectory_{clip}_final.safetensors")
    parameters = encoder.parameters_dict()
    misses = {}
    for name, wanted in final.items():
        got = parameters[f"backbone.{name}"].asnumpy().astype(np.float64)
        misses[name] = np.linalg.norm(got - wanted) / np.linalg.norm(wanted - start[name])
    worst = max(misses, key=misses.get)
    assert misses[worst] < 3e-4, f"{worst}: {misses[worst]:.1e} of its update's length"
    start_scale = np.log(1 / 0.07)
    assert abs(encoder.log_logit_scale.asnumpy()[0] - scale) < 3e-4 * abs(scale - start_scale)
