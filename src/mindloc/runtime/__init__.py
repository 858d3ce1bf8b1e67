"""Runtime of a process: device, compilation, console, ranks, run directory, checkpoints, files, installed packages."""
