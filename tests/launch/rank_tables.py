"""Rank tables as the platforms write them, to be changed by tests."""

import json


def device(device_id, rank, address="192.168.{card}.{server}", server=1, **more):
    ip = address.format(card=100 + int(device_id), server=server)
    return {"device_id": str(device_id), "device_ip": ip, "rank_id": str(rank), **more}


def servers_1_0(servers=1, cards=8):
    """Layout 1.0: servers 10.0.0.1, 10.0.0.2, ... with ``cards`` cards each; ranks are numbered across them."""
    return {
        "version": "1.0",
        "server_count": str(servers),
        "server_list": [
            {
                "server_id": f"10.0.0.{s + 1}",
                "device": [device(card, s * cards + card, server=s + 1) for card in range(cards)],
                "host_nic_ip": "reserve",
            }
            for s in range(servers)
        ],
        "status": "completed",
    }


def super_pods_1_2():
    """Layout 1.2 as HCCL's documents show it: two super pods of one server with two devices each."""
    tree = {"status": "completed", "version": "1.2", "server_count": "2", "server_list": [], "super_pod_list": []}
    for s in range(2):
        devices = [
            device(card, 2 * s + card, server=s + 1, super_device_id=str(card), device_port="16666", host_port="16665")
            for card in range(2)
        ]
        tree["server_list"].append({"server_id": f"node_{s}", "host_ip": f"172.16.0.{100 + s}", "device": devices})
        tree["super_pod_list"].append({"super_pod_id": str(s), "server_list": [{"server_id": f"node_{s}"}]})
    return tree


def model_arts_groups():
    """ModelArts' layout: without ranks, which follow from the numbers of the pods; the pods are out of order."""
    pods = [("job-abc-net-1", "10.0.0.2"), ("job-abc-net-0", "10.0.0.1")]
    instances = [
        {
            "pod_name": pod,
            "server_id": server,
            "devices": [{"device_id": str(card), "device_ip": f"192.168.{card}.{server[-1]}"} for card in (0, 1)],
        }
        for pod, server in pods
    ]
    group = {"group_name": "job", "device_count": "4", "instance_count": "2", "instance_list": instances}
    return {"status": "completed", "group_count": "1", "group_list": [group]}


def write(directory, tree, name="table.json"):
    path = directory / name
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path
