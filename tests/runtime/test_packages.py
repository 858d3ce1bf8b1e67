"""Supported versions of MindSpore and NumPy; the requirements file and the import of an optional library."""

import os
import subprocess
import sys

import pytest

from mindloc.errors import DeviceError
from mindloc.runtime import packages as module
from mindloc.runtime.packages import check_packages, optional_module


@pytest.mark.parametrize("version", ["2.7.2", "2.8.0", "2.10.1", "2.9.0rc1"])
def test_supported_versions_pass(version):
    check_packages({"mindspore": version, "numpy": "1.26.4"})


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({}, "MindSpore is not installed"),
        ({"mindspore": "2.0.0"}, "2.0.0 is installed; mindloc needs 2.7.2 or newer, below 2.11"),
        ({"mindspore": "2.11.0"}, "2.11.0 is installed"),
        ({"mindspore": "2.8.0", "numpy": "2.1.0"}, "numpy<2"),
        ({"mindspore": "2.8.0"}, "NumPy is not installed"),
    ],
)
def test_unsupported_versions_are_a_one_line_error(versions, says):
    with pytest.raises(DeviceError) as caught:
        check_packages(versions)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_library_names_its_requirements_file():
    with pytest.raises(DeviceError, match="^nowhere_to_be_found is not installed.*requirements-onnx.txt"):
        optional_module("nowhere_to_be_found.part")


def test_a_missing_library_of_milvus_names_its_requirements_file(monkeypatch):
    monkeypatch.setattr(module, "_OF_MILVUS", ("nowhere_to_be_found",))
    with pytest.raises(DeviceError, match="^nowhere_to_be_found is not installed.*requirements-milvus.txt"):
        optional_module("nowhere_to_be_found")


@pytest.mark.parametrize("name", ["onnx", "pymilvus"])
def test_mindspore_works_after_an_optional_library(name):
    """Run in its own process, as protobuf chooses its implementation once, and a plain import would end the process."""
    pytest.importorskip(name, exc_type=ModuleNotFoundError)
    program = (
        "import sys; sys.path.insert(0, 'src')\n"
        "from mindloc.runtime.packages import optional_module\n"
        f"optional_module({name!r})\n"
        "import mindspore\n"
        "print(int(mindspore.Tensor([2, 3]).sum()))\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert (run.returncode, run.stdout.strip()) == (0, "5"), run.stderr[-500:]
