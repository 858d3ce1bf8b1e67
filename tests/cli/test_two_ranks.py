"""Two real ranks on a CPU, started as by a user: they end like one rank, and a rank that dies stops the other."""

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
from small_world import PROJECT, RUN_SETTINGS, end_weights, finish, start, trained

from mindloc.cli import main
from mindloc.launch.host import free_port
from mindloc.training.reporting import read_metrics

pytestmark = pytest.mark.slow

SCRIPT = PROJECT / "scripts" / "run_distribute_train.sh"


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "two cards.json"
    words = ["--devices", "0,1", "--server_id", "127.0.0.1", "--without_device_ips", "--out", str(path)]
    assert main(["rank-table", *words]) == 0
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    """The settings of ``tiny_run``, as a file."""
    sections: dict[str, dict] = {}
    for key, value in RUN_SETTINGS.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(yaml.safe_dump(sections))
    return ["--config", str(path), "--device_target", "CPU"]


def two_ranks(table: Path, world: Path, output: Path, *arguments: str) -> subprocess.Popen:
    return start(["bash", SCRIPT, table, world, output, *arguments])


def run_of(output: Path) -> Path:
    (directory,) = (output / "tiny").glob("[!.]*")  # a killed rank leaves its lock
    return directory


def losses_of(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


@pytest.fixture(scope="module")
def of_two(tiny_world, table, settings, tmp_path_factory) -> tuple[Path, str]:
    """(output directory, console output) of an undisturbed training run."""
    output = tmp_path_factory.mktemp("of two") / "out put"
    done = finish(two_ranks(table, tiny_world, output, "", "True", *settings))
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def test_the_log_starts_with_the_launcher_and_the_reason(of_two, table):
    output, said = of_two
    assert said.startswith(
        f"launcher: msrun, because the target is CPU, where {table} only gives the layout (2 ranks)\n"
    )
    (logs,) = (output / "logs").iterdir()
    for rank in range(2):
        first, second = (logs / f"rank_{rank}.log").read_text().splitlines()[:2]
        assert first.startswith("launcher: msrun, because") and f"rank {rank} of 2, process" in first
        assert re.fullmatch(rf"rank {rank} of 2, process \d+, device CPU", second)


def test_two_ranks_end_with_the_weights_of_one(of_two, tiny_run):
    run = run_of(of_two[0])
    np.testing.assert_allclose(losses_of(run), losses_of(tiny_run), rtol=1e-5)
    expected, found = end_weights(tiny_run), end_weights(run)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_two_ranks_evaluate_as_one(of_two, tiny_run):
    """Neither rank has a whole number of batches, so the last batches are padded and the padding is cut off."""
    reports = [run / "reports" / "zero_shot" for run in (run_of(of_two[0]), tiny_run)]
    for side in ("query", "reference"):
        names = [(report / side / "rows.jsonl").read_text() for report in reports]
        assert names[0] == names[1] and len(names[0].splitlines()) % (2 * RUN_SETTINGS["eval.batch_size"])
        arrays = [np.load(report / side / "descriptors.npy") for report in reports]
        np.testing.assert_allclose(*arrays, atol=1e-5)
    scores = [json.loads((report / "report.json").read_text())["methods"]["model"] for report in reports]
    assert scores[0] == scores[1]


def test_a_rank_that_dies_stops_the_other_and_one_rank_continues(tiny_world, table, settings, tiny_run, tmp_path):
    output = tmp_path / "out"
    process = two_ranks(table, tiny_world, output, "", "True", *settings, "--set", "train.log_every_steps=1")
    for line in process.stdout:
        if found := re.search(r"^logs: (.*)$", line):
            logs = Path(found[1])
        if "step 5/" in line:
            break
    ranks = [int(re.search(r"process (\d+)", (logs / f"rank_{rank}.log").read_text())[1]) for rank in range(2)]
    os.kill(ranks[1], signal.SIGKILL)
    done = finish(process)
    assert done.returncode == 128 + signal.SIGKILL
    assert "rank 1 of 2 was ended by SIGKILL" in done.stderr
    assert not any(map(alive, ranks))

    run = run_of(output)
    resumed = trained("--resume", run, "--begin_epoch", "0")
    assert "1 rank instead of 2 ranks; rounding of sums differs" in resumed.stdout
    for name, array in end_weights(tiny_run).items():
        np.testing.assert_allclose(end_weights(run)[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_cards_are_ranks(tiny_world, settings, tmp_path):
    words = [*settings, "--data_root", tiny_world, "--gpu_ids", "0,1", "--run_dir", tmp_path / "run", "--epochs", "1"]
    words += ["--set", f"run.work_dir={tmp_path}"]
    done = trained(*words, "--set", "train.eval_every_epochs=0", "--set", "train.zero_shot_eval=false")
    assert "launcher: msrun, because no rank table is given (2 ranks)" in done.stdout
    assert f"evaluate with: {sys.executable} {PROJECT}/eval.py --checkpoint {tmp_path / 'run'}\n" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "weights_end.safetensors").is_file()


def test_ranks_with_different_data_are_refused(tiny_world, settings, tmp_path):
    """Each rank reads a copy of its own, as servers do; in one of them a pair is missing."""
    for rank in range(2):
        shutil.copytree(tiny_world, tmp_path / f"copy{rank}")
        pairs = tmp_path / f"copy{rank}" / RUN_SETTINGS["data.train_pairs"]
        pairs.write_text(json.dumps(json.loads(pairs.read_text())[rank:]))
    program = tmp_path / "train_on_own_copy.py"
    program.write_text(
        "import os, sys\n"
        "from mindloc.cli import main\n"
        f"copy = {str(tmp_path)!r} + '/copy' + os.environ.get('RANK_ID', '0')\n"
        "sys.exit(main(['train', *sys.argv[1:], '--data_root', copy]))\n"
    )
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={tmp_path / 'logs'}"]
    command += [f"--master_port={free_port()}", str(program), *settings, "--run_dir", str(tmp_path / "run")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = finish(start(command, env={"PATH": path, "PYTHONPATH": str(PROJECT / "src")}))
    assert done.returncode != 0
    for rank in range(2):
        log = (tmp_path / "logs" / f"worker_{rank}.log").read_text()
        assert "error: list of training pairs of rank 1 differs from that of rank 0" in log
    assert not (tmp_path / "run").exists()
