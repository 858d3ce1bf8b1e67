"""The scripts as their users call them: what reaches the programs, and what is refused before anything starts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rank_tables import device, servers_1_0, write

from mindloc.cli import main
from mindloc.cli.launch import SCRIPTS, plan_training, read_arguments
from mindloc.errors import MindlocError

PROJECT = Path(__file__).parents[2]
DEFAULT_CONFIG = "gta_uav_cross"
ONE_ROOT = ["--set", "data.test_root=null", "--set", "data.test_map_px=null", "--set", "data.test_m_per_px=null"]
WITHOUT_EVALUATION = ["--set", "train.eval_every_epochs=0", "--set", "train.zero_shot_eval=false"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a data set, weights, a run and a rank table of this host; the caller's working directory."""
    monkeypatch.chdir(tmp_path)
    for variable in ("CONFIG", "LAUNCHER", "SERVER_ID", "SERVER_COUNT", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "data set").mkdir()
    (tmp_path / "weights.safetensors").touch()
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("train:\n  batch_size: 6\n")
    monkeypatch.setattr("mindloc.launch.plan.host_names", lambda environment: ["10.0.0.1"])
    # the checks of a training run have their own tests; here only arguments and processes are tested
    monkeypatch.setattr("mindloc.cli.train.require_precision", lambda *precision, **key: None)
    monkeypatch.setattr("mindloc.cli.train.check_begin_epoch", lambda point, epoch: None)
    write(tmp_path, servers_1_0(cards=2))
    return tmp_path


def planned(kind, *argv, environment=None):
    given = read_arguments(SCRIPTS[kind], argv)
    return plan_training(SCRIPTS[kind], given, {"PATH": os.environ["PATH"], **(environment or {})})


def trainer_of(plan):
    """Arguments of the training in the last process's command line."""
    words = plan.processes[-1].command
    return words[words.index("train") + 1 :]


def test_from_scratch(here):
    plan = planned("train", "table.json", "data set", "out", "", "--device_target", "CPU", "--epochs", "3")
    assert (plan.launcher, plan.world_size) == ("msrun", 2)
    assert trainer_of(plan) == [
        *(
            "--config",
            DEFAULT_CONFIG,
            "--set",
            f"data.root={here}/data set",
            *ONE_ROOT,
            "--set",
            f"run.work_dir={here}/out",
        ),
        *WITHOUT_EVALUATION,
        *("--set", "run.device_target=CPU", "--set", "train.epochs=3"),
    ]
    assert plan.log_dir.parent == here / "out" / "logs" and plan.log_dir.is_dir()


def test_on_ascend_the_table_starts_the_ranks(here):
    plan = planned("train", "table.json", "data set", "out", "--device_target", "Ascend")
    assert plan.launcher == "rank_table"
    assert [process.environment["RANK_TABLE_FILE"] for process in plan.processes] == [str(here / "table.json")] * 2


def test_from_weights_with_epoch_and_evaluation(here):
    plan = planned("standalone", "3", "data set", "out", "weights.safetensors", "0", "True", "--device_target", "CPU")
    assert plan.launcher == "one_process"
    assert trainer_of(plan) == [
        *(
            "--config",
            DEFAULT_CONFIG,
            "--set",
            f"data.root={here}/data set",
            *ONE_ROOT,
            "--set",
            f"run.work_dir={here}/out",
        ),
        *("--set", f"train.checkpoint_start={here}/weights.safetensors", "--set", "run.device_target=CPU"),
        *("--begin_epoch", "0", "--device_id", "3"),
    ]


def test_a_run_continues_with_its_own_config(here):
    plan = planned("train-gpu", "0,1", "data set", "out", "run", "False", "4")
    assert trainer_of(plan) == [
        *("--resume", f"{here}/run", "--set", f"data.root={here}/data set", *ONE_ROOT, *WITHOUT_EVALUATION),
        *("--set", "run.device_target=GPU", "--begin_epoch", "4"),
    ]


def test_the_last_two_arguments_are_distinguished_by_their_type():
    for words, epoch, evaluation in [
        ([], None, False),
        (["3"], 3, False),
        (["True"], None, True),
        (["3", "True"], 3, True),
        (["False", "3"], 3, False),
    ]:
        given = read_arguments(SCRIPTS["standalone"], ["0", str(PROJECT), "out", "", *words])
        assert (given.begin_epoch, given.eval_callback) == (epoch, evaluation)


def test_a_requested_evaluation_happens_at_least_every_epoch(here):
    (here / "never.yaml").write_text("train:\n  eval_every_epochs: 0\n")
    words = ["table.json", "data set", "out", "", "True", "--device_target", "CPU", "--config", "never.yaml"]
    trainer = trainer_of(planned("train", *words))
    assert trainer[:2] == ["--config", "never.yaml"]
    assert "train.eval_every_epochs=1" in trainer
    own = trainer_of(planned("train", *words, "--set", "train.eval_every_epochs=0"))
    assert own.index("train.eval_every_epochs=1") < own.index("train.eval_every_epochs=0")  # the last one wins


def test_config_by_environment(here):
    plan = planned("train", "2", "data set", "out", "--device_target", "CPU", environment={"CONFIG": "run/config.yaml"})
    assert trainer_of(plan)[:2] == ["--config", "run/config.yaml"]


def test_a_path_is_passed_on_unchanged(here):
    (here / "a: b #c").mkdir()
    trainer = trainer_of(planned("standalone", "0", "a: b #c", "out", "--device_target", "CPU"))
    assert f"data.root={here}/a: b #c" in trainer


def test_several_servers_without_a_table(here):
    words = ["2", "data set", "out", "--device_target", "CPU"]
    two = {"SERVER_COUNT": "2", "SERVER_ID": "1", "MASTER_ADDR": "10.0.0.1"}
    plan = planned("train", *words, environment=two)
    assert plan.world_size == 4 and plan.ranks == (2, 3)
    assert {"--master_addr=10.0.0.1", "--master_port=8118"} <= set(plan.processes[0].command)
    for wrong, expected in [
        ({"SERVER_COUNT": "2"}, "SERVER_ID is not set; count"),
        ({"SERVER_ID": "1"}, "SERVER_ID is 1, expected 0 to 0"),
        ({"SERVER_COUNT": "two"}, "SERVER_COUNT is 'two'"),
        ({"MASTER_PORT": "80"}, "MASTER_PORT is 80"),
    ]:
        with pytest.raises(MindlocError, match=expected):
            planned("train", *words, environment=wrong)


def test_the_configs_cards_are_used_if_their_number_fits(here):
    words = ["2", "data set", "out", "--device_target", "GPU"]
    assert planned("train", *words, "--gpu_ids", "2,3").processes[0].environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    with pytest.raises(MindlocError, match="2 ranks are requested, but run.device_ids names 3 cards"):
        planned("train", *words, "--gpu_ids", "2,3,4")


def test_the_cards_of_a_rank_table_override_those_of_the_config(here):
    words = ["table.json", "data set", "out", "--device_target", "CPU"]
    for chosen in (["--gpu_ids", "2,3"], ["--set", "run.device_ids=[0, 1, 2]"]):
        assert planned("train", *words, *chosen).world_size == 2


HOSTILE = {
    "too few": (["table.json", "data set"], "2 arguments before the options, expected 3 to 6; give them in this order"),
    "too many": (["2", "data set", "out", "", "3", "True", "x"], "7 arguments before the options"),
    "no such table": (["tabel.json", "data set", "out"], "RANK_TABLE_FILE tabel.json does not exist"),
    "table that is a directory": (["run", "data set", "out"], "RANK_TABLE_FILE run is a directory"),
    "no ranks": (["0", "data set", "out"], "the number of ranks to start on this server; give 1 or more"),
    "no such data set": (["2", "dataset", "out"], "DATASET_PATH dataset does not exist"),
    "empty data set": (["2", "", "out"], "DATASET_PATH (empty) does not exist"),
    "data set that is a file": (
        ["2", "table.json", "out"],
        "DATASET_PATH table.json is a file, expected a directory; give the directory",
    ),
    "output that is a file": (["2", "data set", "table.json"], "TRAIN_OUTPUT_PATH table.json is not a directory"),
    "no such checkpoint": (["2", "data set", "out", "no.safetensors"], "CHECKPOINT_PATH no.safetensors does not exist"),
    "directory that is not a run": (["2", "data set", "out", "run/checkpoints"], "is a directory without config.yaml"),
    "neither epoch nor evaluation": (["2", "data set", "out", "", "yes"], "'yes' is neither a BEGIN_EPOCH"),
    "negative epoch": (["2", "data set", "out", "", "-1"], "'-1' is neither a BEGIN_EPOCH"),
    "two epochs": (
        ["2", "data set", "out", "", "3", "4"],
        "BEGIN_EPOCH is given twice, the second time as '4'; leave one out",
    ),
    "unknown option": (["2", "data set", "out", "--epoches", "3"], "no such option '--epoches'; did you mean"),
    "unknown key": (["2", "data set", "out", "--set", "train.epoch=3"], "did you mean train.epochs?"),
    "no such config": (["2", "data set", "out", "--config", "no.yaml"], "config no.yaml is neither a file"),
    "resume as an option": (
        ["2", "data set", "out", "--resume", "run"],
        "give the run directory to continue as CHECKPOINT_PATH",
    ),
    "unknown launcher": (["2", "data set", "out", "--launcher", "mpirun"], "launcher is 'mpirun'"),
    "batch that can't be shared": (["3", "data set", "out"], "--set train.batch_size=66"),  # 64 by default; 22 of each
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_argument_list_is_refused_in_one_line(here, capsys, name):
    argv, expected = HOSTILE[name]
    assert main(["launch", "train", *argv, "--device_target", "CPU"]) == 2
    error, *usage = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and expected in error
    assert usage in ([], [SCRIPTS["train"].usage])
    assert not (here / "out" / "logs").is_dir() or not list((here / "out" / "logs").iterdir())


@pytest.mark.parametrize(
    ("kind", "first", "expected"),
    [
        ("standalone", "zero", "DEVICE_ID is 'zero'"),
        ("eval", "0,1", "DEVICE_ID is '0,1'"),
        ("train-gpu", "0,0", "GPU_IDS is '0,0'"),
        ("train-gpu", "0;1", "GPU_IDS is '0;1'"),
    ],
)
def test_cards_are_numbers(here, capsys, kind, first, expected):
    assert main(["launch", kind, first, "data set", "weights.safetensors"]) == 2
    assert expected in capsys.readouterr().err


def test_a_table_of_other_hosts(here, capsys):
    tree = servers_1_0(cards=2)
    tree["server_list"][0] = {"server_id": "10.7.7.7", "device": [device(0, 0), device(1, 1)]}
    write(here, tree)
    assert main(["launch", "train", "table.json", "data set", "out", "--device_target", "CPU"]) == 2
    assert "this host (10.0.0.1) is none of its servers (10.7.7.7)" in capsys.readouterr().err


FAKE_PROGRAM = """
import json, os, sys
if sys.argv[1] == "launch":
    from mindloc.cli import main
    sys.exit(main())
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "ranks": os.environ.get("RANK_SIZE")}))
sys.exit(int(os.environ.get("FAKE_EXIT", "0")))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, in a directory with a space, whose trainings and evaluations print their arguments."""
    project = tmp_path_factory.mktemp("a project") / "mind loc"
    for directory in ("src", "scripts"):
        shutil.copytree(PROJECT / directory, project / directory, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "src" / "mindloc" / "__main__.py").write_text(FAKE_PROGRAM)
    experiment = project / "src" / "mindloc" / "configs" / "gta_uav_cross.yaml"
    experiment.write_text(experiment.read_text().replace("precision: fp16", "precision: fp32"))  # these run on CPUs
    return project


def call(project, script, *argv, **environment):
    return subprocess.run(
        ["bash", str(project / "scripts" / script), *argv],
        env={**os.environ, "MINDLOC_PYTHON": sys.executable, "RANK_SIZE": "8", **environment},
        capture_output=True,
        text=True,
    )


def test_a_script_from_another_directory(project, here):
    done = call(project, "run_standalone_train.sh", "0", "data set", "out put", "--device_target", "CPU")
    assert done.returncode == 0, done.stderr
    first, where, said = done.stdout.splitlines()
    assert first == "launcher: one process, because there is one rank"
    assert json.loads(said) == {
        "argv": [
            *("train", "--config", "gta_uav_cross", "--set", f"data.root={here}/data set", *ONE_ROOT),
            *("--set", f"run.work_dir={here}/out put", *WITHOUT_EVALUATION, "--set", "run.device_target=CPU"),
            *("--device_id", "0"),
        ],
        "cwd": str(here),
        "ranks": None,  # what another launcher left in the shell is not passed on
    }
    log = Path(where.removeprefix("logs: ")) / "rank_0.log"
    assert log.parent.parent == here / "out put" / "logs"
    assert log.read_text().splitlines()[0].startswith(first)


def test_a_script_ends_with_the_exit_code_of_its_program(project, here):
    words = ["0", "data set", "out", "", "--device_target", "CPU"]
    assert call(project, "run_standalone_train.sh", *words, FAKE_EXIT="9").returncode == 9
    assert call(project, "run_eval.sh", "0", "data set", "weights.safetensors", FAKE_EXIT="9").returncode == 9


def test_evaluation_scripts(project, here):
    (here / "run" / "checkpoints" / "weights_best.safetensors").touch()
    done = call(project, "run_eval_gpu.sh", "1", "data set", "run", "--engine", "onnx")
    assert json.loads(done.stdout)["argv"] == [
        *("eval", "--checkpoint", f"{here}/run", "--data_root", f"{here}/data set"),
        *("--device_id", "1", "--device_target", "GPU", "--engine", "onnx"),
    ]


def test_every_script_prints_its_usage(project, here):
    for script in SCRIPTS.values():
        done = call(project, script.file)
        assert done.returncode == 2 and done.stderr.endswith(f" {script.usage}\n")
        assert call(project, script.file, "--help").stdout.splitlines()[0] == script.usage


def test_without_a_usable_python(project, here, tmp_path):
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = call(project, "run_eval.sh", MINDLOC_PYTHON="", MINDLOC_VENV="none", PATH=str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith("error: no Python 3.10 or newer with MindSpore")
