"""``train.py`` as one of several ranks, which also writes its own state: train_and_print.py OUT ARGUMENTS.

OUT/rank_N.json: the sampler's report of each epoch. OUT/rank_N.npz: the pairs of each epoch's batches (``epoch_N``),
the table of neighbors in force at the end (``table``) and the encoder's weights after the last step, by name.
"""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mindloc.cli import main
from mindloc.cli import train as command

out = Path(sys.argv[1])


def print_the_end() -> None:
    """Replace the trainer's ``train`` by one that writes the files; called late, as the trainer imports MindSpore."""
    from mindloc.training import trainer

    train = trainer.train

    def train_and_print(training, run):
        made = []

        def make_data(progress):
            made.append(training.make_data(progress))
            return made[0]

        progress = train(replace(training, make_data=make_data), run)
        plans = [
            made[0]._stream.sampler.plan(epoch) for epoch in range(progress.epoch)
        ]  # of three epochs at most all are kept
        arrays = {name: parameter.asnumpy() for name, parameter in training.step.encoder.parameters_and_names()}
        arrays |= {f"epoch_{epoch}": plan.pair_SG for epoch, plan in enumerate(plans)}
        path = out / f"rank_{os.environ['RANK_ID']}.npz"
        np.savez(path, table=training.neighbors.tables.newest[1], **arrays)
        path.with_suffix(".json").write_text(json.dumps([asdict(plan.report) for plan in plans]))
        return progress

    trainer.train = train_and_print


if __name__ == "__main__":
    join = command.join_cluster

    def join_and_listen(device):
        cluster = join(device)
        print_the_end()
        return cluster

    command.join_cluster = join_and_listen
    sys.exit(main(["train", *sys.argv[2:]]))
