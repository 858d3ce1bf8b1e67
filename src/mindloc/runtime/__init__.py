"""Runtime of a process: device, compilation, ranks, run directory, checkpoints, atomic files, installed packages."""
