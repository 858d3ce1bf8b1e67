"""Two real ranks on a CPU, started as a user starts them: they end as one does, and one that dies stops the other."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from processes import alive
from small_world import world_words
from test_main_job import PROJECT, SETTINGS

from mindloc.cli import main
from mindloc.launch.host import free_port
from mindloc.runtime.checkpoint import load_weights
from mindloc.runtime.run_folder import read_metrics

pytestmark = pytest.mark.slow

SCRIPT = PROJECT / "scripts" / "run_distribute_train.sh"
ENVIRONMENT = {**os.environ, "MINDLOC_PYTHON": sys.executable, "GLOG_v": "3"}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "world"
    assert main(["world", str(root), *world_words(drones=48)]) == 0
    return root


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "two cards.json"
    assert (
        main(["rank-table", "--devices", "0,1", "--server_id", "127.0.0.1", "--without_device_ips", "--out", str(path)])
        == 0
    )
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    sections: dict[str, dict] = {}
    for key, value in SETTINGS.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(yaml.safe_dump(sections))
    return ["--config", str(path), "--device_target", "CPU"]


def two_ranks(table: Path, world: Path, output: Path, *arguments: str) -> subprocess.Popen:
    command = ["bash", str(SCRIPT), str(table), str(world), str(output), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes)


def run_of(output: Path) -> Path:
    (folder,) = (output / "tiny").iterdir()
    return folder


def weights_of(run: Path) -> dict[str, np.ndarray]:
    return load_weights(run / "checkpoints" / "weights_end.safetensors").arrays


def losses_of(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


@pytest.fixture(scope="module")
def of_two(world, table, settings, tmp_path_factory) -> tuple[Path, str]:
    """(output folder, what the console said) of a training that nothing disturbed."""
    output = tmp_path_factory.mktemp("of two") / "out put"
    process = two_ranks(table, world, output, "", "True", *settings)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, said + errors
    return output, said


@pytest.fixture(scope="module")
def of_one(world, settings, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("of one") / "run"
    command = [sys.executable, str(PROJECT / "train.py"), *settings, "--data_root", str(world), "--run_dir", str(run)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return run


def test_the_log_begins_with_the_launcher_and_why(of_two, table):
    output, said = of_two
    assert said.startswith(
        f"launcher: msrun, because the target is CPU, where {table} tells the layout alone (2 ranks)\n"
    )
    (logs,) = (output / "logs").iterdir()
    for rank in range(2):
        first, second = (logs / f"rank_{rank}.log").read_text().splitlines()[:2]
        assert first.startswith("launcher: msrun, because") and f"rank {rank} of 2, process" in first
        assert re.fullmatch(rf"rank {rank} of 2, process \d+, device CPU", second)


def test_two_ranks_end_as_one(of_two, of_one):
    run = run_of(of_two[0])
    np.testing.assert_allclose(losses_of(run), losses_of(of_one), rtol=1e-5)
    expected, found = weights_of(of_one), weights_of(run)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_two_ranks_evaluate_as_one(of_two, of_one):
    """Not a whole number of batches for either rank, so the last ones are filled up and cut off again."""
    reports = [run / "reports" / "zero_shot" for run in (run_of(of_two[0]), of_one)]
    for side in ("query", "reference"):
        names = [(report / side / "rows.jsonl").read_text() for report in reports]
        assert names[0] == names[1] and len(names[0].splitlines()) % (2 * SETTINGS["eval.batch_size"])
        arrays = [np.load(report / side / "descriptors.npy") for report in reports]
        np.testing.assert_allclose(*arrays, atol=1e-5)
    scores = [json.loads((report / "report.json").read_text())["methods"]["model"] for report in reports]
    assert scores[0] == scores[1]


def test_a_rank_that_dies_stops_the_other_and_one_rank_goes_on(world, table, settings, of_one, tmp_path):
    output = tmp_path / "out"
    process = two_ranks(table, world, output, "", "True", *settings, "--set", "train.log_every_steps=1")
    ranks = {}
    for line in process.stdout:
        if found := re.search(r"^logs: (.*)$", line):
            logs = Path(found[1])
        if "step 5/" in line:
            break
    for rank in range(2):
        ranks[rank] = int(re.search(r"process (\d+)", (logs / f"rank_{rank}.log").read_text())[1])
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)  # a minute at most
    assert process.returncode == 128 + signal.SIGKILL
    assert "rank 1 of 2 was ended by SIGKILL" in errors
    assert not any(map(alive, ranks.values()))

    run = run_of(output)
    command = [sys.executable, str(PROJECT / "train.py"), "--resume", str(run), "--begin_epoch", "0"]
    resumed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    assert "1 rank where 2 ranks stood; sums round otherwise" in resumed.stdout
    for name, array in weights_of(of_one).items():
        np.testing.assert_allclose(weights_of(run)[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_cards_are_ranks(world, settings, tmp_path):
    command = [sys.executable, str(PROJECT / "train.py"), *settings, "--data_root", str(world), "--gpu_ids", "0,1"]
    command += ["--run_dir", str(tmp_path / "run"), "--set", f"run.work_dir={tmp_path}", "--epochs", "1"]
    command += ["--set", "train.eval_every_epochs=0", "--set", "train.zero_shot_eval=false"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "launcher: msrun, because no rank table is given (2 ranks)" in done.stdout
    assert f"evaluate with: python eval.py --checkpoint {tmp_path / 'run/checkpoints/weights_end'}" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "weights_end.safetensors").is_file()


def test_ranks_that_hold_different_data_are_told_apart(world, settings, tmp_path):
    """Each rank reads a copy of its own, as servers do; in one of them a pair is missing."""
    for rank in range(2):
        shutil.copytree(world, tmp_path / f"copy{rank}")
        pairs = tmp_path / f"copy{rank}" / SETTINGS["data.train_pairs"]
        pairs.write_text(json.dumps(json.loads(pairs.read_text())[rank:]))
    program = tmp_path / "train_on_own_copy.py"
    program.write_text(
        "import os, sys\n"
        "from mindloc.cli.train import main\n"
        f"copy = {str(tmp_path)!r} + '/copy' + os.environ.get('RANK_ID', '0')\n"
        "sys.exit(main([*sys.argv[1:], '--data_root', copy]))\n"
    )
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={tmp_path / 'logs'}"]
    command += [f"--master_port={free_port()}", str(program), *settings, "--run_dir", str(tmp_path / "run")]
    path = os.pathsep.join([str(Path(sys.executable).parent), ENVIRONMENT["PATH"]])
    environment = {**ENVIRONMENT, "PATH": path, "PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    for rank in range(2):
        log = (tmp_path / "logs" / f"worker_{rank}.log").read_text()
        assert "error: rank 1 does not have the list of training pairs that rank 0 has" in log
    assert not (tmp_path / "run").exists()
