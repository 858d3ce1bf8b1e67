"""Three steps of a small training in a process of its own: ``cached_step.py FOLDER [K]``, FOLDER ``-`` for no cache.

Prints whether the graph was there already, and a hash of the weights. K is the loss's constant, which MindSpore's own
key does not hold.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import numpy as np
import small_run

from mindloc.losses.infonce import WeightedInfonceCriterion
from mindloc.runtime.compiler_cache import CompilerCache
from mindloc.training.compile_callback import no_cache
from mindloc.training.optimizer import AdamW
from mindloc.training.parameter_table import parameter_table
from mindloc.training.step import TrainStep

if __name__ == "__main__":
    folder, k = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    ms.set_context(mode=ms.GRAPH_MODE)
    encoder = small_run.LinearEncoder()
    parameters = list(encoder.get_parameters())
    table = parameter_table({p.name: p.shape for p in parameters}, weight_decay=0.1)
    step = TrainStep(encoder, WeightedInfonceCriterion(k), AdamW(parameters, table), clip="norm", clip_at=1.0)
    step.lr.set_data(ms.Tensor(np.array(0.1, np.float32)))
    batches = [tuple(map(ms.Tensor, small_run.batch(0, i))) for i in range(3)]
    serve = no_cache if folder == "-" else CompilerCache(Path(folder), {"k": k}).serving
    with serve(*batches[0]) as there:
        step.compile(*batches[0])
    for batch in batches:
        step(*batch)
    weights = b"".join(parameter.asnumpy().tobytes() for parameter in parameters)
    print(json.dumps({"there": there, "weights": hashlib.sha256(weights).hexdigest()}))
