"""Commands of the project that a benchmark runs, one after the other or several at once."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mindloc.runtime.process import usable_cores

PROJECT = Path(__file__).resolve().parents[1]


def run_command(words: Sequence[str], log: Path | None = None, jobs: int = 1) -> None:
    """Run a command of the project; what it says goes to a file, and with its last lines into the error.

    Args:
        jobs: commands that run at once and share out the cores.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, len(usable_cores()) // jobs))}
    environment["PYTHONPATH"] = str(PROJECT / "src")
    done = subprocess.run([sys.executable, *words], cwd=PROJECT, env=environment, capture_output=True, text=True)
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(done.stdout + done.stderr)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed: {(done.stderr or done.stdout)[-500:]}")


def make_world(folder: Path, words: Sequence[str]) -> None:
    """A generated world with JPEG pictures, unless it is there."""
    if not (folder / "world.json").is_file():
        run_command(["-m", "mindloc", "world", str(folder), *words, "--tile_format", "jpg", "--drone_format", "jpg"])


def set_words(settings: Mapping[str, object], changes: Sequence[str] = ()) -> list[str]:
    """``--set KEY=VALUE`` for each setting, then for the changes that a user wrote so already."""
    written = [*(f"{key}={value}" for key, value in settings.items()), *changes]
    return [word for change in written for word in ("--set", change)]
