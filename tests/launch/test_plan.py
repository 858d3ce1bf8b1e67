"""Every process that is started: its complete environment and command line."""

import re
import socket
import sys
from pathlib import Path

import pytest
from rank_tables import model_arts_groups, servers_1_0, super_pods_1_2, write

import mindloc
from mindloc.errors import LaunchError
from mindloc.launch import processes as msrun_process
from mindloc.launch.host import share_of_cores
from mindloc.launch.plan import plan_ranks
from mindloc.launch.rank_table import read_rank_table

TRAIN = [sys.executable, "/project/train.py", "--config", "a b.yaml"]
ENTRY = str(Path(mindloc.__file__).parent / "launch" / "rank_entry.py")
USER = {"MINDLOC_PROGRAM": "mindloc", "MINDLOC_COMMAND": "mindloc launch train 2 data out"}  # what a user typed
SHELL = {
    "PATH": "/usr/bin",
    "HOME": "/root",
    "RANK_ID": "7",
    "RANK_SIZE": "99",
    "MS_ROLE": "MS_WORKER",
    "DEVICE_ID": "5",
}


@pytest.fixture(autouse=True)
def typed(monkeypatch):
    for name, value in USER.items():
        monkeypatch.setenv(name, value)


def plan(tmp_path, **more):
    given = {"target": "Ascend", "log_dir": tmp_path / "logs", "environment": SHELL, "cores": range(16)}
    return plan_ranks(TRAIN, **{**given, **more})


def test_all_eight_processes_of_one_server(tmp_path):
    path = write(tmp_path, servers_1_0())
    planned = plan(tmp_path, table=read_rank_table(path))
    why = f"{path} is given and the target is Ascend"
    assert (planned.launcher, planned.reason) == ("rank_table", why)
    assert planned.world_size == 8 and planned.ranks == tuple(range(8))
    assert len(planned.processes) == 8
    for rank, process in enumerate(planned.processes):
        assert process.rank == rank
        assert process.command == [sys.executable, ENTRY, *TRAIN]
        assert process.log == tmp_path / "logs" / f"rank_{rank}.log"
        assert process.environment == {
            "PATH": "/usr/bin",
            "HOME": "/root",
            "PYTHONUNBUFFERED": "1",
            **USER,
            "GLOG_v": "3",
            "HCCL_CONNECT_TIMEOUT": "600",
            "RANK_TABLE_FILE": str(path),
            "RANK_ID": str(rank),
            "RANK_SIZE": "8",
            "DEVICE_ID": str(rank),
            "DEVICE_NUM": "8",
            "SERVER_ID": "0",
            "MINDLOC_LAUNCH_LINE": f"launcher: rank table, because {why}",
            "MINDLOC_RANK_CORES": f"{2 * rank},{2 * rank + 1}",  # 16 cores, 8 ranks
        }


@pytest.mark.parametrize("server", range(3))
def test_all_processes_of_three_servers(tmp_path, server):
    path = write(tmp_path, servers_1_0(servers=3))
    planned = plan(tmp_path, table=read_rank_table(path), server_index=server)
    assert planned.world_size == 24 and planned.ranks == tuple(range(8 * server, 8 * server + 8))
    assert len(planned.processes) == 8
    for card, process in enumerate(planned.processes):
        rank = 8 * server + card  # the zoo's rank_start = DEVICE_NUM * SERVER_ID
        assert process.command == [sys.executable, ENTRY, *TRAIN]
        assert process.log.name == f"rank_{rank}.log"
        assert process.environment == {
            "PATH": "/usr/bin",
            "HOME": "/root",
            "PYTHONUNBUFFERED": "1",
            **USER,
            "GLOG_v": "3",
            "HCCL_CONNECT_TIMEOUT": "600",
            "RANK_TABLE_FILE": str(path),
            "RANK_ID": str(rank),
            "RANK_SIZE": "24",
            "DEVICE_ID": str(card),
            "DEVICE_NUM": "8",
            "SERVER_ID": str(server),
            "MINDLOC_LAUNCH_LINE": planned.first_line,
            "MINDLOC_RANK_CORES": f"{2 * card},{2 * card + 1}",
        }


def test_variables_that_the_user_set_take_precedence(tmp_path):
    table = read_rank_table(write(tmp_path, servers_1_0(cards=2)))
    shell = {"HCCL_CONNECT_TIMEOUT": "1800", "GLOG_v": "1", "PYTHONUNBUFFERED": ""}
    for process in plan(tmp_path, table=table, environment=shell).processes:
        assert shell.items() <= process.environment.items()


def test_threads_of_ranks_on_cpu(tmp_path):
    for shell, cores, threads in [({}, 2, "1"), ({}, 1, "1"), ({}, 5, "2"), ({"OMP_NUM_THREADS": "7"}, 4, "7")]:
        planned = plan(tmp_path, target="CPU", device_ids=(0, 1), environment=shell, cores=range(cores))
        assert msrun_of(planned).environment["OMP_NUM_THREADS"] == threads


def test_modelarts_own_table_is_written_as_hccl_reads_it(tmp_path):
    table = read_rank_table(write(tmp_path, model_arts_groups()))
    processes = plan(tmp_path, table=table, server_index=1).processes
    assert [(p.environment["RANK_ID"], p.environment["DEVICE_ID"]) for p in processes] == [("2", "0"), ("3", "1")]
    written = read_rank_table(processes[0].environment["RANK_TABLE_FILE"])
    assert written.version == "1.0"
    assert [(server.id, server.cards) for server in written.servers] == [(s.id, s.cards) for s in table.servers]


def test_super_pods_keep_their_own_file(tmp_path):
    path = write(tmp_path, super_pods_1_2())
    processes = plan(tmp_path, table=read_rank_table(path)).processes
    assert {process.environment["RANK_TABLE_FILE"] for process in processes} == {str(path)}


def test_a_table_without_addresses_is_refused_on_ascend(tmp_path):
    tree = servers_1_0(cards=2)
    del tree["server_list"][0]["device"][1]["device_ip"]
    table = read_rank_table(write(tmp_path, tree))
    with pytest.raises(LaunchError, match="no device_ip for card 1 of server 10.0.0.1"):
        plan(tmp_path, table=table)
    assert plan(tmp_path, table=table, target="CPU").launcher == "msrun"


def msrun_of(planned):
    (process,) = planned.processes
    return process


def test_msrun_of_one_server(tmp_path):
    planned = plan(tmp_path, target="GPU", device_ids=(2, 3))
    process = msrun_of(planned)
    assert planned.first_line == "launcher: msrun, because no rank table is given (2 ranks)"
    port = next(word for word in process.command if word.startswith("--master_port="))
    assert 1024 <= int(port.partition("=")[2]) <= 65535
    assert process.command == [
        *(sys.executable, ENTRY, str(Path(sys.executable).parent / "msrun")),
        *("--worker_num=2", "--local_worker_num=2", "--node_rank=0", "--master_addr=127.0.0.1", port, "--join=True"),
        *(f"--log_dir={tmp_path / 'logs'}", "--worker_log_name=rank", "--tail_worker_log=2", "--cluster_time_out=180"),
        *("python3", ENTRY, *TRAIN),
    ]
    assert process.environment == {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin",
        "HOME": "/root",
        "PYTHONUNBUFFERED": "1",
        **USER,
        "GLOG_v": "3",
        "CUDA_VISIBLE_DEVICES": "2,3",
        "MINDLOC_LAUNCH_LINE": planned.first_line,
        "MINDLOC_RANK_CORES": "0,1,2,3,4,5,6,7;8,9,10,11,12,13,14,15",
    }
    assert planned.rank_log(1) == tmp_path / "logs" / "rank_1.log"


def test_off_ascend_a_table_gives_the_layout(tmp_path):
    path = write(tmp_path, servers_1_0(servers=3))
    planned = plan(tmp_path, target="CPU", table=read_rank_table(path), server_index=2)
    assert planned.reason == f"the target is CPU, where {path} only gives the layout (24 ranks)"
    assert planned.ranks == tuple(range(16, 24))
    words = msrun_of(planned).command
    for word in ("--worker_num=24", "--local_worker_num=8", "--node_rank=2", "--master_addr=10.0.0.1"):
        assert word in words
    assert "--master_port=8118" in words and "--cluster_time_out=600" in words
    environment = msrun_of(planned).environment
    assert environment["MINDLOC_RANK_CORES"] == ";" * 7  # on CPU no rank is bound to a share of the cores
    assert environment["OMP_NUM_THREADS"] == "2"  # but computes with as many threads: 16 cores, 8 ranks


def test_meeting_time_and_place_can_be_given(tmp_path):
    planned = plan(
        tmp_path,
        target="CPU",
        device_ids=(0, 1),
        server_count=2,
        server_index=1,
        master=("10.1.1.1", 9000),
        environment={"MS_TOPO_TIMEOUT": "42"},
    )
    assert planned.world_size == 4 and planned.ranks == (2, 3)
    words = msrun_of(planned).command
    assert {"--master_addr=10.1.1.1", "--master_port=9000", "--cluster_time_out=42"} <= set(words)


def test_a_place_to_meet_that_is_taken(tmp_path):
    """The refusal names a place that is free; the ranks of other servers don't bind to it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()
        with pytest.raises(LaunchError, match=f"port {taken[1]} of 127.0.0.1") as refused:
            plan(tmp_path, target="CPU", device_ids=(0, 1), master=taken)
        address, port = re.search(r"MASTER_ADDR=(\S+) MASTER_PORT=(\d+)", str(refused.value)).groups()
        words = msrun_of(plan(tmp_path, target="CPU", device_ids=(0, 1), master=(address, int(port)))).command
        assert {f"--master_addr={address}", f"--master_port={port}"} <= set(words) and int(port) != taken[1]
    plan(tmp_path, target="CPU", device_ids=(0, 1), master=taken)  # nobody listens any more


def test_a_place_to_meet_on_no_machine(tmp_path):
    nowhere = ("192.0.2.1", 8118)  # RFC 5737: of documents alone
    with pytest.raises(LaunchError, match="MASTER_ADDR is 192.0.2.1, which is not an address of this machine"):
        plan(tmp_path, target="CPU", device_ids=(0, 1), master=nowhere)
    assert plan(tmp_path, target="CPU", device_ids=(0, 1), master=nowhere, server_count=2).world_size == 4


def test_servers_without_a_common_address_are_an_error(tmp_path):
    with pytest.raises(LaunchError, match="MASTER_ADDR="):
        plan(tmp_path, target="CPU", device_ids=(0, 1), server_count=2)


def test_servers_of_different_sizes_need_a_rank_table(tmp_path):
    tree = servers_1_0(servers=2, cards=2)
    del tree["server_list"][1]["device"][1]
    table = read_rank_table(write(tmp_path, tree))
    assert len(plan(tmp_path, table=table).processes) == 2
    with pytest.raises(LaunchError, match="server 10.0.0.2 has the ranks 2, but msrun needs 2 on every server"):
        plan(tmp_path, table=table, target="CPU")


def test_cards_are_counted_among_those_that_are_visible(tmp_path):
    shell = {**SHELL, "CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    cards = msrun_of(plan(tmp_path, target="GPU", device_ids=(1, 3), environment=shell))
    assert cards.environment["CUDA_VISIBLE_DEVICES"] == "5,7"
    same = msrun_of(plan(tmp_path, target="GPU", device_ids=(0, 1), environment=shell))
    assert same.environment["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    with pytest.raises(LaunchError, match="card 4 is requested"):
        plan(tmp_path, target="GPU", device_ids=(1, 4), environment=shell)


def test_ascend_cards_under_msrun_must_be_in_rising_order(tmp_path):
    process = msrun_of(plan(tmp_path, device_ids=(4, 6)))
    assert process.environment["ASCEND_RT_VISIBLE_DEVICES"] == "4,6"
    with pytest.raises(LaunchError, match="rising order"):
        plan(tmp_path, device_ids=(6, 4))


def test_a_launcher_that_is_requested(tmp_path):
    table = read_rank_table(write(tmp_path, servers_1_0(cards=2)))
    assert plan(tmp_path, table=table, launcher="msrun").first_line == "launcher: msrun, because it was requested"
    assert plan(tmp_path, table=table, launcher="rank_table").reason == "it was requested"
    for wrong, expected in [
        ({"launcher": "rank_table"}, "needs a rank table, but none is given"),
        ({"launcher": "rank_table", "table": table, "target": "CPU"}, "is for Ascend only, but the target is CPU"),
        ({"launcher": "msrun", "target": "CPU"}, "is for several ranks, but there is one"),
        ({"launcher": "mpirun"}, "choose from rank_table, msrun"),
    ]:
        with pytest.raises(LaunchError, match=expected):
            plan(tmp_path, **wrong)


def test_no_msrun(tmp_path, monkeypatch):
    monkeypatch.setattr(msrun_process.shutil, "which", lambda *_, **__: None)
    with pytest.raises(LaunchError, match="msrun, which starts several ranks without a rank table, is neither in"):
        plan(tmp_path, device_ids=(0, 1))


def test_one_rank_is_one_process(tmp_path):
    planned = plan(tmp_path, target="CPU")
    (process,) = planned.processes
    assert planned.first_line == "launcher: one process, because there is one rank"
    assert process.command == [sys.executable, ENTRY, *TRAIN]
    assert process.environment == {
        "PATH": "/usr/bin",
        "HOME": "/root",
        "PYTHONUNBUFFERED": "1",
        **USER,
        "GLOG_v": "3",
        "MINDLOC_LAUNCH_LINE": planned.first_line,
    }


def test_shares_of_cores_are_disjoint_and_equal():
    assert [share_of_cores([0, 1, 4, 5, 6], i, 2) for i in range(2)] == [[0, 1], [4, 5]]
    assert [share_of_cores([3, 9], i, 4) for i in range(4)] == [[3, 9]] * 4  # fewer cores than ranks: all for each
