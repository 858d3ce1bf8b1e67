"""A training of seconds for the kill tests: a linear encoder, pictures drawn from (epoch, step), epochs of 4, 6 and 5.

``python small_run.py`` reads jobs from standard input, one JSON object per line, and runs each in a forked process, so
that MindSpore is imported once. It answers with one line per job: how the process ended (0, or minus the signal).
"""

import json
import os
import signal
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train import Callback

from mindloc.losses.criterion import Criterion
from mindloc.losses.infonce import WeightedInfonce
from mindloc.runtime.run_folder import RunFolder
from mindloc.training.loop import LoopSettings, Training, run_training
from mindloc.training.optimizer import AdamW, parameter_table
from mindloc.training.resume import Progress, ResumePoint, find_resume_point
from mindloc.training.schedule import Schedule
from mindloc.training.state import load_state_into, load_weights_into
from mindloc.training.step import LossScale, TrainStep
from mindloc.vocabulary import GLOBAL

STEPS = (4, 6, 5)
BATCH, SIDE, WIDTH = 3, 4, 5


class LinearEncoder(nn.Cell):
    """Both views through one matrix."""

    compared_outputs = ("query.global", "reference.global")

    def __init__(self, seed: int = 0):
        super().__init__()
        draw = np.random.RandomState(seed).standard_normal((3 * SIDE * SIDE, WIDTH)).astype(np.float32)
        self.weight = Parameter(Tensor(draw), name="weight")
        self.log_logit_scale = Parameter(Tensor(np.array([2.0], np.float32)), name="log_logit_scale")

    def construct(self, query, reference):
        return {
            "query.global": ops.matmul(query.reshape(query.shape[0], -1), self.weight),
            "reference.global": ops.matmul(reference.reshape(reference.shape[0], -1), self.weight),
            "logit_scale": ops.exp(self.log_logit_scale),
        }


def batch(epoch: int, step: int, rows: int = BATCH) -> tuple[np.ndarray, ...]:
    random = np.random.RandomState(1000 * epoch + step)
    query, reference = random.standard_normal((2, rows, 3, SIDE, SIDE)).astype(np.float32)
    iou = random.uniform(0.2, 0.9, rows).astype(np.float32)
    return query, reference, np.ones((rows, rows), bool), iou


class Batches:
    """Source of a GeneratorDataset: one epoch per iteration, going on where the run stands."""

    def __init__(self, first_epoch: int, first_step: int):
        self.epoch, self.step = first_epoch, first_step

    def __iter__(self):
        epoch, first = self.epoch, self.step
        self.epoch, self.step = epoch + 1, 0
        for step in range(first, STEPS[epoch % len(STEPS)]):
            yield batch(epoch, step)


class SmallData:
    def __init__(self, first_epoch: int = 0, first_step: int = 0):
        self.bad_pictures = {}
        columns = ["query", "reference", "mask", "iou"]
        self.dataset = ds.GeneratorDataset(Batches(first_epoch, first_step), columns, shuffle=False)
        self.dataset.dataset_size = self.steps(first_epoch) - first_step

    def steps(self, epoch: int) -> int:
        return STEPS[epoch % len(STEPS)]

    def report(self, epoch: int) -> dict[str, int]:
        return {"kept": BATCH * self.steps(epoch)}

    @contextmanager
    def clear_errors(self):
        yield


def make_step(**options) -> TrainStep:
    encoder = LinearEncoder()
    parameters = list(encoder.get_parameters())
    table = parameter_table({p.name: p.shape for p in parameters}, weight_decay=0.1)
    # a scale that doubles every seventh step: it must go on where it was
    options = {"clip": "norm", "clip_at": 1.0, "loss_scale": LossScale(8.0, window=7, dynamic=True), **options}
    return TrainStep(encoder, Criterion({GLOBAL: WeightedInfonce()}), AdamW(parameters, table), **options)


def score(encoder: nn.Cell, tag: str) -> dict[str, float]:
    """A stand-in for an evaluation that rises and falls: the second epoch is the best."""
    return {"recall@1": {"zero_shot": 0.1, "e1": 0.2, "e2": 0.5}.get(tag, 0.3)}


class Slow(Callback):
    """Stretches the run, so that random kills meet it at work."""

    def on_train_step_end(self, run_context):
        time.sleep(0.01)


def run(folder: Path, epochs: int = 3, callbacks=(), **settings) -> Progress:
    """Begin, or go on when the folder holds a run."""
    run_folder, point, step = begin(folder)
    settings = {"checkpoint_every_steps": 3, **settings}
    training = make_training(run_folder, point, step, epochs, settings, make_data=SmallData, evaluate=score)
    return run_training(training, callbacks)


def begin(folder: Path) -> tuple[RunFolder, ResumePoint | None, TrainStep]:
    """The folder's run or a new one, where it goes on, and a step that stands there."""
    begins = not (folder / "config.yaml").exists()
    run_folder = RunFolder(folder) if begins else RunFolder.open(folder)
    if begins:
        run_folder.write_config("a: 1\n")
    else:
        run_folder.remove_leftovers()
    point, step = find_resume_point(run_folder), make_step()
    if point:
        load_weights_into(step, point.weights)
        load_state_into(step, point.state)
    return run_folder, point, step


def make_training(
    run_folder: RunFolder, point: ResumePoint | None, step: TrainStep, epochs: int, settings: dict, **own
) -> Training:
    """A training whose data, evaluation and neighbors are its ``own``."""
    return Training(
        run=run_folder,
        step=step,
        schedule=Schedule(lr=0.01, epochs=epochs, warmup_epochs=0.5),
        settings=LoopSettings(
            epochs=epochs, batch_size=BATCH, **{"keep_checkpoints": 2, "log_every_steps": 2, **settings}
        ),
        config={"model": {"backbone": "linear"}},
        facts={"seed": 0, "world_size": 1},
        code={},
        progress=point.progress if point else Progress(),
        metrics_lines=point.state.facts["lines"] if point else 0,
        **own,
    )


def _fork(job: dict) -> int:
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(job.get("environment", {}))
            ms.set_context(mode=ms.GRAPH_MODE)
            with open(job["output"], "a") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            run(Path(job["folder"]), callbacks=[Slow()])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if "kill_after_s" in job:
        time.sleep(job["kill_after_s"])
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        print(_fork(json.loads(line)), flush=True)
