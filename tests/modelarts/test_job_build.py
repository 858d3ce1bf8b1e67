"""The processes of a job: their command lines and environments, on old and new platforms."""

import json
from pathlib import Path

import pytest

from mindloc.cli.command import read_words
from mindloc.cli.train import train
from mindloc.errors import LaunchError
from mindloc.modelarts import job as build
from mindloc.modelarts.arguments import Place, parse_arguments, read_place
from mindloc.modelarts.job import build_evaluation, build_training

URLS = ["--data_url=obs://bucket/data", "--train_url=obs://bucket/out", "--device_target=CPU"]


def training(tmp_path: Path, *words: str, place: Place | None = None, resumes=False, weights=None):
    args = parse_arguments([*URLS, *words])
    logs = tmp_path / "logs"
    return build_training(args, place or Place(), Path("/cache/data"), weights, tmp_path / "run", resumes, logs)


def words_of(plan) -> list[str]:
    """Arguments of train.py or eval.py, which come last in the command."""
    command = plan.processes[0].command
    return command[command.index("mindloc") + 2 :]


def overrides_of(plan) -> dict[str, str]:
    """Key -> value that wins, as train.py reads its arguments."""
    return dict(
        override.split("=", 1) for override in read_words(train, "train", words_of(plan), "").params["overrides"]
    )


def test_one_card_is_one_process(tmp_path):
    plan = training(tmp_path, "--lr=0.5", place=Place(device_id=3))
    assert plan.launcher == "one_process" and plan.world_size == 1
    params = read_words(train, "train", words_of(plan), "").params
    assert params["run_dir"] == tmp_path / "run" and params["resume"] is None
    overrides = overrides_of(plan)
    assert overrides["data.root"] == "/cache/data"
    assert overrides["optimizer.lr"] == "0.5"
    assert overrides["run.device_ids"] == "[3]"
    assert not {"RANK_ID", "RANK_TABLE_FILE", "MS_ROLE"} & plan.processes[0].environment.keys()


def test_weights_and_a_run_to_resume(tmp_path, monkeypatch):
    monkeypatch.setattr("mindloc.cli.train.check_begin_epoch", lambda point, epoch: None)  # the run is a stand-in
    plan = training(tmp_path, "--begin_epoch=0", weights=Path("/cache/w.safetensors"))
    assert overrides_of(plan)["train.checkpoint_start"] == "/cache/w.safetensors"
    assert words_of(plan)[-2:] == ["--begin_epoch", "0"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("train: {epochs: 9}\n")
    resumed = training(tmp_path, "--config=gta_uav_cross", "--begin_epoch=3", resumes=True)
    words = words_of(resumed)
    assert words[:2] == ["--resume", str(tmp_path / "run")]
    assert "--config" not in words  # the run has its own
    assert words[-2:] == ["--begin_epoch", "3"]


def test_a_shipped_experiment_is_found_wherever_the_boot_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words_of(training(tmp_path, "--config=world_tiny"))
    assert words[words.index("--config") + 1] == "world_tiny"


@pytest.mark.parametrize(
    ("words", "every_epochs"),
    [
        (["--eval=False"], "0"),
        (["--eval=True"], None),
        (["--eval=True", "--config=never.yaml"], "1"),
        (["--eval=True", "--config=never.yaml", "--set", "train.eval_every_epochs=0"], "0"),
        (["--eval=True", "--set", "train.eval_every_epochs=2"], "2"),
        (["--eval=False", "--set", "train.eval_every_epochs=2"], "2"),
    ],
)
def test_eval_switches_the_evaluation_of_a_training(tmp_path, monkeypatch, words, every_epochs):
    """A setting that is given by hand takes precedence over the switch."""
    monkeypatch.chdir(tmp_path)
    Path("never.yaml").write_text("train: {eval_every_epochs: 0}\n")
    assert overrides_of(training(tmp_path, *words)).get("train.eval_every_epochs") == every_epochs


@pytest.mark.parametrize("rank", range(8))
def test_each_of_eight_boot_processes_is_its_rank(tmp_path, rank):
    said = {"RANK_TABLE_FILE": "/t.json", "RANK_ID": str(rank), "RANK_SIZE": "8", "ASCEND_DEVICE_ID": str(rank)}
    plan = training(tmp_path, place=read_place(said))
    (process,) = plan.processes
    ranks = {name: process.environment[name] for name in ("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "DEVICE_ID")}
    assert ranks == {"RANK_TABLE_FILE": "/t.json", "RANK_ID": str(rank), "RANK_SIZE": "8", "DEVICE_ID": str(rank)}
    assert process.log.name == f"rank_{rank}.log"
    assert "once per card" in plan.reason
    assert "run.device_ids" not in overrides_of(plan)


def test_one_boot_process_per_server_starts_its_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(build.socket, "gethostbyname", lambda name: {"worker-0.job": "10.1.2.3"}[name])
    said = {
        "MA_NUM_HOSTS": "2",
        "MA_NUM_GPUS": "8",
        "VC_TASK_INDEX": "1",
        "VC_WORKER_HOSTS": "worker-0.job,worker-1.job",
    }
    plan = training(tmp_path, place=read_place(said, tmp_path / "none.json"))
    assert plan.launcher == "msrun" and plan.world_size == 16 and plan.ranks == tuple(range(8, 16))
    command = plan.processes[0].command
    for option in ("--worker_num=16", "--local_worker_num=8", "--node_rank=1", "--master_addr=10.1.2.3"):
        assert option in command


def test_on_ascend_the_platforms_rank_table_starts_one_process_per_card(tmp_path):
    cards = [{"device_id": str(i), "device_ip": f"10.0.0.{i}", "rank_id": str(i)} for i in range(8)]
    table = tmp_path / "jobstart_hccl.json"
    server = {"server_id": "10.0.0.100", "device": cards}
    table.write_text(
        json.dumps({"version": "1.0", "server_count": "1", "server_list": [server], "status": "completed"})
    )
    place = read_place({"MA_NUM_HOSTS": "1", "MA_NUM_GPUS": "8"}, table)
    plan = training(tmp_path, "--device_target=Ascend", place=place)
    assert plan.launcher == "rank_table"
    assert [process.environment["RANK_ID"] for process in plan.processes] == [str(i) for i in range(8)]


def test_a_batch_that_the_ranks_can_not_share_is_refused(tmp_path):
    with pytest.raises(LaunchError, match="train.batch_size is 20"):
        training(tmp_path, "--batch_size=20", place=Place(ranks=8, cards=8))


def test_an_unknown_first_server_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_NAME_PAUSES_S", ())
    with pytest.raises(LaunchError, match="VC_WORKER_HOSTS does not name the first, the master; set it"):
        training(tmp_path, place=Place(ranks=2, servers=2))
    with pytest.raises(LaunchError, match=r"nowhere\.invalid, has no address here: .*; correct VC_WORKER_HOSTS"):
        training(tmp_path, place=Place(ranks=2, servers=2, master="nowhere.invalid"))


def test_an_evaluation_leaves_out_the_parameters_of_training(tmp_path, capsys):
    parameters = ["--checkpoint_url=x", "--lr=0.5", "--epochs=3", "--set", "search.recall_n=9"]
    args = parse_arguments([*URLS, "--evaluate_only=True", *parameters])
    out = tmp_path / "report"
    plan = build_evaluation(args, Place(), Path("/cache/data"), Path("/w.safetensors"), out, tmp_path / "logs")
    words = words_of(plan)
    assert words[:6] == ["--checkpoint", "/w.safetensors", "--out", str(out), "--data_root", "/cache/data"]
    assert words[6:] == ["--set", "run.device_target=CPU", "--set", "search.recall_n=9"]
    assert "left out of the evaluation: optimizer.lr=0.5, train.epochs=3" in capsys.readouterr().out
