"""Training runs of twenty steps, to compare two ranks with one; ``python two_ranks.py OUT`` is one rank."""

import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindloc.config.sections import OptimizerConfig, TrainConfig
from mindloc.losses.cosine import CosineTriplet
from mindloc.losses.criterion import Criterion
from mindloc.losses.infonce import WeightedInfonce
from mindloc.models.encoder import PairEncoder
from mindloc.models.two_stage import TwoStageHead
from mindloc.models.vit_rope import RopeVit, VitSize
from mindloc.runtime.cluster import ALONE, Cluster, join_cluster
from mindloc.runtime.device import use_device
from mindloc.training.optimizer import AdamW
from mindloc.training.step import TrainStep
from mindloc.vocabulary import GLOBAL, OMEGA, PHI

STEPS, PAIRS, SIDE = 20, 8, 32

CASES = {
    "whole": {},
    "two parts": {"accumulate": 2},
    "clipped by value": {"clip": "value", "clip_at": 0.002},
    "two stages": {"two_stage": True},
    "two parts, cached": {"accumulate": 2, "grad_cache": True},
}


def vit_encoder(two_stage: bool = False) -> nn.Cell:
    ms.set_seed(3)
    heads = (TwoStageHead(32, channels=8, nodes=3),) if two_stage else None
    encoder = PairEncoder(RopeVit(VitSize(width=32, depth=2, heads=2, reference_grid=2)), heads=heads)
    random = np.random.RandomState(3)
    for parameter in encoder.get_parameters():
        if parameter.name != "log_logit_scale" and "norm" not in parameter.name:
            parameter.set_data(Tensor(0.1 * random.standard_normal(parameter.shape).astype(np.float32)))
    return encoder


def batch(step: int) -> tuple[np.ndarray, ...]:
    """A global batch with some masked cells; every third batch has a padded row."""
    random = np.random.RandomState(step)
    query, reference = random.standard_normal((2, PAIRS, 3, SIDE, SIDE)).astype(np.float32)
    weight = random.uniform(0.2, 0.9, PAIRS).astype(np.float32)
    mask = random.uniform(size=(PAIRS, PAIRS)) < 0.8
    mask = mask | mask.T | np.eye(PAIRS, dtype=bool)
    if step % 3 == 0:
        mask[-1], mask[:, -1], weight[-1] = False, False, 0
    return query, reference, mask, weight


def train(case: str, cluster: Cluster) -> dict[str, np.ndarray]:
    """Losses and gradient norms of every step, and the weights after the last, by name."""
    options = dict(CASES[case])
    two_stage = options.pop("two_stage", False)
    encoder = vit_encoder(two_stage)
    stages = {OMEGA: CosineTriplet(), PHI: WeightedInfonce()}
    criterion = Criterion(stages, (0.5, 0.5)) if two_stage else Criterion({GLOBAL: WeightedInfonce()})
    clip = {name: options.pop(name) for name in ("clip", "clip_at") if name in options}
    optimizer = AdamW(encoder.trainable_params(), OptimizerConfig(**{"weight_decay": 0.1, "clip": "none", **clip}))
    step = TrainStep(encoder, criterion, optimizer, TrainConfig(**options), cluster)
    ops.assign(step.lr, Tensor(1e-3, ms.float32))
    parts = options.get("accumulate", 1)  # a rank has rows of each part
    own = np.arange(PAIRS).reshape(parts, cluster.size, -1)[:, cluster.rank].reshape(-1)
    losses, norms = [], []
    for number in range(STEPS):
        query, reference, mask, weight = batch(number)
        loss, _, norm, _, _ = step(Tensor(query[own]), Tensor(reference[own]), Tensor(mask), Tensor(weight))
        losses.append(float(loss.asnumpy()))
        norms.append(float(norm.asnumpy()))
    weights = {parameter.name: parameter.asnumpy() for parameter in encoder.get_parameters()}
    return {"losses": np.array(losses), "norms": np.array(norms), **weights}


def train_all(cluster: Cluster = ALONE) -> dict[str, np.ndarray]:
    """``case/name`` -> array."""
    return {f"{case}/{name}": array for case in CASES for name, array in train(case, cluster).items()}


if __name__ == "__main__":
    cluster = join_cluster(use_device("CPU"))
    np.savez(Path(sys.argv[1]) / f"rank_{cluster.rank}.npz", **train_all(cluster))
