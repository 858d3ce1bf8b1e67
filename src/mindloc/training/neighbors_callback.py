"""Finds the neighbors before the epochs that read new ones."""

import time
from collections.abc import Callable

from mindspore import nn
from mindspore.train import Callback, RunContext

from mindloc.data.hard_negatives import NeighborTables
from mindloc.inference.engine import evaluating
from mindloc.runtime.run_folder import MetricsLog
from mindloc.training.console import Console
from mindloc.training.resume import Progress


class NeighborsCallback(Callback):
    """At the end of an epoch, before its checkpoint, so that the checkpoint holds the table which the next epoch reads.

    The loader's thread waits for the table (``NeighborTables.wait``), the training itself never does. Only the first
    epoch's must be there before the loader is built, which plans that epoch: ``find`` is then called for itself.

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
        # Model.train asks the data set for `epochs` epochs, not for those that are left, so a resumed run's loader
        # waits for an epoch that never comes; send it home before MindSpore joins its thread
        self.tables.close()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        self.find()

    def find(self) -> None:
        """Find what the next epoch reads, unless it has its neighbors, needs none or never comes."""
        epoch = self.progress.epoch
        if self.progress.inside_epoch or epoch >= self.epochs or not self.tables.lacks(epoch):
            return
        started = time.perf_counter()
        with evaluating(self.encoder):
            self.refresh(self.encoder, epoch)
        seconds = time.perf_counter() - started
        if self.log is not None:
            self.log.append("neighbors", epoch=epoch, step=self.progress.step, neighbors_s=seconds)
            self.console.say(f"neighbors found for epoch {epoch + 1}  ({seconds:.1f} s)")
