"""Several processes change and read one index or one extraction, and some are killed: every read is complete."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("MINDLOC_CONCURRENT_S", "8"))  # per test; a longer test finds more
SOURCE = Path(__file__).parents[1] / "src"


@pytest.mark.parametrize("kind", ["index", "set"])
def test_every_read_is_whole_and_nothing_acknowledged_is_lost(tmp_path, kind):
    answer = subprocess.run(
        [sys.executable, Path(__file__).with_name("concurrent_processes.py"), kind, tmp_path, str(SECONDS), "0"],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    counts = json.loads(answer.stdout)
    print(counts)
    assert counts["kills"] and counts["read"] and counts["added" if kind == "index" else "wrote"]
    waits = [line for line in answer.stderr.splitlines() if not line.startswith("waiting: ")]
    assert waits == []  # and no traceback
    files = {path.name for path in tmp_path.iterdir() if path.suffix != ".log"}
    assert "target" in files or ".target.old" in files  # the last writer was killed between two renames
