"""A generated world and a training run on it, which take seconds each, for tests of whole commands."""

import os
import subprocess
import sys
from pathlib import Path

from mindloc.runtime.checkpoint import load_weights
from mindloc.training.reporting import CLOCK_KEYS, read_metrics

PROJECT = Path(__file__).parents[1]
WORLD = "--map_px 1024 --zooms 3 4 --tile_size_px 64 --drone_size_px 48 64 --flights 2"
SETTINGS = {
    "data.train_pairs": "same-area-drone2sate-train.json",
    "data.test_pairs": "same-area-drone2sate-test.json",
    "data.map_px": 1024,
    "data.m_per_px": 0.3,
    "data.query_size_px": [32, 32],
    "data.reference_size_px": [32, 32],
    "sampling.mode": "masked",
    "model.backbone": "tiny",
    "model.reference_grid": 2,
    "train.batch_size": 8,
    "eval.batch_size": 16,
    "run.operator_fusion": "never",  # compiles in half the time
}
# settings of the fixture tiny_run, besides its data.root
RUN_SETTINGS = {**SETTINGS, "train.epochs": 2, "train.eval_every_epochs": 2, "train.checkpoint_every_steps": 3}


def world_words(drones: int) -> list[str]:
    """Arguments of ``mindloc world`` besides the directory, for ``drones`` drone images."""
    return [*WORLD.split(), "--drones", str(drones)]


def set_words(settings: dict) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def start(command: list[str], fault: str = "", **options) -> subprocess.Popen:
    """Start a process with its own environment and its output in pipes; it kills itself at the point ``fault``."""
    environment = {**os.environ, "MINDLOC_FAULT": fault, "MINDLOC_PYTHON": sys.executable, "GLOG_v": "3"}
    environment |= options.pop("env", {})
    options.setdefault("cwd", environment["XDG_CACHE_HOME"])  # files left by the compiler are removed with it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in command], env=environment, **pipes, **options)


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Wait for the process to end, without a limit; the test's own time limit ends it."""
    with process:
        try:
            said, errors = process.communicate()
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


def train(*words: str | Path, fault: str = "") -> subprocess.CompletedProcess:
    """Run train.py in its own process, as a user does."""
    return finish(start([sys.executable, PROJECT / "train.py", *words], fault))


def trained(*words: str | Path) -> subprocess.CompletedProcess:
    """Run ``train`` and check that it succeeds."""
    done = train(*words)
    assert done.returncode == 0, done.stderr
    return done


def end_weights(run: Path) -> dict:
    """The weights at the end of a run: name -> array."""
    return load_weights(run / "checkpoints" / "weights_end.safetensors").arrays


def lines_of(run: Path) -> list[dict]:
    """Lines of metrics.jsonl without times and rates."""
    return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in read_metrics(run / "metrics.jsonl")]


def save_untrained(path, **settings) -> None:
    """Save a checkpoint of an untrained encoder; ``settings`` override ``SETTINGS``."""
    import mindspore as ms

    from mindloc.config import config_to_dict, load_config
    from mindloc.models.build import build_encoder
    from mindloc.runtime.checkpoint import save_weights

    ms.set_context(mode=ms.GRAPH_MODE)
    config = load_config(overrides=set_words({**SETTINGS, **settings})[1::2])
    arrays = {name: value.asnumpy() for name, value in build_encoder(config).parameters_and_names()}
    save_weights(path, arrays, config_to_dict(config), epoch=0)
