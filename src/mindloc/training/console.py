"""What a person reads while a model trains: lines anywhere, and a progress bar on a terminal."""

import sys
from collections.abc import Callable

from mindspore.train import Callback, RunContext
from tqdm import tqdm

from mindloc.training.metrics_callback import MetricsCallback
from mindloc.training.resume import Progress


class Console:
    """Prints lines above a progress bar, if there is one, and hands each to a log."""

    def __init__(self, log: Callable[[str], None] | None = None):
        """``log``: gets every line too, e.g. ``RunFolder.log``."""
        self._log = log
        self.bar: tqdm | None = None

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)
        if self._log is not None:
            self._log(text)

    def close(self) -> None:
        """Take the progress bar away; also after an error, so that its message stands on a line of its own."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def restart_bar(self) -> None:
        """Let the bar's rate leave out the time since its last step."""
        if self.bar is not None:
            self.bar.unpause()

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")


class ConsoleCallback(Callback):
    """One line every few steps: loss, learning rate, step time, pictures per second, time left."""

    def __init__(
        self,
        console: Console,
        progress: Progress,
        metrics: MetricsCallback,
        epochs: int,
        every_steps: int,
        steps_of: Callable[[int], int],
    ):
        super().__init__()
        self.console, self.progress, self.metrics = console, progress, metrics
        self.epochs, self.every_steps, self.steps_of = epochs, every_steps, steps_of

    def on_train_begin(self, run_context: RunContext) -> None:
        self.console.say("the first step compiles the graph: seconds for a small encoder, a minute for a large one")

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        if sys.stderr.isatty():
            epoch = self.progress.epoch
            self.console.bar = tqdm(
                total=self.steps_of(epoch),
                initial=self.progress.step_in_epoch,
                desc=f"epoch {epoch + 1}/{self.epochs}",
                unit="step",
                leave=False,
            )

    def on_train_step_end(self, run_context: RunContext) -> None:
        if self.console.bar is not None:
            self.console.bar.update()
        if self.progress.step % self.every_steps == 0 and self.metrics.latest:
            self.console.say(self._line(self.progress.epoch, self.progress.step_in_epoch))

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        self.console.close()
        latest, epoch = self.metrics.latest, self.progress.epoch
        printed = not latest or latest["step"] % self.every_steps == 0
        if not printed and not self.progress.inside_epoch:
            self.console.say(self._line(epoch - 1, self.steps_of(epoch - 1)))

    def _line(self, epoch: int, step_in_epoch: int) -> str:
        latest, steps = self.metrics.latest, self.steps_of(epoch)
        left = (self.epochs - epoch) * steps - step_in_epoch  # later epochs taken to be as long as this one
        skipped = f"  skipped {latest['skipped_steps']}" if latest["skipped_steps"] else ""
        return (
            f"epoch {epoch + 1}/{self.epochs} step {step_in_epoch}/{steps}  loss {latest['loss']:.4f}  "
            f"lr {latest['lr']:.2e}  {_duration(latest['step_s'])}/step  {latest['images_per_s']:.1f} images/s"
            f"{skipped}  ETA {clock_time(left * latest['step_s'])}"
        )


def clock_time(seconds: float) -> str:
    """h:mm:ss"""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
