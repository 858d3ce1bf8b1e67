"""The place in a job that ModelArts' environment variables state, on old and new platforms."""

import json

import pytest

from mindloc.errors import LaunchError, StoreError
from mindloc.modelarts import arguments as environment
from mindloc.modelarts import incoming
from mindloc.modelarts.arguments import Place, place_by_table, read_place
from mindloc.modelarts.incoming import find_scratch

PER_CARD = {"RANK_TABLE_FILE": "/tables/hccl.json", "RANK_ID": "3", "RANK_SIZE": "8", "ASCEND_DEVICE_ID": "5"}
PER_SERVER = {
    "MA_NUM_HOSTS": "2",
    "MA_NUM_GPUS": "8",
    "MA_VJ_NAME": "ma-job-1",
    "VC_TASK_INDEX": "1",
    "VC_WORKER_NUM": "2",
    "VC_WORKER_HOSTS": "job-worker-0.job,job-worker-1.job",
}


def test_an_empty_environment_is_one_card(tmp_path):
    assert read_place({}, tmp_path / "none.json") == Place()


def test_a_boot_file_that_runs_once_per_card_is_one_rank(tmp_path):
    place = read_place(PER_CARD, tmp_path / "none.json")
    assert place.per_card and (place.rank, place.ranks, place.device_id) == (3, 8, 5)
    assert not place.is_first
    assert place.rank_variables() == {
        "RANK_TABLE_FILE": "/tables/hccl.json",
        "RANK_ID": "3",
        "RANK_SIZE": "8",
        "DEVICE_ID": "5",
    }


def test_older_images_set_device_num_and_device_id(tmp_path):
    table = tmp_path / "jobstart_hccl.json"
    table.write_text("{}")
    place = read_place({"DEVICE_NUM": "8", "RANK_ID": "0", "DEVICE_ID": "0"}, table)
    assert place.is_first and place.ranks == 8
    assert place.rank_variables()["RANK_TABLE_FILE"] == str(table)


def test_the_table_may_be_named_by_its_directory(tmp_path):
    (tmp_path / "config").mkdir()
    table = tmp_path / "config" / "jobstart_hccl.json"
    table.write_text("{}")
    said = {"MA_NUM_GPUS": "8", "RANK_TABLE_FILE": str(table.parent)}
    assert read_place(said, tmp_path / "elsewhere" / "jobstart_hccl.json").table == table
    assert read_place({**said, "RANK_TABLE_FILE": "/nowhere/x.json"}, table).table is None


def test_an_older_image_whose_boot_file_runs_once_states_the_number_of_cards(tmp_path):
    place = read_place({"DEVICE_NUM": "8"}, tmp_path / "none.json")
    assert (place.per_card, place.cards, place.ranks, place.is_first) == (False, 8, 8, True)


def test_ranks_without_a_table_can_not_meet(tmp_path):
    place = read_place({"RANK_ID": "1", "RANK_SIZE": "2"}, tmp_path / "none.json")
    with pytest.raises(LaunchError, match="there is no rank table"):
        place.rank_variables()


def test_a_job_of_one_card_is_not_one_rank_of_several(tmp_path):
    place = read_place({"RANK_ID": "0", "RANK_SIZE": "1", "DEVICE_ID": "0"}, tmp_path / "none.json")
    assert not place.per_card and place.is_first and place.device_id == 0


def test_a_boot_command_runs_once_per_server(tmp_path):
    place = read_place(PER_SERVER, tmp_path / "none.json")
    assert not place.per_card and not place.is_first
    assert (place.servers, place.server, place.cards, place.ranks) == (2, 1, 8, 16)
    assert place.master == "job-worker-0.job"


def test_a_server_without_accelerators_has_one_rank(tmp_path):
    place = read_place({"MA_NUM_HOSTS": "1", "MA_NUM_GPUS": "0", "VC_TASK_INDEX": "0"}, tmp_path / "none.json")
    assert (place.cards, place.ranks, place.is_first) == (1, 1, True)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"RANK_ID": "8", "RANK_SIZE": "8"}, "RANK_ID is 8, but RANK_SIZE is 8"),
        ({"RANK_ID": "x", "RANK_SIZE": "8"}, "RANK_ID is 'x'"),
        ({"MA_NUM_HOSTS": "2", "VC_TASK_INDEX": "2"}, "VC_TASK_INDEX is 2, but MA_NUM_HOSTS is 2"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(said, says, tmp_path):
    with pytest.raises(LaunchError, match=says):
        read_place(said, tmp_path / "none.json")


def test_the_rank_table_decides_which_server_is_first(tmp_path):
    """ModelArts counts containers in one order, the table may have the other."""
    servers = [
        {"server_id": name, "device": [{"device_id": "0", "device_ip": f"10.0.0.{i}", "rank_id": str(i)}]}
        for i, name in enumerate(["192.168.0.7", "192.168.0.4"])
    ]
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"version": "1.0", "server_count": "2", "server_list": servers, "status": "completed"}))
    said = {**PER_SERVER, "MA_NUM_GPUS": "1", "RANK_TABLE_FILE": str(table), "MA_CURRENT_HOST_IP": "192.168.0.7"}
    place = place_by_table(read_place(said), said)
    assert (place.server, place.is_first) == (0, True)


def test_an_incomplete_table_is_waited_for(tmp_path, monkeypatch, capsys):
    table = tmp_path / "table.json"
    table.write_text('{"status": "initializing"')
    device = {"device_id": "0", "device_ip": "10.0.0.1", "rank_id": "0"}
    other = {"device_id": "1", "device_ip": "10.0.0.2", "rank_id": "1"}
    servers = [{"server_id": "10.0.0.9", "device": [device, other]}]
    states = iter(["initializing", "completed"])

    def pass_by(seconds):
        tree = {"version": "1.0", "server_count": "1", "server_list": servers, "status": next(states)}
        table.write_text(json.dumps(tree))

    monkeypatch.setattr(environment.time, "sleep", pass_by)
    place = place_by_table(read_place({"MA_NUM_GPUS": "2"}, table), {})
    assert (place.ranks, place.server, place.is_first) == (2, 0, True)
    assert capsys.readouterr().out.count("waiting until the platform has completed it") == 1


def test_a_table_that_is_never_completed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "table.json").write_text('{"status": "initializing", "version": "1.0"}')
    monkeypatch.setattr(environment.time, "sleep", lambda seconds: None)
    with pytest.raises(LaunchError, match="expected 'completed'"):
        place_by_table(read_place({"MA_NUM_GPUS": "2"}, tmp_path / "table.json"), {})


def test_the_scratch_disk_is_cache_if_it_exists(monkeypatch, tmp_path):
    cache, job = tmp_path / "cache", tmp_path / "job"
    job.mkdir()
    monkeypatch.setattr(incoming, "SCRATCH_DISK", cache)
    monkeypatch.setattr(incoming.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    assert find_scratch(None, {}).parent == tmp_path / "temporary"
    assert find_scratch(None, {"MA_JOB_DIR": str(job)}).parent == job
    cache.mkdir()
    assert find_scratch(None, {"MA_JOB_DIR": str(job)}).parent == cache
    assert find_scratch(str(tmp_path / "mine"), {}).parent == tmp_path / "mine"


def test_an_unusable_scratch_disk_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="set --scratch"):
        find_scratch(str(tmp_path / "file"), {})
