"""Where a run lives: device and compiling, ranks, run folder, checkpoints, files that survive a crash, packages."""
