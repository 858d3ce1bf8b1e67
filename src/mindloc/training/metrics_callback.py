"""Writes one line per step and per epoch to metrics.jsonl."""

import time
from collections.abc import Callable
from typing import Any

from mindspore.train import Callback, RunContext

from mindloc.runtime.compilation import compiled_s
from mindloc.runtime.run_folder import MetricsLog
from mindloc.training.resume import Progress
from mindloc.training.schedule_callback import ScheduleCallback


class MetricsCallback(Callback):
    """Fetches the outputs of the steps from the device in blocks, so that the device need not wait for the log.

    Args:
        component_names: of the loss, in the order in which the step returns them.
        pictures_per_step: both views, all ranks.
        expect_overflow: True with a dynamic loss scale, whose skipped steps are no cause for a warning.
        epoch_facts: epoch (from 0) -> plain values for its line, e.g. what the sampler kept.
        warn: called with each warning's text.
    """

    def __init__(
        self,
        log: MetricsLog,
        progress: Progress,
        schedule: ScheduleCallback,
        every_steps: int,
        component_names: tuple[str, ...],
        pictures_per_step: int,
        expect_overflow: bool = False,
        epoch_facts: Callable[[int], dict[str, Any]] | None = None,
        warn: Callable[[str], None] = print,
    ):
        super().__init__()
        self.log, self.progress, self.schedule = log, progress, schedule
        self.every_steps, self.component_names = every_steps, component_names
        self.pictures_per_step = pictures_per_step
        self.expect_overflow, self.epoch_facts, self.warn = expect_overflow, epoch_facts, warn
        self.latest: dict[str, Any] = {}  # the last line written, for the console
        self._waiting: list[tuple[int, int, float, tuple]] = []  # epoch, step, lr, outputs
        self._since = self._epoch_since = time.perf_counter()
        self._compiled_before_s = compiled_s()

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        self._since = self._epoch_since = time.perf_counter()
        self._compiled_before_s = compiled_s()

    def on_train_step_end(self, run_context: RunContext) -> None:
        outputs = run_context.original_args().net_outputs
        self._waiting.append((self.progress.epoch + 1, self.progress.step, self.schedule.value, outputs))
        if self.progress.step % self.every_steps == 0:
            self.flush()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        self.flush()
        if self.progress.inside_epoch:
            return
        steps, means = self._epoch_means()
        epoch = self.progress.epoch
        self.log.append(
            "epoch",
            epoch=epoch,
            step=self.progress.step,
            steps=steps,
            skipped_steps=self.progress.skipped_steps,
            means=means,
            **(self.epoch_facts(epoch - 1) if self.epoch_facts else {}),
            epoch_s=time.perf_counter() - self._epoch_since,
            compile_s=compiled_s() - self._compiled_before_s,
        )

    def flush(self) -> None:
        """Bring every finished step into the log and into the counters of ``progress``."""
        records = [self._record(*waiting) for waiting in self._waiting]  # waits for the device
        now = time.perf_counter()
        step_s = (now - self._since) / max(len(records), 1)
        self._waiting, self._since = [], now
        for record in records:
            self._count(record)
            self.log.append("step", **record, step_s=step_s, images_per_s=self.pictures_per_step / step_s)
            self.latest = {**record, "step_s": step_s, "images_per_s": self.pictures_per_step / step_s}

    def restart_clock(self) -> None:
        """Leave out of the step times what happened since the last step, e.g. the writing of a checkpoint."""
        self._since = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Leave so much of the time since the last step out of the step times, e.g. what compiling took."""
        self._since += seconds

    def _record(self, epoch: int, step: int, lr: float, outputs: tuple) -> dict[str, Any]:
        loss, components, norm, finite, loss_scale = outputs
        return {
            "epoch": epoch,
            "step": step,
            "loss": float(loss.asnumpy()),
            "components": {
                name: float(value.asnumpy()) for name, value in zip(self.component_names, components, strict=True)
            },
            "lr": lr,
            "gradient_norm": float(norm.asnumpy()),
            "loss_scale": float(loss_scale.asnumpy()),
            "finite": bool(finite.asnumpy()),
        }

    def _epoch_means(self) -> tuple[int, dict[str, float]]:
        """Number of steps of the epoch, and means over those that were not skipped; begins to count anew."""
        sums, self.progress.epoch_sums = dict(self.progress.epoch_sums), {}
        steps, skipped = sums.pop("steps", 0.0), sums.pop("skipped", 0.0)
        return int(steps), {name: value / max(steps - skipped, 1.0) for name, value in sums.items()}

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
                "if this goes on, lower optimizer.lr or set optimizer.clip=norm"
            )
            self.log.append("warning", step=record["step"], text=text)
            self.warn(text)
