"""The door to the platform: a clear line instead of MindSpore's own words, and never a silent fallback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindloc.errors import DeviceError
from mindloc.runtime import device


def installed(monkeypatch, **versions):
    monkeypatch.setattr(device, "_installed", versions.get)


@pytest.mark.parametrize("version", ["2.7.2", "2.8.0", "2.10.1", "2.9.0rc1"])
def test_supported_versions_pass(monkeypatch, version):
    installed(monkeypatch, mindspore=version, numpy="1.26.4")
    device.check_mindspore()


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({}, "MindSpore is not installed"),
        ({"mindspore": "2.0.0"}, "2.0.0 is installed; mindloc needs 2.7.2 or newer, below 2.11"),
        ({"mindspore": "2.11.0"}, "2.11.0 is installed"),
        ({"mindspore": "2.8.0", "numpy": "2.1.0"}, "numpy<2"),
    ],
)
def test_unsupported_versions_are_one_clear_line(monkeypatch, versions, says):
    installed(monkeypatch, **versions)
    with pytest.raises(DeviceError) as caught:
        device.check_mindspore()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_target_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(device, "usable_targets", lambda: {"Ascend": False, "GPU": False, "CPU": True})
    with pytest.raises(DeviceError, match="device target Ascend can't be used here"):
        device.use_device("Ascend")


def test_auto_takes_what_works():
    usable = device.usable_targets()
    assert device.use_device("auto").target == next(name for name, works in usable.items() if works)


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
