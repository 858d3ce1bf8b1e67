"""Points where a test kills a process: names that ``fault_point`` is called with (runtime/process.py)."""

# all points that a training run or an extraction passes
TRAINING = (
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
# passed while an index of tiles is saved
INDEX = ("index.before_write", "index.mid_write", "index.before_swap", "directory.mid_swap")
