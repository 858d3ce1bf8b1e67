"""Rank tables of all layouts are read alike, and a wrong one is reported in one line."""

import json
import socket
from types import SimpleNamespace

import psutil
import pytest
from advice import commands_named
from rank_tables import model_arts_groups, servers_1_0, super_pods_1_2, write

from mindloc.cli import main as mindloc
from mindloc.errors import LaunchError
from mindloc.launch import host
from mindloc.launch.plan import plan_ranks
from mindloc.launch.rank_table import Card, Server, find_server, read_rank_table, write_rank_table


def test_one_server_of_eight_cards(tmp_path):
    table = read_rank_table(write(tmp_path, servers_1_0()))
    assert table.version == "1.0" and table.size == 8
    assert [server.id for server in table.servers] == ["10.0.0.1"]
    assert table.servers[0].cards[3] == Card(3, 3, "192.168.103.1")


def test_three_servers_are_in_the_order_of_their_ranks(tmp_path):
    tree = servers_1_0(servers=3)
    tree["server_list"].reverse()
    table = read_rank_table(write(tmp_path, tree))
    assert table.size == 24
    assert [server.id for server in table.servers] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert [card.rank for card in table.servers[2].cards] == list(range(16, 24))


def test_cards_are_in_rank_order_whatever_their_order_in_the_file(tmp_path):
    tree = servers_1_0(cards=2)
    tree["server_list"][0]["device"][0]["rank_id"] = "1"
    tree["server_list"][0]["device"][1]["rank_id"] = "0"
    cards = read_rank_table(write(tmp_path, tree)).servers[0].cards
    assert [(card.rank, card.device_id) for card in cards] == [(0, 1), (1, 0)]


def test_super_pods(tmp_path):
    table = read_rank_table(write(tmp_path, super_pods_1_2()))
    assert table.version == "1.2" and table.size == 4
    assert find_server(table, ["172.16.0.101"]) == 1  # host_ip, where server_id is only a name


def test_ranks_of_modelarts_follow_the_numbers_of_the_pods(tmp_path):
    table = read_rank_table(write(tmp_path, model_arts_groups()))
    assert table.version == "group_list"
    assert table.servers == (
        Server("10.0.0.1", (Card(0, 0, "192.168.0.1"), Card(1, 1, "192.168.1.1")), ("job-abc-net-0",)),
        Server("10.0.0.2", (Card(2, 0, "192.168.0.2"), Card(3, 1, "192.168.1.2")), ("job-abc-net-1",)),
    )
    assert find_server(table, ["job-abc-net-1"]) == 1


def test_counts_of_modelarts_may_be_numbers(tmp_path):
    tree = model_arts_groups()
    tree["group_count"] = 1
    tree["group_list"][0].update(device_count=4, instance_count=2)
    assert read_rank_table(write(tmp_path, tree)).size == 4


def changed(**values):
    return {**servers_1_0(servers=2, cards=2), **values}


def with_device(**values):
    tree = servers_1_0(servers=2, cards=2)
    tree["server_list"][1]["device"][1].update(values)
    return tree


def without(key):
    tree = servers_1_0(servers=2, cards=2)
    del tree["server_list"][1]["device"][1][key]
    return tree


def group(**values):
    tree = model_arts_groups()
    tree["group_list"][0].update(values)
    return tree


def pods_naming(server_id):
    tree = super_pods_1_2()
    tree["super_pod_list"][1]["server_list"][0]["server_id"] = server_id
    return tree


HOSTILE = {
    "unknown version": (changed(version="3.1"), "version is '3.1'"),
    "still being written": (changed(status="initializing"), "status is 'initializing'"),
    "wrong server count": (changed(server_count="3"), 'server_count is "3", but server_list has 2'),
    "no servers": (changed(server_list=[], server_count="0"), "server_list is []"),
    "server that is not an object": (
        changed(server_list=["10.0.0.1"], server_count="1"),
        "server_list[0] is '10.0.0.1'",
    ),
    "server twice": (
        changed(server_list=[servers_1_0(cards=2)["server_list"][0]] * 2),
        "server_list[1].server_id '10.0.0.1' appears twice",
    ),
    "rank twice": (with_device(rank_id="2"), "rank 2 appears twice"),
    "gap in the ranks": (with_device(rank_id="4"), "rank 3 is missing"),
    "rank of five thousand digits": (with_device(rank_id="1" * 5000), "server_list[1].device[1].rank_id is '111"),
    "one address for two cards": (
        with_device(device_ip=servers_1_0(cards=2)["server_list"][0]["device"][0]["device_ip"]),
        "ranks 0 and 3 have the same device_ip",
    ),
    "rank without quotes": (with_device(rank_id=3), "server_list[1].device[1].rank_id is 3"),
    "card twice": (with_device(device_id="0"), 'device_id "0" appears twice'),
    "card that is not a number": (with_device(device_id="npu1"), "device_id is 'npu1'"),
    "negative card": (with_device(device_id="-1"), "device_id is '-1'"),
    "no rank": (without("rank_id"), "server_list[1].device[1].rank_id is missing"),
    "no card": (without("device_id"), "device_id is missing"),
    "address that is none": (with_device(device_ip="192.168.1.256"), "device_ip is '192.168.1.256'"),
    "no devices of a group": (group(device_count="0"), "group_list has no group with devices"),
    "wrong instance count": (group(instance_count="1"), 'instance_count is "1", but instance_list has 2'),
    "pod without number": (
        group(instance_list=[{"pod_name": "job", "server_id": "a", "devices": []}] * 2),
        "pod_name is 'job'",
    ),
    "pod of an unknown server": (pods_naming("node_7"), "server_id is 'node_7'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_table_is_reported_in_one_line(tmp_path, name):
    tree, expected = HOSTILE[name]
    path = write(tmp_path, tree)
    with pytest.raises(LaunchError) as caught:
        read_rank_table(path)
    assert str(path) in str(caught.value) and expected in str(caught.value) and ";" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "can't be read as JSON"),
        (b'{"version": "1.0", "server_list"', "can't be read as JSON"),
        (b"\xff\xfe\x00", "line 1 is not text in UTF-16-LE"),
        (b"[" * 100_000, "can't be read as JSON"),
        (b"[1, 2]", "contains a JSON list"),
        (b"{}", "version is missing"),
        (b" " * ((16 << 20) + 1), "has 16777217 bytes; expected at most 16777216"),
    ],
)
def test_a_file_that_is_not_a_table(tmp_path, content, expected):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(LaunchError, match=expected) as caught:
        read_rank_table(path)
    assert "\n" not in str(caught.value)


def test_a_missing_table(tmp_path):
    with pytest.raises(LaunchError, match="can't be read"):
        read_rank_table(tmp_path / "none.json")
    with pytest.raises(LaunchError, match="is a directory, expected a file"):
        read_rank_table(tmp_path)


def test_the_index_of_this_server(tmp_path):
    table = read_rank_table(write(tmp_path, servers_1_0(servers=3)))
    assert find_server(table, ["some-host", "10.0.0.2"]) == 1
    assert find_server(table, ["10.0.0.2"], server="2") == 2  # an explicit server takes precedence
    assert find_server(table, [], server="10.0.0.3") == 2
    with pytest.raises(LaunchError, match=r"this host \(10.9.9.9\) is none of its servers \(10.0.0.1, 10.0.0.2"):
        find_server(table, ["10.9.9.9"])
    for wrong in ("3", "-1", "first"):
        with pytest.raises(LaunchError, match="has servers 0 to 2"):
            find_server(table, ["10.0.0.2"], server=wrong)


def test_the_loopback_is_this_host_in_a_table_of_one_server(tmp_path):
    for servers in (1, 2):
        tree = servers_1_0(servers=servers, cards=1)
        tree["server_list"][0]["server_id"] = "127.0.0.1"
        table = read_rank_table(write(tmp_path, tree))
        if servers == 1:
            assert find_server(table, ["10.9.9.9"]) == 0
        else:
            with pytest.raises(LaunchError, match="none of its servers"):
                find_server(table, ["10.9.9.9"])


def test_a_written_table_is_as_the_platform_documents(tmp_path):
    path = tmp_path / "new" / "table.json"
    write_rank_table(path, "10.0.0.1", [Card(0, 4, "192.168.100.101"), Card(1, 5)])
    assert json.loads(path.read_text()) == {
        "version": "1.0",
        "server_count": "1",
        "server_list": [
            {
                "server_id": "10.0.0.1",
                "device": [
                    {"device_id": "4", "device_ip": "192.168.100.101", "rank_id": "0"},
                    {"device_id": "5", "rank_id": "1"},
                ],
                "host_nic_ip": "reserve",
            }
        ],
        "status": "completed",
    }
    assert read_rank_table(path).servers[0].cards == (Card(0, 4, "192.168.100.101"), Card(1, 5))


@pytest.fixture
def ascend_host(tmp_path, monkeypatch):
    """A machine with one address, two cards known to the driver's tool, and a third in its configuration."""
    monkeypatch.setattr("mindloc.cli.rank_table.host_names", lambda: ["10.0.0.1", "trainer"])
    monkeypatch.delenv("SERVER_ID", raising=False)
    tool = tmp_path / "bin" / "hccn_tool"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$2" -lt 2 ] || exit 1\necho "ipaddr:192.168.10$2.101"\necho netmask:255.255.255.0\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    conf = tmp_path / "hccn.conf"
    conf.write_text("address_2=192.168.102.7\nnetmask_2=255.255.255.0\n")
    monkeypatch.setattr(host, "HCCN_CONF", conf)


def test_rank_table_reads_the_addresses_from_the_driver(ascend_host, tmp_path, capsys):
    out = tmp_path / "table.json"
    assert mindloc(["rank-table", "--devices", "0,1,2", "--out", str(out)]) == 0
    assert [card.device_ip for card in read_rank_table(out).servers[0].cards] == [
        "192.168.100.101",
        "192.168.101.101",
        "192.168.102.7",
    ]
    assert "rank 2 = card 2 (192.168.102.7)" in capsys.readouterr().out
    assert mindloc(["rank-table", "--check", str(out)]) == 0
    assert "this host is server 0" in capsys.readouterr().out


def test_the_commands_that_refused_tables_name(ascend_host, tmp_path, monkeypatch, capsys):
    """Each writes a table with which the launch continues."""
    monkeypatch.chdir(tmp_path)
    host.HCCN_CONF.write_text("".join(f"address_{card}=192.168.102.{card}\n" for card in range(2, 8)))
    foreign = read_rank_table(write(tmp_path, servers_1_0(cards=8), "foreign.json"))
    with pytest.raises(LaunchError) as refused:
        find_server(foreign, ["10.9.9.9"])
    (writing,) = commands_named(str(refused.value))
    assert mindloc(writing) == 0
    written = read_rank_table(tmp_path / writing[-1])
    assert find_server(written, ["10.0.0.1"]) == 0 and written.size == 8

    assert mindloc(["rank-table", "--devices", "6,8", "--out", "eight.json"]) == 2
    assert "8" in (said := capsys.readouterr().err) and "--without_device_ips" in said
    assert mindloc(["rank-table", "--devices", "6,8", "--out", "eight.json", "--without_device_ips"]) == 0
    assert mindloc(["rank-table", "--devices", "0,1", "--out", "two.json", "--without_device_ips"]) == 0
    with pytest.raises(LaunchError) as refused:
        plan_ranks(["true"], target="Ascend", log_dir=tmp_path, table=read_rank_table(tmp_path / "two.json"))
    (writing,) = commands_named(str(refused.value))
    assert mindloc(writing) == 0
    table = read_rank_table(tmp_path / "two.json")
    assert len(plan_ranks(["true"], target="Ascend", log_dir=tmp_path, table=table).processes) == 2


def test_tables_of_two_servers_become_one(ascend_host, tmp_path):
    parts = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, address in zip(parts, ("10.0.0.9", "10.0.0.10"), strict=True):
        number = address.rpartition(".")[2]
        words = ["--devices", "0,1", "--device_ips", f"192.168.1.{number},192.168.2.{number}", "--server_id", address]
        assert mindloc(["rank-table", *words, "--out", str(path)]) == 0
    out = tmp_path / "both.json"
    assert mindloc(["rank-table", "--merge", *map(str, parts), "--out", str(out)]) == 0
    servers = read_rank_table(out).servers
    assert [(server.id, [card.rank for card in server.cards]) for server in servers] == [
        ("10.0.0.10", [0, 1]),  # first as text, which is how MindSpore orders servers
        ("10.0.0.9", [2, 3]),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--devices", "0,0"], "--devices is '0,0'"),
        (["--devices", "0,x"], "--devices is '0,x'"),
        (["--devices", "0,3"], "no network address found for card 3"),
        (["--devices", "0,1", "--device_ips", "192.168.1.1"], "expected 2 different comma-separated addresses"),
        (["--devices", "0,1", "--device_ips", "10.1.1.1,10.1.1.1"], "expected 2 different comma-separated addresses"),
        (["--devices", "0", "--without_device_ips", "--server_id", "foo bar"], "--server_id is 'foo bar'"),
        (["--devices", "0", "--device_ips", "192.168.1"], "expected 1 different comma-separated addresses"),
    ],
)
def test_rank_table_refuses_in_one_line(ascend_host, tmp_path, capsys, words, expected):
    assert mindloc(["rank-table", *words, "--out", str(tmp_path / "t.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and error.count("\n") == 1
    assert not (tmp_path / "t.json").exists()


def test_a_server_with_several_addresses_needs_server_id(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mindloc.cli.rank_table.host_names", lambda: ["10.0.0.1", "172.17.0.1"])
    assert mindloc(["rank-table", "--devices", "0", "--without_device_ips", "--out", str(tmp_path / "t.json")]) == 2
    assert "several addresses (10.0.0.1, 172.17.0.1)" in capsys.readouterr().err


def interfaces(**addresses):
    """Network interfaces as psutil lists them, each with a link address as well."""
    link = SimpleNamespace(family=socket.AF_PACKET, address="02:42:ac:11:00:02")
    return {
        name: [link, *(SimpleNamespace(family=socket.AF_INET, address=address) for address in of_interface)]
        for name, of_interface in addresses.items()
    }


def test_addresses_of_this_host(monkeypatch):
    """Addresses without a name are included, but neither the loopback nor an interface's addresses other than IPv4."""
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces(lo=["127.0.0.1"], eth0=["10.0.0.5"]))
    names = {"trainer": ["10.0.0.5", "192.168.7.7"], "localhost": ["127.0.0.1", "::1"]}
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, port: [(0, 0, 0, "", (ip, 0)) for ip in names[name]])
    assert host.host_addresses("trainer") == ["10.0.0.5", "192.168.7.7"]
    assert host.host_addresses("localhost") == ["10.0.0.5"]


def test_addresses_of_a_host_whose_name_does_not_resolve(monkeypatch):
    def unknown(name, port):
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces(lo=["127.0.0.1"]))
    assert host.host_addresses("trainer") == []
