"""A training run of seconds, for the kill tests: linear encoder, images by (epoch, step), epochs of 4, 6 and 5 steps.

``python small_run.py`` reads jobs from standard input, one JSON object per line, and runs each in forked processes, so
that MindSpore is imported once. It answers with one line per job: how the processes ended (0, or minus the signal).
"""

import json
import os
import signal
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train import Callback

from mindloc.config import load_config
from mindloc.config.sections import OptimizerConfig, TrainConfig
from mindloc.losses.criterion import Criterion
from mindloc.losses.infonce import WeightedInfonce
from mindloc.runtime.run_directory import RunDirectory
from mindloc.training.checkpointing import load_state_into, load_weights_into
from mindloc.training.optimizer import AdamW
from mindloc.training.resume import Progress, ResumePoint, find_resume_point
from mindloc.training.step import TrainStep
from mindloc.training.trainer import Training, train
from mindloc.vocabulary import GLOBAL

STEPS = (4, 6, 5)
BATCH, SIDE, WIDTH = 3, 4, 5
PRECISION = "fp16"  # of the step only: then the loss scale doubles every seventh step and must be resumed


class LinearEncoder(nn.Cell):
    """An encoder that multiplies both views by one matrix."""

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
    """Source of a GeneratorDataset: one epoch per iteration, from the given epoch and step."""

    def __init__(self, first_epoch: int, first_step: int):
        self.epoch, self.step = first_epoch, first_step

    def __iter__(self):
        epoch, first = self.epoch, self.step
        self.epoch, self.step = epoch + 1, 0
        for step in range(first, STEPS[epoch % len(STEPS)]):
            yield batch(epoch, step)


class SmallData:
    def __init__(self, progress: Progress):
        self.bad_images = {}
        columns = ["query", "reference", "mask", "iou"]
        batches = Batches(progress.epoch, progress.step_in_epoch)
        self.dataset = ds.GeneratorDataset(batches, columns, shuffle=False)
        self.dataset.dataset_size = self.steps(progress.epoch) - progress.step_in_epoch

    def steps(self, epoch: int) -> int:
        return STEPS[epoch % len(STEPS)]

    def report(self, epoch: int) -> dict[str, int]:
        return {"kept": BATCH * self.steps(epoch)}

    @contextmanager
    def clear_errors(self):
        yield


def make_step(**options) -> TrainStep:
    encoder = LinearEncoder()
    optimizer = AdamW(encoder.trainable_params(), OptimizerConfig(weight_decay=0.1, clip="norm", clip_at=1.0))
    options = {"precision": PRECISION, "loss_scale_init": 8.0, "loss_scale_window": 7, **options}
    return TrainStep(encoder, Criterion({GLOBAL: WeightedInfonce()}), optimizer, TrainConfig(**options))


def score(directory: Path) -> dict[str, float]:
    """Made-up scores of an evaluation: the second epoch is the best."""
    return {"recall@1": {"zero_shot": 0.1, "e1": 0.2, "e2": 0.5}.get(directory.name, 0.3)}


class Slow(Callback):
    """Slows the run down, so that random kills occur during the training."""

    def on_train_step_end(self, run_context):
        time.sleep(0.01)


def run(directory: Path, epochs: int = 3, callbacks=(), **settings) -> Progress:
    """Start a run, or resume the one in the directory."""
    run_directory, point, step = open_run(directory)
    settings = {"checkpoint_every_steps": 3, **settings}
    training = make_training(point, step, epochs, settings, make_data=SmallData, evaluate=score)
    return train(training, run_directory, callbacks)


def open_run(directory: Path) -> tuple[RunDirectory, ResumePoint | None, TrainStep]:
    """The run in the directory or a new one, its resume point, and a step in that state."""
    is_new = not (directory / "config.yaml").exists()
    run_directory = RunDirectory(directory) if is_new else RunDirectory.open(directory)
    if is_new:
        run_directory.write_config("a: 1\n")
    point, step = find_resume_point(run_directory), make_step()
    if point:
        load_weights_into(step, point.weights)
        load_state_into(step, point.state)
    return run_directory, point, step


def make_training(point: ResumePoint | None, step: TrainStep, epochs: int, settings: dict, **own) -> Training:
    """A training with the given data, evaluation and neighbors."""
    settings = {"epochs": epochs, "batch_size": BATCH, "keep_checkpoints": 2, "log_every_steps": 2, **settings}
    overrides = [f"train.{key}={json.dumps(value)}" for key, value in settings.items()]
    config = load_config(None, [*overrides, "optimizer.lr=0.01", "schedule.warmup_epochs=0.5"])
    return Training(config, step, point=point, **own)


def serve(run) -> None:
    """Answer jobs from standard input until it is closed; ``run`` takes a directory and callbacks."""
    for line in sys.stdin:
        print(json.dumps(_rivals(run, json.loads(line))), flush=True)


def _rivals(run, job: dict) -> list[int]:
    """Start several processes that train one run, and kill one of them: that which has the lock, if one has it."""
    children = [_fork(run, job) for _ in range(job.get("rivals", 1))]
    if "kill_after_s" in job:
        time.sleep(job["kill_after_s"])
        with suppress(OSError, ValueError):
            owner = int((Path(job["directory"]) / ".lock").read_text().split()[1])
            children.sort(key=lambda child: child != owner)
        os.kill(children[0], signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _fork(run, job: dict) -> int:
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(job.get("environment", {}))
            ms.set_context(mode=ms.GRAPH_MODE)
            with open(job["output"], "a") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            run(Path(job["directory"]), callbacks=[Slow()])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


if __name__ == "__main__":
    serve(run)
