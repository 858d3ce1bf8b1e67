"""Finds the neighbors anew at the end of an epoch that is followed by one which reads them."""

import time
from collections.abc import Callable

from mindspore import nn
from mindspore.train import Callback, RunContext

from mindloc.data.hard_negatives import NeighborTables
from mindloc.runtime.metrics_log import MetricsLog
from mindloc.training.console import Console
from mindloc.training.progress import Progress


class NeighborsCallback(Callback):
    """Before the checkpoint of the epoch is written, so that the checkpoint holds the table which the next one reads.

    The loader's thread waits for the table (``NeighborTables.wait``), the training itself never does.

    Args:
        refresh: (encoder, epoch from 0 that is to be planned) puts the table of that epoch into ``tables``.
        log, console: None on a rank that writes nothing.
    """

    def __init__(
        self,
        tables: NeighborTables,
        refresh: Callable[[nn.Cell, int], None],
        encoder: nn.Cell,
        progress: Progress,
        epochs: int,
        log: MetricsLog | None,
        console: Console | None,
    ):
        super().__init__()
        self.tables, self.refresh, self.encoder = tables, refresh, encoder
        self.progress, self.epochs, self.log, self.console = progress, epochs, log, console

    def on_train_end(self, run_context: RunContext) -> None:
        # before MindSpore ends the loader's thread, which it does on returning. In a resumed run that thread goes on to
        # epochs that never come: it is told the number of the last epoch for that of those to walk through
        self.tables.close()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        epoch = self.progress.epoch
        if self.progress.inside_epoch or epoch >= self.epochs or not self.tables.lacks(epoch):
            return
        started = time.perf_counter()
        refresh_table(self.refresh, self.encoder, epoch)
        seconds = time.perf_counter() - started
        if self.log is not None:
            self.log.append("neighbors", epoch=epoch, step=self.progress.step, neighbors_s=seconds)
            self.console.say(f"neighbors found anew for epoch {epoch + 1}  ({seconds:.1f} s)")


def refresh_table(refresh: Callable[[nn.Cell, int], None], encoder: nn.Cell, epoch: int) -> None:
    """Run ``refresh`` with the encoder in evaluation mode."""
    training = encoder.training
    encoder.set_train(False)
    try:
        refresh(encoder, epoch)
    finally:
        encoder.set_train(training)
