"""Where a run lives: device, run folder, checkpoints, logs, and writes that survive a crash."""
