"""Seconds and memory of encoding a batch: python benchmarks/extraction.py [--peer PYTHON] [--json result.json].

Measured is the engine's encode, from normalized pixels to descriptors, as `mindloc extract` runs it for a batch,
without reading the images (see loader.py). Images are noise. Each measurement is a process of its own; its first batch,
which compiles, is reported separately. With --peer, PyTorch and timm do the same work in turn, in eval and inference
mode.
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

VIEW = "query"


def measure(case: Case, runs: int) -> dict[str, Any]:
    """Seconds of the first batch and of ``runs`` further batches, and the peak memory."""
    case.use_device()
    encode, batch = encoding(case), batch_of(case)
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        encode(batch)
        seconds.append(time.perf_counter() - started)
    return {"first_s": seconds[0], "seconds": seconds[1:], "peak_mib": peak_mib()}


def encoding(case: Case) -> Any:
    """``encode`` of the engine that extraction uses, with a fresh encoder."""
    from mindloc.inference.engine import MindSporeEngine
    from mindloc.models.build import build_encoder

    encoder = build_encoder(case.config())
    encoder.set_train(False)
    return MindSporeEngine(encoder, case.batch_size).encode


def batch_of(case: Case) -> dict[str, np.ndarray]:
    shape = (case.batch_size, 3, case.side_px, case.side_px)
    return {VIEW: np.random.default_rng(0).standard_normal(shape, np.float32)}


if __name__ == "__main__":
    compare_encoders(__file__, __doc__, "extraction", measure)
