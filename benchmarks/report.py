"""The parts that all benchmarks share: machine and versions, tables, JSON files, and running the project's commands."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mindloc.runtime.device import describe_machine
from mindloc.runtime.process import usable_cores

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = {"mindspore": "mindspore", "numpy": "numpy", "opencv": "opencv-python-headless"}


def origin() -> dict[str, Any]:
    """Machine, cores, load, date and versions of a measurement."""
    return {
        "machine": describe_machine(),
        "cores": len(usable_cores()),
        "load": [round(load, 2) for load in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="write the figures to this file too")


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write the result to ``path``, if it is not None."""
    if path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table; the first column is aligned left, the others right."""
    print("| " + " | ".join(titles) + " |\n|---|" + "--:|" * (len(titles) - 1))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def print_origin(result: dict[str, Any]) -> None:
    """Print the line below a table: machine, versions, load and date; ``result`` contains the values of ``origin``."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    load = " ".join(f"{value:.1f}" for value in result["load"])
    print(f"\n{result['machine']}; {versions}; load at the start {load}; {result['date']}", flush=True)


def _versions() -> dict[str, str]:
    found = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


def run_command(words: Sequence[str], log: Path | None = None, jobs: int = 1) -> None:
    """Run a command of the project. Its output is appended to ``log``; if it fails, this process ends with the last
    lines of the output.

    Args:
        jobs: number of commands that run at the same time and divide the cores.
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


def make_world(directory: Path, words: Sequence[str]) -> None:
    """Generate a world with JPEG images in ``directory``, unless it exists."""
    if not (directory / "world.json").is_file():
        run_command(["-m", "mindloc", "world", str(directory), *words, "--tile_format", "jpg", "--drone_format", "jpg"])


def set_words(settings: Mapping[str, object], changes: Sequence[str] = ()) -> list[str]:
    """``--set KEY=VALUE`` for each setting, then for each of ``changes``, which a user already wrote as KEY=VALUE."""
    written = [*(f"{key}={value}" for key, value in settings.items()), *changes]
    return [word for change in written for word in ("--set", change)]
