"""Callbacks for ``Model.train``: progress, learning rate, report, evaluation, search for hard negatives.

Saving is in checkpointing.py. The callbacks share the counters of ``Progress``. Results for other callbacks, also the
user's, are in MindSpore's ``original_args()``: ``learning_rate`` of the step, ``eval_results`` of the epoch. They
run in the order of ``trainer._callbacks``, so epoch_s of the report excludes the callbacks after it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.train import Callback, RunContext

from mindloc.config.sections import TrainConfig
from mindloc.data.hard_negatives import NeighborTables
from mindloc.errors import DataError
from mindloc.inference.engine import evaluating
from mindloc.runtime.compilation import compiled_s
from mindloc.runtime.process import fault_point, process_age_s
from mindloc.training.dataset import TrainData
from mindloc.training.reporting import Reporter, describe_step
from mindloc.training.resume import Progress
from mindloc.training.schedule import Schedule
from mindloc.training.step import TrainStep

SCORE = "recall@1"  # metric that selects the best epoch and is part of checkpoint names; a fraction

# directory for the report, named "zero_shot" or by epoch ("e3") -> metrics of the encoder by name, including ``SCORE``;
# ranks other than 0 have no directory and get no metrics
EvaluateFunction = Callable[[Path | None], Mapping[str, float] | None]


class ProgressCallback(Callback):
    """Counts steps and epochs.

    MindSpore uses the number of steps of the first epoch for all epochs, and counts the steps of a resumed run from 0.
    This callback corrects the numbers for MindSpore's own callbacks.

    Args:
        steps_of: epoch (from 0) -> its number of steps.
    """

    def __init__(self, progress: Progress, steps_of: Callable[[int], int]):
        super().__init__()
        self.progress, self.steps_of = progress, steps_of

    def on_train_begin(self, run_context: RunContext) -> None:
        run_context.original_args().cur_step_num = self.progress.step

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        run_context.original_args().batch_num = self.steps_of(self.progress.epoch)

    def on_train_step_end(self, run_context: RunContext) -> None:
        self.progress.step += 1
        self.progress.step_in_epoch += 1
        if self.progress.step_in_epoch == max(1, run_context.original_args().batch_num // 2):
            fault_point("epoch.mid")

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        done, steps = self.progress.step_in_epoch, run_context.original_args().batch_num
        if done < steps and run_context.get_stop_requested():
            return
        if done != steps:
            raise DataError(f"epoch {self.progress.epoch + 1} had {done} steps, but its sampler planned {steps}")
        self.progress.epoch += 1
        self.progress.step_in_epoch = 0


class ScheduleCallback(Callback):
    """Sets the learning rate of each step by the schedule and the number of steps of its epoch.

    Args:
        lr: learning-rate parameter of the step.
        steps_of: epoch (from 0) -> its number of steps.
    """

    def __init__(self, progress: Progress, steps_of: Callable[[int], int], schedule: Schedule, lr: ms.Parameter):
        super().__init__()
        self.progress, self.steps_of, self.schedule, self.lr = progress, steps_of, schedule, lr

    def on_train_step_begin(self, run_context: RunContext) -> None:
        epoch = self.progress.epoch
        lr = self.schedule.at_step(epoch, self.progress.step_in_epoch, self.steps_of(epoch))
        ops.assign(self.lr, Tensor(lr, ms.float32))  # set_data has no effect on a graph that has run
        run_context.original_args().learning_rate = lr


class ReportCallback(Callback):
    """Prints and records the results of the steps, the use of pairs and images, and times.

    Outputs of the steps are fetched from the device in blocks, so that the device does not wait for the log.

    Args:
        preparation: description of what this process did before the training.
    """

    def __init__(
        self,
        reporter: Reporter,
        progress: Progress,
        data: TrainData,
        step: TrainStep,
        config: TrainConfig,
        preparation: str = "imports and preparation",
    ):
        super().__init__()
        self.reporter, self.progress, self.data, self.config = reporter, progress, data, config
        self.component_names, self.expect_overflow = step.component_names, step.loss_scale.dynamic
        self.preparation = preparation
        self._latest: dict[str, Any] = {}  # the last record of a step
        self._waiting: list[tuple[int, int, float, tuple]] = []  # epoch, step, lr, outputs
        self._clock, self._epoch_clock = _Clock(), _Clock()
        self._sampling: Any = None  # the sampling report that was printed last
        self._known_bad: set[str] = set()
        self._start_age_s = self._first_step_age_s = 0.0  # of this process
        self._is_first_step = True

    def on_train_begin(self, run_context: RunContext) -> None:
        self._start_age_s = process_age_s()

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        self._clock, self._epoch_clock = _Clock(), _Clock()
        epoch, report = self.progress.epoch, self.data.report(self.progress.epoch)
        title = f"epoch {epoch + 1}/{self.config.epochs}"
        self.reporter.start_bar(title, self.data.steps(epoch), self.progress.step_in_epoch)
        if report != self._sampling:
            self.reporter.say(str(report))
            self._sampling = report

    def on_train_step_begin(self, run_context: RunContext) -> None:
        if self._is_first_step:
            self._first_step_age_s = process_age_s()
            self.reporter.say("the first step compiles the graph, which takes seconds to a minute")

    def on_train_step_end(self, run_context: RunContext) -> None:
        args, progress = run_context.original_args(), self.progress
        self._waiting.append((progress.epoch + 1, progress.step, args.learning_rate, args.net_outputs))
        is_due = progress.step % self.config.log_every_steps == 0
        if is_due:
            self.flush()
        self.reporter.advance_bar(leave_out_time=self._is_first_step)
        if is_due:
            self._say_step(progress.epoch, progress.step_in_epoch)
        if self._is_first_step:
            args.net_outputs[0].asnumpy()  # waits for the device
            self._say_start()
        self._is_first_step = False

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        self.flush()
        epoch, latest = self.progress.epoch, self._latest
        if not self.progress.inside_epoch:
            self._record_epoch()
        self.reporter.end_bar()
        is_printed = not latest or latest["step"] % self.config.log_every_steps == 0
        if not is_printed and not self.progress.inside_epoch:
            self._say_step(epoch - 1, self.data.steps(epoch - 1))
        self._warn_of_bad_images()

    def on_train_end(self, run_context: RunContext) -> None:
        compiled, whole = compiled_s(), process_age_s()
        self.reporter.say(f"compiling took {compiled:.1f} s of {whole:.1f} s, {100 * compiled / whole:.0f} %")

    def flush(self) -> None:
        """Add all completed steps to the log and to the counters of ``progress``."""
        records = [self._record_of(*waiting) for waiting in self._waiting]  # waits for the device
        step_s = self._clock.passed_s() / max(len(records), 1)
        self._waiting, self._clock = [], _Clock()
        for record in records:
            self._count(record)
            self._latest = {**record, "step_s": step_s, "images_per_s": 2 * self.config.batch_size / step_s}
            self.reporter.record("step", **self._latest)

    def restart_clock(self) -> None:
        """Exclude the time since the last step, such as for a checkpoint, from the step times."""
        self._clock = _Clock()

    def _record_of(self, epoch: int, step: int, lr: float, outputs: tuple) -> dict[str, Any]:
        loss, components, norm, finite, loss_scale = outputs
        components = zip(self.component_names, components, strict=True)
        return {
            "epoch": epoch,
            "step": step,
            "loss": float(loss.asnumpy()),
            "components": {name: float(value.asnumpy()) for name, value in components},
            "lr": lr,
            "gradient_norm": float(norm.asnumpy()),
            "loss_scale": float(loss_scale.asnumpy()),
            "finite": bool(finite.asnumpy()),
        }

    def _count(self, record: dict[str, Any]) -> None:
        sums = self.progress.epoch_sums
        sums["steps"] = sums.get("steps", 0.0) + 1
        if record["finite"]:
            for name, value in {"loss": record["loss"], **record["components"]}.items():
                sums[name] = sums.get(name, 0.0) + value
        else:
            sums["skipped"] = sums.get("skipped", 0.0) + 1
            self.progress.skipped_steps += 1
        record["skipped_steps"] = self.progress.skipped_steps
        if not record["finite"] and not self.expect_overflow:
            text = (
                f"step {record['step']}: the gradient is not finite (loss {record['loss']}), the update was skipped; "
                "if this continues, lower optimizer.lr or set optimizer.clip=norm"
            )
            self.reporter.warn(text, record["step"])

    def _record_epoch(self) -> None:
        """Record the means over the steps that were not skipped, and reset the sums."""
        sums, self.progress.epoch_sums = dict(self.progress.epoch_sums), {}
        steps, skipped = sums.pop("steps", 0.0), sums.pop("skipped", 0.0)
        epoch = self.progress.epoch
        report = self.data.report(epoch - 1)
        self.reporter.record(
            "epoch",
            epoch=epoch,
            step=self.progress.step,
            steps=int(steps),
            skipped_steps=self.progress.skipped_steps,
            means={name: value / max(steps - skipped, 1.0) for name, value in sums.items()},
            sampling=asdict(report) if is_dataclass(report) else report,
            epoch_s=self._epoch_clock.passed_s(with_compiling=True),
            compile_s=self._epoch_clock.compiled_s(),
        )

    def _say_step(self, epoch: int, step_in_epoch: int) -> None:
        epochs, steps = self.config.epochs, self.data.steps(epoch)
        left = (epochs - epoch) * steps - step_in_epoch  # if later epochs are as long as this one
        place = f"epoch {epoch + 1}/{epochs} step {step_in_epoch}/{steps}"
        self.reporter.say(describe_step(place, self._latest, left * self._latest["step_s"]))

    def _say_start(self) -> None:
        age_s, compiled = process_age_s(), self._epoch_clock.compiled_s()
        before = self._first_step_age_s - self._start_age_s
        self.reporter.say(
            f"first step done {age_s:.1f} s after the start: {self._start_age_s:.1f} s {self.preparation}, "
            f"{before:.1f} s evaluation and first batch, {compiled:.1f} s compiling, "
            f"{age_s - self._first_step_age_s - compiled:.1f} s the step"
        )

    def _warn_of_bad_images(self) -> None:
        bad, step = self.data.bad_images, self.progress.step
        for path in bad.keys() - self._known_bad:
            self.reporter.warn(bad[path], step)
        if bad.keys() - self._known_bad:
            self.reporter.warn(f"skipped images so far: {len(bad)}; the loss ignores their pairs", step)
        self._known_bad = set(bad)


class _Clock:
    """Seconds since its creation, with and without compile time."""

    def __init__(self) -> None:
        self._start, self._compiled_before = time.perf_counter(), compiled_s()

    def compiled_s(self) -> float:
        return compiled_s() - self._compiled_before

    def passed_s(self, with_compiling: bool = False) -> float:
        passed = time.perf_counter() - self._start
        return passed if with_compiling else passed - self.compiled_s()


class EvalCallback(Callback):
    """Evaluates the encoder before the first step of a run and after epochs; sets the epoch's ``eval_results``.

    Args:
        reports: directory of the run's reports; None on ranks other than 0.
    """

    def __init__(
        self,
        evaluate: EvaluateFunction,
        encoder: nn.Cell,
        reports: Path | None,
        reporter: Reporter,
        progress: Progress,
        config: TrainConfig,
    ):
        super().__init__()
        self.evaluate, self.encoder, self.reports, self.reporter = evaluate, encoder, reports, reporter
        self.progress, self.config = progress, config

    def on_train_begin(self, run_context: RunContext) -> None:
        if self.config.zero_shot_eval and self.progress.step == 0:
            self._run("zero_shot")

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        epoch, every = self.progress.epoch, self.config.eval_every_epochs
        if every and not self.progress.inside_epoch and (epoch % every == 0 or epoch == self.config.epochs):
            metrics = self._run(f"e{epoch}")
            if metrics is not None:
                run_context.original_args().eval_results = metrics  # MindSpore removes them after the epoch

    def _run(self, tag: str) -> dict[str, float] | None:
        started = time.perf_counter()
        with evaluating(self.encoder):
            scores = self.evaluate(self.reports and self.reports / tag)
        if scores is None:
            return None
        metrics, seconds = {name: float(value) for name, value in scores.items()}, time.perf_counter() - started
        epoch, step = self.progress.epoch, self.progress.step
        self.reporter.record("evaluation", tag=tag, epoch=epoch, step=step, metrics=metrics, evaluation_s=seconds)
        values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.reporter.say(f"evaluation {tag}: {values}  ({seconds:.1f} s)")
        return metrics


class NeighborsCallback(Callback):
    """Searches the neighbors for hard negatives before each epoch that needs a new table.

    It runs at the end of an epoch, so that the checkpoint contains the table for the next epoch. Only the loader's
    thread waits for the table (``NeighborTables.wait``). For the first epoch, which the loader plans when it is built,
    ``find`` is called directly.

    Args:
        refresh: called with an epoch (from 0); adds its table to ``tables``.
    """

    def __init__(
        self,
        tables: NeighborTables,
        refresh: Callable[[int], None],
        encoder: nn.Cell,
        reporter: Reporter,
        progress: Progress,
        epochs: int,
    ):
        super().__init__()
        self.tables, self.refresh, self.encoder = tables, refresh, encoder
        self.reporter, self.progress, self.epochs = reporter, progress, epochs

    def on_train_end(self, run_context: RunContext) -> None:
        # Model.train requests `epochs` epochs from the data set, not the remaining ones, so the loader of a resumed run
        # waits for an epoch that is never trained; release it before MindSpore joins its thread
        self.tables.close()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        self.find()

    def find(self) -> None:
        """Search the neighbors for the next epoch, unless there is no next epoch or it needs no new table."""
        epoch = self.progress.epoch
        if self.progress.inside_epoch or epoch >= self.epochs or not self.tables.lacks(epoch):
            return
        started = time.perf_counter()
        with evaluating(self.encoder):
            self.refresh(epoch)
        seconds = time.perf_counter() - started
        self.reporter.record("neighbors", epoch=epoch, step=self.progress.step, neighbors_s=seconds)
        self.reporter.say(f"neighbors found for epoch {epoch + 1}  ({seconds:.1f} s)")
