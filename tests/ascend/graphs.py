"""Compile mindloc's graphs for a simulated Ascend: ``python graphs.py GRAPH...`` prints a line of JSON for each.

A GRAPH is WHAT:PRECISION:LEVEL. LEVEL is a jit_level. WHAT is one of these:

- train, extract: the default encoder;
- train.cosine, train.infonce (its losses), extract.stages: a two-stage encoder;
- train.plain, extract.plain: a plain ViT whose positions are resampled;
- train.parts, train.cached: a batch in parts, without and with shared negatives.

MS_SIMULATION_LEVEL 0 runs the front end only; 1 also selects kernels and plans memory, without launching a kernel. With
RANK_ID and RANK_SIZE the process is one rank of several. MindSpore must be set to write its graphs (conftest.py).
"""

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.communication import get_group_size, get_rank, init

from mindloc.config import Config
from mindloc.losses.criterion import build_criterion
from mindloc.models import vit_plain, vit_rope
from mindloc.models.build import build_encoder
from mindloc.models.encoder import PlainOutputs
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.device import use_device
from mindloc.training.optimizer import AdamW
from mindloc.training.step import TrainStep

PAIRS, SIDE, BLOCKS = 4, 48, 2
PLAIN = "vit_tiny_patch16_224"
vit_rope.SIZES["tiny"] = vit_rope.VitSize(width=128, depth=BLOCKS, heads=2)  # six blocks compile three times as long
vit_plain.WIDTHS["tiny"] = (128, BLOCKS, 2)

OPERATOR = re.compile(r"^\s*%\d+\(.*?\) = (?:PrimFunc_)?(\w+)\(", re.MULTILINE)


def join() -> Cluster:
    """The rank given by the environment; in a simulation the other ranks do not have to be started."""
    if "RANK_SIZE" not in os.environ:
        return ALONE
    init()
    return Cluster(get_rank(), get_group_size())


def config_of(kind: str, precision: str) -> Config:
    values = {"model.backbone": PLAIN if kind == "plain" else "tiny", "train.precision": precision}
    values |= {"data.query_size_px": (SIDE, SIDE), "data.reference_size_px": (SIDE, SIDE)}
    if kind in ("parts", "cached"):
        values |= {"train.batch_size": PAIRS, "train.accumulate": PAIRS, "train.grad_cache": kind == "cached"}
    elif kind and kind != "plain":
        values |= {"head.name": "two_stage", "head.channels": 32, "head.centroids": True}
    if kind == "infonce":
        values |= {"loss.omega": "weighted_infonce", "loss.phi": "weighted_infonce"}
    return Config().with_values(values)


def images() -> Tensor:
    return Tensor(np.zeros((PAIRS, 3, SIDE, SIDE), np.float32))


def train(config: Config, cluster: Cluster) -> tuple[nn.Cell, list[Tensor]]:
    encoder = build_encoder(config)
    optimizer = AdamW(encoder.trainable_params(), config.optimizer)
    step = TrainStep(encoder, build_criterion(config), optimizer, config.train, cluster)
    total = PAIRS * cluster.size
    weight, mask = np.ones(total, np.float32), np.ones((total, total), bool)
    return step.set_train(), [images(), images(), Tensor(mask), Tensor(weight)]


def extract(config: Config, cluster: Cluster) -> tuple[nn.Cell, list[Tensor]]:
    view = build_encoder(config).side_encoder("query")
    return PlainOutputs(view, *view.outputs).set_train(False), [images()]


def compiled(graph: str, cluster: Cluster) -> dict:
    """Compile a graph; returns its name, rank, number of parameters, and how often the front end has each operator."""
    what, precision, level = graph.split(":")
    ms.set_context(jit_config={"jit_level": level})
    what, _, kind = what.partition(".")
    cell, inputs = {"train": train, "extract": extract}[what](config_of(kind, precision), cluster)
    earlier = _written()
    if os.environ["MS_SIMULATION_LEVEL"] == "0":
        cell.compile(*inputs)
    else:
        cell(*inputs)
    [written] = _written() - earlier
    operators = Counter(OPERATOR.findall(written.read_text(encoding="utf-8")))
    return {"graph": graph, "rank": cluster.rank, "weights": len(cell.trainable_params()), "operators": operators}


def _written() -> set[Path]:
    return set(Path(os.environ["MS_DEV_SAVE_GRAPHS_PATH"]).rglob("*_validate_*.ir"))


if __name__ == "__main__":
    use_device("Ascend")
    cluster = join()
    for graph in sys.argv[1:]:
        print(json.dumps(compiled(graph, cluster)), flush=True)
