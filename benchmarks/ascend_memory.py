"""Device memory that MindSpore plans for a training step on an Ascend: python benchmarks/ascend_memory.py.

No Ascend is needed, only g++, nm and strings. MindSpore compiles the step with simulated CANN libraries and plans its
memory without running a kernel, one configuration after the other. The memory that CANN itself needs for workspaces and
streams is not included.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "ascend"))

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from mindspore.communication import get_group_size, get_rank, init
from stand_ins import build_stand_ins, obstacle

from mindloc.config import Config
from mindloc.losses.criterion import build_criterion
from mindloc.models.build import build_encoder
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.device import use_device
from mindloc.training.optimizer import AdamW
from mindloc.training.step import TrainStep

PEAK = re.compile(r"Actual peak memory usage \(with fragments\): (\d+)M")
CHIPS = {"fused": "Ascend910B1", "three operators": "Ascend910A"}  # runtime/device.py chooses attention by the chip


@dataclass(frozen=True)
class Case:
    """A training step whose memory is planned."""

    backbone: str
    side_px: int
    precision: str
    attention: str
    recompute: bool  # blocks are computed again in the backward pass instead of kept
    ranks: int
    pairs: int  # per card


class UpdatingStep(TrainStep):
    """A step that always updates. A normal step first checks that the gradient is finite; in simulation this check
    fails, so the memory of the update would not be planned.
    """

    def construct(self, query, reference, mask, *targets):
        scale = self.loss_scale.scale * 1.0
        loss, components, gradients = self.mean_gradients(query, reference, mask, scale, *targets)
        gradients = self.reduce_gradients(gradients)
        unscale = 1.0 / scale
        norm = self.norm(gradients) * unscale
        finite = ops.isfinite(norm)
        self.optimizer(self.clip(gradients, norm, unscale), self.lr)
        self.loss_scale(finite)
        return loss, components, norm, finite, scale


def main() -> None:
    args = _parse()
    if args.case:
        _plan(Case(**json.loads(args.case)))
        return
    if reason := obstacle():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, **build_stand_ins(Path(directory))}
        print("| attention | recompute | ranks | pairs per card | memory per card, GiB |\n|---|---|--:|--:|--:|")
        for case in _cases(args):
            _print(case, _measure(case, environment, directory))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="base")
    parser.add_argument("--side_px", type=int, default=384)
    parser.add_argument("--precision", default="fp16", choices=("fp16", "bf16"))
    parser.add_argument("--batch_size", type=int, default=64, help="pairs over all cards")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case, in a process that finds the simulated libraries
    return parser.parse_args()


def _cases(args: argparse.Namespace) -> list[Case]:
    return [
        Case(args.backbone, args.side_px, args.precision, attention, recompute, ranks, args.batch_size // ranks)
        for ranks in args.ranks
        for attention in CHIPS
        for recompute in (False, True)
    ]


def _measure(case: Case, environment: dict[str, str], directory: str) -> float:
    """GiB that one card needs."""
    environment = {**environment, "MS_SIMULATION_LEVEL": "1", "SIMULATED_CHIP": CHIPS[case.attention], "GLOG_v": "2"}
    if case.ranks > 1:
        environment |= {"RANK_ID": str(case.ranks - 1), "RANK_SIZE": str(case.ranks)}
    command = [sys.executable, str(Path(__file__).resolve()), "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True)
    peaks = PEAK.findall(done.stdout + done.stderr)
    if done.returncode or not peaks:
        sys.exit(f"{case} did not compile:\n{done.stderr[-3000:]}")
    return int(peaks[-1]) / 1024


def _print(case: Case, memory_gib: float) -> None:
    recompute = "yes" if case.recompute else "no"
    print(f"| {case.attention} | {recompute} | {case.ranks} | {case.pairs} | {memory_gib:.1f} |", flush=True)


def _plan(case: Case) -> None:
    """Run one step in this process; MindSpore writes the planned peak into its log when the process ends."""
    use_device("Ascend")
    ms.set_context(jit_config={"jit_level": "O0"})  # the level at which MindSpore itself plans the memory
    cluster = ALONE
    if case.ranks > 1:
        init()
        cluster = Cluster(get_rank(), get_group_size())
    values = {"model.backbone": case.backbone, "train.precision": case.precision, "train.recompute": case.recompute}
    size_px = (case.side_px, case.side_px)
    config = Config().with_values({**values, "data.query_size_px": size_px, "data.reference_size_px": size_px})
    encoder = build_encoder(config)
    optimizer = AdamW(encoder.trainable_params(), config.optimizer)
    step = UpdatingStep(encoder, build_criterion(config), optimizer, config.train, cluster).set_train()
    total = case.pairs * case.ranks
    images = Tensor(np.zeros((case.pairs, 3, case.side_px, case.side_px), np.float32))
    step(images, images, Tensor(np.ones((total, total), bool)), Tensor(np.ones(total, np.float32)))


if __name__ == "__main__":
    main()
