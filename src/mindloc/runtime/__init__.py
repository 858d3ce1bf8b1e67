"""Where a run lives: device and compiling, ranks, run directory, checkpoints, files that survive a crash, packages."""
