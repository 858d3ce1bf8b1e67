"""Three steps of a small training in a process of its own: ``cached_step.py FOLDER {plain,fused} K SEED [earlier]``.

FOLDER is ``-`` for no cache, K the loss's constant, which MindSpore's own key does not hold, SEED that of the weights.
Prints whether the graph was there already, a hash of the weights, and what another graph computes that is compiled
after it: (1.5 x - x^2) x of x = 0, 1, ..., of SEED + 6 numbers, so that each seed has a loop of its own. With
``earlier`` that graph is also compiled before the step, as an evaluation before the first step does.
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
from mindspore import nn

from mindloc.losses.infonce import WeightedInfonceCriterion
from mindloc.runtime.compile_time import compiling
from mindloc.runtime.compiler_cache import CompilerCache
from mindloc.runtime.device import use_device
from mindloc.training.compile_callback import no_cache
from mindloc.training.optimizer import AdamW
from mindloc.training.parameter_table import parameter_table
from mindloc.training.step import TrainStep


class Later(nn.Cell):
    def construct(self, x):
        return (1.5 * x - x * x) * x


if __name__ == "__main__":
    folder, form, k, seed = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    use_device("CPU", operator_fusion="always" if form == "fused" else "never")
    ms.set_context(mode=ms.GRAPH_MODE)
    encoder = small_run.LinearEncoder(seed)
    parameters = list(encoder.get_parameters())
    table = parameter_table({p.name: p.shape for p in parameters}, weight_decay=0.1)
    step = TrainStep(encoder, WeightedInfonceCriterion(k), AdamW(parameters, table), clip="norm", clip_at=1.0)
    step.lr.set_data(ms.Tensor(np.array(0.1, np.float32)))
    batches = [tuple(map(ms.Tensor, small_run.batch(0, i))) for i in range(3)]
    numbers = ms.Tensor(np.arange(seed + 6, dtype=np.float32))
    if sys.argv[5:] == ["earlier"]:
        with compiling():
            Later().compile(numbers)
    serve = no_cache if folder == "-" else CompilerCache(Path(folder), {"k": k}).serving
    with serve(*batches[0]) as there:
        step.compile(*batches[0])
    for batch in batches:
        step(*batch)
    weights = b"".join(parameter.asnumpy().tobytes() for parameter in parameters)
    later = Later()(numbers).asnumpy().tolist()
    print(json.dumps({"there": there, "weights": hashlib.sha256(weights).hexdigest(), "later": later}))
