"""The door to the platform: a clear line instead of MindSpore's own words, and never a silent fallback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindloc.doctor.examination import HARDWARE
from mindloc.doctor.findings import Told, absent, good, obstacle
from mindloc.doctor.machine import Machine
from mindloc.errors import DeviceError
from mindloc.runtime import device


def machine(**versions: str) -> Machine:
    return Machine({}, versions=versions)


@pytest.mark.parametrize("version", ["2.7.2", "2.8.0", "2.10.1", "2.9.0rc1"])
def test_supported_versions_pass(version):
    device.check_mindspore(machine(mindspore=version, numpy="1.26.4"))


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({}, "MindSpore is not installed"),
        ({"mindspore": "2.0.0"}, "2.0.0 is installed; mindloc needs 2.7.2 or newer, below 2.11"),
        ({"mindspore": "2.11.0"}, "2.11.0 is installed"),
        ({"mindspore": "2.8.0", "numpy": "2.1.0"}, "numpy<2"),
    ],
)
def test_unsupported_versions_are_one_clear_line(versions, says):
    with pytest.raises(DeviceError) as caught:
        device.check_mindspore(machine(**versions))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


NO_CARD = absent("GPU", "card", "the driver is there, but no card", "unset CUDA_VISIBLE_DEVICES")
NO_CANN = absent("Ascend", "CANN", "not installed", "install it")


def found(monkeypatch, **findings: list):
    """Let the examination of each target find this."""
    monkeypatch.setattr(device, "examine_target", lambda target: findings.get(target, []))


def test_a_named_target_that_is_not_there_is_an_error_with_reason_and_way_out(monkeypatch):
    found(monkeypatch, Ascend=[NO_CANN], GPU=[NO_CARD])
    with pytest.raises(DeviceError) as caught:
        device.use_device("GPU")
    assert str(caught.value) == (
        "device target GPU can't be used here: the driver is there, but no card; unset CUDA_VISIBLE_DEVICES "
        "(python -m mindloc doctor --device_target GPU says more)"
    )
    with pytest.raises(DeviceError, match="device target Ascend can't be used here: not installed; install it"):
        device.use_device("Ascend")


def test_auto_takes_what_works_and_says_why_not_something_better(monkeypatch):
    found(monkeypatch, Ascend=[NO_CANN], GPU=[NO_CARD])
    chosen = device.use_device()
    assert chosen.target == "CPU"
    assert chosen.description.endswith("; no Ascend: not installed; no GPU: the driver is there, but no card")
    assert "no GPU" not in device.use_device("CPU").description  # that was asked for, nothing to explain


CARDS = [good("GPU", "driver", "575"), good("GPU", "card 0", "A, 24 GiB"), good("GPU", "card 1", "B, 24 GiB")]


@pytest.mark.parametrize(("on_ascend", "best"), [([], ("Ascend", 1)), ([NO_CANN], ("GPU", 1))])
def test_the_best_comes_first_and_gets_its_card(monkeypatch, on_ascend, best):
    asked_for = []
    found(monkeypatch, Ascend=on_ascend, GPU=CARDS)
    monkeypatch.setattr("mindspore.set_device", lambda *card: asked_for.append(card))
    chosen = device.use_device("auto", 1)
    assert (chosen.target, chosen.id) == best and asked_for == [best]


@pytest.mark.parametrize(("target", "examined"), [("CPU", []), ("GPU", ["GPU"]), ("auto", ["Ascend", "GPU"])])
def test_nothing_but_what_was_asked_for_is_examined_and_that_once(monkeypatch, target, examined):
    asked = []

    def diagnose(machine, target, told):
        asked.append(target)
        return [NO_CANN] if target == "Ascend" else CARDS

    monkeypatch.setattr(device, "diagnose", diagnose)
    monkeypatch.setattr("mindspore.set_device", lambda *card: None)
    device.use_device(target, 1)
    assert asked == examined


@pytest.mark.parametrize("device_id", [2, -1])
def test_a_card_beyond_those_there_is_refused_before_mindspore_is_told(monkeypatch, device_id):
    found(monkeypatch, GPU=CARDS)
    with pytest.raises(DeviceError) as caught:
        device.use_device("GPU", device_id)
    assert str(caught.value) == (
        f"device_id {device_id} is not among this machine's 2 GPUs (0: A, 24 GiB; 1: B, 24 GiB); take 0 to 1"
    )


def test_auto_takes_the_first_that_nothing_keeps_from_use():
    works = [name for name in device.TARGETS if obstacle(device.examine_target(name), name) is None]
    assert device.use_device("auto").target == works[0]


def test_a_driver_without_a_card_is_no_gpu_even_where_the_plugin_loads(monkeypatch):
    loaded = Told({"Ascend": False, "GPU": True}, "")
    monkeypatch.setattr(device, "told_by_mindspore", lambda: loaded)
    monkeypatch.setattr(device, "this_machine", machine)
    monkeypatch.setitem(HARDWARE, "GPU", lambda machine: [NO_CARD])
    assert obstacle(device.examine_target("GPU"), "GPU") == NO_CARD
    monkeypatch.setitem(HARDWARE, "GPU", lambda machine: CARDS)
    assert obstacle(device.examine_target("GPU"), "GPU") is None


REFUSED_GRAPH = """
from mindloc.runtime.device import use_device
use_device("CPU")
import mindspore as ms
from mindspore import nn, ops
class Product(nn.Cell):
    def construct(self, x):
        return ops.matmul(x, x)
Product()(ms.ops.ones((2, 3)))
"""


def test_a_graph_that_does_not_compile_leaves_nothing_in_the_working_folder(tmp_path):
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    program = tmp_path / "program.py"  # MindSpore compiles from files only
    program.write_text(REFUSED_GRAPH, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "MS_OM_PATH"}
    environment |= {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(device.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(program)], cwd=work, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0 and "shape" in done.stderr
    assert list(work.iterdir()) == []
    assert list(temporary.glob("mindspore-*/rank_0/om/*"))  # here it is: the test made one
