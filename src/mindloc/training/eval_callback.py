"""Evaluates the encoder before training and after epochs."""

import time
from collections.abc import Callable, Mapping

from mindspore import nn
from mindspore.train import Callback, RunContext

from mindloc.inference.engine import evaluating
from mindloc.runtime.run_folder import MetricsLog
from mindloc.training.console import Console
from mindloc.training.resume import Progress

SCORE = "recall@1"  # the metric that decides which epoch is best and stands in checkpoint names; a fraction

# None where another rank has the scores
EvaluateFunction = Callable[[nn.Cell, str], Mapping[str, float] | None]


class EvalCallback(Callback):
    """Calls ``evaluate(encoder, tag)`` and logs what it returns.

    Args:
        evaluate: gives metrics by name, ``recall@1`` among them; ``tag`` is "zero_shot" or like "e3".
        log, console: None on a rank that writes nothing, whose ``evaluate`` gives no metrics either.
        every_epochs: 0 means never; the last epoch is always evaluated otherwise.
        zero_shot: also before the first step of a run.
    """

    def __init__(
        self,
        evaluate: EvaluateFunction,
        encoder: nn.Cell,
        log: MetricsLog | None,
        console: Console | None,
        progress: Progress,
        epochs: int,
        every_epochs: int = 1,
        zero_shot: bool = True,
    ):
        super().__init__()
        self.evaluate, self.encoder, self.log, self.console = evaluate, encoder, log, console
        self.progress, self.epochs, self.every_epochs, self.zero_shot = progress, epochs, every_epochs, zero_shot
        self.metrics: dict[str, float] | None = None  # of the epoch that just ended; None: it was not evaluated

    def on_train_begin(self, run_context: RunContext) -> None:
        if self.zero_shot and self.progress.step == 0:
            self._run("zero_shot")

    def on_train_step_end(self, run_context: RunContext) -> None:
        self.metrics = None

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        epoch = self.progress.epoch
        if self.progress.inside_epoch:
            return
        if self.every_epochs and (epoch % self.every_epochs == 0 or epoch == self.epochs):
            self._run(f"e{epoch}")

    def _run(self, tag: str) -> None:
        started = time.perf_counter()
        with evaluating(self.encoder):
            scores = self.evaluate(self.encoder, tag)
        if scores is not None:
            self._record(tag, scores, time.perf_counter() - started)

    def _record(self, tag: str, scores: Mapping[str, float], seconds: float) -> None:
        self.metrics = {name: float(value) for name, value in scores.items()}
        self.log.append(
            "evaluation",
            tag=tag,
            epoch=self.progress.epoch,
            step=self.progress.step,
            metrics=self.metrics,
            evaluation_s=seconds,
        )
        values = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        self.console.say(f"evaluation {tag}: {values}  ({seconds:.1f} s)")
