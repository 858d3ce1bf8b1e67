"""Named places where a test can kill the process, to prove that a run survives a kill there.

``MINDLOC_FAULT=weights.before_rename`` kills at the first passage, ``weights.before_rename:3`` at the third. Without
the variable a fault point costs one dictionary lookup.
"""

import collections
import os
import signal

FAULT_VARIABLE = "MINDLOC_FAULT"

# every name that a training or extraction passes; the kill tests go through this list
FAULT_POINTS = (
    *[
        f"{what}.{where}"
        for what in ("weights", "best", "state", "end")
        for where in ("before_write", "mid_write", "before_rename", "after_rename")
    ],
    "checkpoint.between_weights_and_state",
    "checkpoint.before_prune",
    "metrics.before_append",
    "metrics.mid_append",
    "epoch.mid",
    "extract.mid",
)

# and those that saving a library of tiles passes
INDEX_FAULT_POINTS = ("index.before_write", "index.mid_write", "index.before_swap", "index.mid_swap")

MILVUS_FAULT_POINT = "milvus.mid_add"  # between two messages to Milvus

_passages: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
    """Kill this process, as ``kill -9`` would, when the environment names this place; else do nothing."""
    wanted = os.environ.get(FAULT_VARIABLE)
    if not wanted:
        return
    wanted_name, _, count = wanted.partition(":")
    if name != wanted_name:
        return
    _passages[name] += 1
    if _passages[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
