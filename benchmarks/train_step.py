"""Seconds and memory of a training step: python benchmarks/train_step.py [--peer PYTHON] [--json result.json].

Measured is the step that train.py runs for a batch, without reading the images: forward pass of both views,
Weighted-InfoNCE, backward pass, clipping, AdamW. Images are noise. Each measurement is a process of its own; its first
step, which compiles, is reported separately. With --peer, PyTorch and timm do the same work in turn.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a plain clone

import numpy as np
from encoder_cases import Case, compare_encoders
from turns import peak_mib

LEARNING_RATE = 1e-4


def measure(case: Case, runs: int) -> dict[str, Any]:
    """Seconds of the first step and of ``runs`` further steps, and the peak memory."""
    case.use_device()

    import mindspore as ms

    step, batch = train_step(case), batch_of(case)
    ms.ops.assign(step.lr, ms.Tensor(LEARNING_RATE, ms.float32))
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        step(*batch)[0].asnumpy()
        seconds.append(time.perf_counter() - started)
    return {"first_s": seconds[0], "seconds": seconds[1:], "peak_mib": peak_mib()}


def train_step(case: Case) -> Any:
    """The step as train.py builds it, on one device."""
    from mindloc.losses.criterion import build_criterion
    from mindloc.models.build import build_encoder
    from mindloc.training.optimizer import AdamW
    from mindloc.training.step import TrainStep

    config = case.config()
    encoder = build_encoder(config)
    optimizer = AdamW(encoder.trainable_params(), config.optimizer)
    return TrainStep(encoder, build_criterion(config), optimizer, config.train).set_train(True)


def batch_of(case: Case) -> list[Any]:
    """Inputs of a step: query images, reference images, mask, IoUs."""
    import mindspore as ms

    random, size = np.random.default_rng(0), case.batch_size
    shape = (size, 3, case.side_px, case.side_px)
    images = [random.standard_normal(shape, np.float32) for _ in range(2)]
    return [ms.Tensor(column) for column in (*images, np.ones((size, size), bool), np.ones(size, np.float32))]


if __name__ == "__main__":
    compare_encoders(__file__, __doc__, "train_step", measure)
