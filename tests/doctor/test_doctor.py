"""The doctor: directories that imitate machines, each with one problem, and the line that names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import stand_in_driver

from mindloc.cli import main
from mindloc.doctor.ascend import CANN_LIBRARIES, look_at_cann, look_at_npu
from mindloc.doctor.examination import diagnose
from mindloc.doctor.gpu import CUDA_LIBRARIES, CUDNN, CUDNN_PARTS, NVRTC, look_at_cuda, look_at_driver
from mindloc.doctor.machine import Machine, cgroup_cores, cgroup_memory, look_at_resources, obstacle
from mindloc.doctor.packages import (
    MindSporeState,
    convolutions_on_cpu,
    look_at_onnx_runtime,
    look_at_packages,
    read_mindspore,
)

NEEDS_COMPILER = pytest.mark.skipif(not stand_in_driver.has_compiler(), reason="no C compiler for a stand-in driver")


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def make_nvcc(home: Path, says: str = "Cuda compilation tools, release 11.6, V11.6.124") -> None:
    touch(home / "bin" / "nvcc", f"#!/bin/sh\necho '{says}'\n").chmod(0o755)


@pytest.fixture(scope="session")
def driver(tmp_path_factory) -> Path:
    """A directory with a driver whose answers are set by environment variables."""
    return stand_in_driver.build(tmp_path_factory.mktemp("driver")).parent


@pytest.fixture
def cuda(tmp_path) -> Path:
    """A CUDA 11.6 with all that the plugin requires, in empty files."""
    home = tmp_path / "cuda"
    make_nvcc(home)
    for name in (*CUDA_LIBRARIES, NVRTC[11, 6], CUDNN, *CUDNN_PARTS, "libcudnn.so.8.9.6"):
        touch(home / "lib64" / name)
    return home


def machine_with(tmp_path: Path, *library_directories: Path, **environ: str) -> Machine:
    """A machine with nothing but a MindSpore that has its plugins, and what the arguments add."""
    mindspore = tmp_path / "site-packages" / "mindspore"
    for name in ("libmindspore_gpu.so.11.1", "libmindspore_gpu.so.11.6", "libmindspore_ascend.so.2"):
        touch(mindspore / "lib" / "plugin" / name)
    (tmp_path / "root").mkdir(exist_ok=True)
    return Machine(
        {"LD_LIBRARY_PATH": ":".join(map(str, library_directories)), **environ},
        root=tmp_path / "root",
        prefix=tmp_path / "venv",
        versions={"mindspore": "2.8.0", "numpy": "1.26.4"},
        mindspore=mindspore,
    )


def with_cuda(tmp_path: Path, cuda: Path, *more: Path) -> Machine:
    return machine_with(tmp_path, cuda / "lib64", *more, CUDA_HOME=str(cuda))


def gpu_obstacle(machine: Machine):
    return obstacle(diagnose(machine, "GPU", None), "GPU")


# --- driver and cards


def test_no_driver_and_no_card(tmp_path):
    finding = gpu_obstacle(machine_with(tmp_path))
    assert (finding.what, finding.state) == ("driver", "missing")
    assert "no driver: libcuda.so.1" in finding.found and "no NVIDIA card is seen" in finding.found
    assert "--device_target CPU" in finding.way_out


def test_a_card_without_a_driver(tmp_path):
    machine = machine_with(tmp_path)
    for name, vendor, kind in (("0000:00:01.0", "0x8086", "0x030000"), ("0000:01:00.0", "0x10de", "0x030200")):
        touch(machine.root / "sys/bus/pci/devices" / name / "vendor", vendor + "\n")
        touch(machine.root / "sys/bus/pci/devices" / name / "class", kind + "\n")
    finding = gpu_obstacle(machine)
    assert "an NVIDIA card is in this machine, but libcuda.so.1" in finding.found
    assert "install NVIDIA's driver, 450.80.02 or newer" in finding.way_out and "--gpus all" in finding.way_out


def test_a_driver_file_that_is_not_a_library(tmp_path):
    finding = gpu_obstacle(machine_with(tmp_path, touch(tmp_path / "d" / "libcuda.so.1", "no ELF").parent))
    assert finding.state == "problem" and "is not a loadable library" in finding.found


@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("environ", "what", "says", "way_out"),
    [
        ({}, "card", "the driver is there, but no card that it can use (cuInit 100)", "nvidia-smi"),
        ({"STAND_IN_CUDA_INIT": "0"}, "card", "no card that it can use (cuInit 0)", "nvidia-smi"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "card", "CUDA_VISIBLE_DEVICES=''", "unset CUDA_VISIBLE_DEVICES"),
        ({"STAND_IN_CUDA_INIT": "34"}, "card", "the empty one for building", "stubs"),
        ({"STAND_IN_CUDA_INIT": "803"}, "card", "of different versions (cuInit 803)", "restart the machine"),
        ({"STAND_IN_CUDA_INIT": "1"}, "card", "can't be used (cuInit 1)", "nvidia-smi"),
        ({"STAND_IN_CUDA_CRASH": "1"}, "driver", "fails to list its cards (signal 11)", "reinstall the driver"),
        ({"STAND_IN_CUDA_VERSION": "10020"}, "driver", "made for CUDA 10.2: too old for CUDA 11", "450.80.02"),
        ({"STAND_IN_CUDA_INIT": "0", "STAND_IN_CUDA_CARDS": "5.2"}, "card 0", "compute 5.2, 24 GiB: too old", "6.0"),
    ],
)
def test_the_findings_on_what_a_driver_returns(tmp_path, driver, cuda, environ, what, says, way_out):
    machine = with_cuda(tmp_path, cuda, driver)
    finding = gpu_obstacle(Machine(**{**vars(machine), "environ": {**machine.environ, **environ}}))
    assert finding.what == what and says in finding.found and way_out in finding.way_out


@NEEDS_COMPILER
def test_cards_old_and_new_beside_each_other(tmp_path, driver):
    cards = {"STAND_IN_CUDA_INIT": "0", "STAND_IN_CUDA_CARDS": "3.7,6.0,8.9,9.0,12.0"}
    findings = look_at_driver(machine_with(tmp_path, driver, **cards))
    assert [(finding.what, finding.state) for finding in findings] == [
        ("driver", "ok"),
        ("card 0", "problem"),
        ("card 1", "ok"),
        ("card 2", "ok"),
        ("card 3", "ok"),
        ("card 4", "problem"),
    ]
    assert obstacle(findings, "GPU") is None  # the others can be used
    assert ["translated at the first run" in finding.found for finding in findings] == [False] * 4 + [True, False]
    assert "never tried" in findings[5].found and "ONNX Runtime" in findings[5].way_out


@NEEDS_COMPILER
def test_the_kernel_module_names_the_driver(tmp_path, driver):
    machine = machine_with(tmp_path, driver)
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build  (dvs)\n"
    touch(machine.root / "proc/driver/nvidia/version", line)
    assert look_at_driver(machine)[0].found == "575.57.08, made for CUDA 12.4"


# --- CUDA and cuDNN


def test_a_whole_cuda_is_found(tmp_path, cuda):
    findings = look_at_cuda(with_cuda(tmp_path, cuda))
    assert {finding.state for finding in findings} == {"ok"}
    assert [finding.found for finding in findings if finding.what == "plugin"] == [
        "MindSpore's own, for CUDA 11.1 and 11.6"
    ]
    assert next(finding.found for finding in findings if finding.what == "cuDNN").startswith("8.9.6 (")


@pytest.mark.parametrize("name", [*CUDA_LIBRARIES, NVRTC[11, 6]])
def test_each_missing_library_is_named(tmp_path, cuda, name):
    (cuda / "lib64" / name).unlink()
    finding = obstacle(look_at_cuda(with_cuda(tmp_path, cuda)), "GPU")
    assert (finding.what, finding.state) == (name, "missing")
    assert finding.found == f"{name} is not on the loader's path" and "scripts/setup_gpu.sh" in finding.way_out


def test_wrong_cuda_libraries(tmp_path, cuda):
    (cuda / "lib64" / "libcublas.so.11").rename(cuda / "lib64" / "libcublas.so.12")
    finding = obstacle(look_at_cuda(with_cuda(tmp_path, cuda)), "GPU")
    assert finding.state == "problem" and finding.found.startswith("wrong CUDA: ")
    assert "libcublas.so.12 is there" in finding.found and "requires libcublas.so.11" in finding.found


def test_no_cudnn(tmp_path, cuda):
    for path in (cuda / "lib64").glob("libcudnn*"):
        path.unlink()
    finding = obstacle(look_at_cuda(with_cuda(tmp_path, cuda)), "GPU")
    assert (finding.what, finding.state) == ("cuDNN", "missing")


def test_cudnn_9_instead_of_8(tmp_path, cuda):
    for path in (cuda / "lib64").glob("libcudnn*"):
        path.unlink()
    touch(cuda / "lib64" / "libcudnn.so.9")
    finding = obstacle(look_at_cuda(with_cuda(tmp_path, cuda)), "GPU")
    assert finding.state == "problem" and "wrong cuDNN: " in finding.found and "libcudnn.so.9" in finding.found
    (cuda / "lib64" / CUDNN).symlink_to("libcudnn.so.9")  # the loader refuses that too
    assert "is a link to cuDNN 9" in obstacle(look_at_cuda(with_cuda(tmp_path, cuda)), "GPU").found


def test_cudnn_without_its_parts(tmp_path, cuda):
    (cuda / "lib64" / "libcudnn_cnn_infer.so.8").unlink()
    finding = obstacle(look_at_cuda(with_cuda(tmp_path, cuda)), "GPU")
    assert "its parts libcudnn_cnn_infer.so.8 are not on the loader's path" in finding.found


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ("Cuda compilation tools, release 11.8, V11.8.89", None),  # served by the plugin for 11.6
        (
            "Cuda compilation tools, release 12.4, V12.4.131",
            "says CUDA 12.4; MindSpore has plugins for 11.1 to 11.8 only",
        ),
        ("Cuda compilation tools, release 11.0, V11.0.2", "says CUDA 11.0"),
        ("clang version 17", "does not say 'Cuda compilation tools, release 11.6,' but: clang version 17"),
    ],
)
def test_what_nvcc_says(tmp_path, cuda, says, found):
    make_nvcc(cuda, says)
    finding = obstacle(look_at_cuda(with_cuda(tmp_path, cuda)), "GPU")
    assert (finding is None) if found is None else (finding.what == "nvcc" and found in finding.found)


def test_cuda_11_3_takes_the_older_plugin_and_its_compiler_library(tmp_path, cuda):
    make_nvcc(cuda, "Cuda compilation tools, release 11.3, V11.3.58")
    finding = obstacle(look_at_cuda(with_cuda(tmp_path, cuda)), "GPU")
    assert "the plugin for CUDA 11.1 requires libnvrtc.so.11.1" in finding.found


def test_without_cuda_home_the_way_out_is_the_environment_that_was_set_up(tmp_path, cuda):
    machine = machine_with(tmp_path, cuda / "lib64")
    finding = obstacle(look_at_cuda(machine), "GPU")
    assert "CUDA_HOME is not set" in finding.found and "setup_gpu.sh" in finding.way_out
    touch(machine.prefix / "gpu.env", f"export CUDA_HOME={cuda}\n")
    assert obstacle(look_at_cuda(machine), "GPU").way_out == f"source {machine.prefix / 'gpu.env'}"
    machine = machine_with(tmp_path, cuda / "lib64", CUDA_HOME=str(tmp_path))
    assert "has no bin/nvcc" in obstacle(look_at_cuda(machine), "GPU").found


def test_libraries_are_found_in_the_directories_of_ldconfig_and_of_the_plugin(tmp_path):
    machine = machine_with(tmp_path)
    touch(machine.root / "etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n")
    touch(machine.root / "etc/ld.so.conf.d/cuda.conf", "# CUDA\n/opt/cuda/lib64\n")
    expected = touch(machine.root / "opt/cuda/lib64/libcublas.so.11")
    assert machine.library("libcublas.so.11") == expected
    expected = touch(machine.root / "usr/local/cuda-11.6/lib64/libcufft.so.10")
    findings = {finding.what: finding for finding in look_at_cuda(machine)}
    assert findings["libcufft.so.10"].found == str(expected)


# --- MindSpore, NumPy, ONNX Runtime


def test_without_mindspore_all_other_findings_are_reported(tmp_path, cuda):
    machine = Machine({}, root=tmp_path, prefix=tmp_path)
    for target in ("Ascend", "GPU"):
        findings = {finding.what: finding for finding in diagnose(machine, target, None)}
        assert findings["plugin"].state == "missing"
    assert obstacle(look_at_packages(machine), "CPU").found.startswith("MindSpore is not installed")


def test_a_broken_mindspore_is_reported_with_its_last_line(tmp_path):
    touch(tmp_path / "fake/mindspore/__init__.py", "raise ImportError('libgomp.so.1: no such file')")
    finding = read_mindspore(Machine({**os.environ, "PYTHONPATH": str(tmp_path / "fake")}))
    assert finding.blocks and finding.section == "MindSpore"
    assert finding.found == "import mindspore fails: ImportError: libgomp.so.1: no such file"


def test_a_plugin_that_mindspore_loaded_overrules_a_missing_library(tmp_path):
    state = MindSporeState({"GPU": True, "Ascend": True}, "")
    machine = machine_with(tmp_path, MS_SIMULATION_LEVEL="1")
    assert obstacle(diagnose(machine, "Ascend", state), "Ascend") is None  # CANN is nowhere, and yet it loaded
    assert obstacle(diagnose(machine, "GPU", state), "GPU").what == "driver"  # but nothing replaces a card


@NEEDS_COMPILER
def test_the_loaders_message_is_reported_if_nothing_else_explains_the_failure(tmp_path, driver, cuda):
    machine = with_cuda(tmp_path, cuda, driver)
    cards = {**machine.environ, "STAND_IN_CUDA_INIT": "0", "STAND_IN_CUDA_CARDS": "8.0"}
    machine = Machine(**{**vars(machine), "environ": cards})
    error = (
        "Load dynamic library: libmindspore_ascend.so.2 failed. libge_runner.so: cannot open shared object file\n"
        "Load dynamic library: libmindspore_gpu.so.11.6 failed. libcufft.so.10: file too short\n"
    )
    finding = obstacle(diagnose(machine, "GPU", MindSporeState({"GPU": False, "Ascend": False}, error)), "GPU")
    assert finding.found == "no: libcufft.so.10: file too short" and "the loader's message" in finding.way_out


@pytest.mark.parametrize(
    ("versions", "says", "way_out"),
    [
        (
            {"mindspore": "2.0.0", "numpy": "1.26.4"},
            "MindSpore 2.0.0 is installed; mindloc needs 2.7.2 or newer",
            "pip",
        ),
        ({"mindspore": "2.11.0", "numpy": "1.26.4"}, "2.11.0 is installed", "pip"),
        ({"mindspore": "2.8.0", "numpy": "2.1.0"}, "NumPy 2.1.0 is installed", "numpy<2"),
        ({"mindspore": "2.8.0"}, "NumPy is not installed", "pip"),
    ],
)
def test_packages_that_do_not_fit_block_every_target(versions, says, way_out):
    for target in ("CPU", "GPU", "Ascend"):
        finding = obstacle(look_at_packages(Machine({}, versions=versions)), target)
        assert says in finding.found and way_out in finding.way_out


@pytest.mark.parametrize(
    ("version", "state"),
    [("2.7.2", "ok"), ("2.8.0", "ok"), ("2.8.0rc1", "ok"), ("2.9.0rc1", "problem"), ("2.10.0", "problem")],
)
def test_convolutions_on_a_cpu_are_slow_from_2_9_on_and_block_nothing(version, state):
    finding = convolutions_on_cpu(version)
    assert finding.state == state and not finding.blocks and version in finding.found
    assert (state == "ok") or ("resnet50 and vgg16" in finding.way_out and "constraints-cpu.txt" in finding.way_out)
    assert finding in look_at_packages(Machine({}, versions={"mindspore": version, "numpy": "1.26.4"}))


def test_onnx_runtime_blocks_nothing_and_its_build_is_named(tmp_path):
    missing = look_at_onnx_runtime(Machine({}))
    assert missing[0].state == "missing" and "onnxruntime-gpu[cuda,cudnn]" in missing[0].way_out
    both = look_at_onnx_runtime(Machine({}, versions={"onnxruntime": "1.20.0", "onnxruntime-gpu": "1.20.0"}))
    assert "overwrite each other" in both[0].found
    broken = touch(tmp_path / "python", "#!/bin/sh\necho 'ImportError: no symbol' >&2\nexit 1\n")
    broken.chmod(0o755)
    machine = Machine({}, versions={"onnxruntime": "1.20.0"})
    assert "onnxruntime 1.20.0 fails: ImportError: no symbol" in look_at_onnx_runtime(machine, str(broken))[0].found


@pytest.mark.parametrize(
    ("providers", "used", "log", "state", "says"),
    [
        (["CPU"], [], "", "missing", "this build has CPU only"),
        (["CUDA", "CPU"], ["CUDA", "CPU"], "", "ok", "a test model ran through it"),
        (
            ["CUDA", "CPU"],
            ["CPU"],
            "[E:] Failed to load library x.so with error: libcublasLt.so.12: cannot open\n\n[W:] Failed to create",
            "problem",
            "does not start: libcublasLt.so.12 not found",
        ),
        (
            ["CUDA", "CPU"],
            ["CPU"],
            "EP Error cuda_call.cc:122 ... CUDA failure 100: no CUDA-capable device is detected ; GPU=0 ; expr=x",
            "problem",
            "does not start: CUDA failure 100: no CUDA-capable device is detected",
        ),
    ],
)
def test_the_cuda_provider_counts_when_a_model_runs_through_it(tmp_path, providers, used, log, state, says):
    reply = json.dumps([[f"{name}ExecutionProvider" for name in names] for names in (providers, used)])
    python = touch(tmp_path / "python", f"#!/bin/sh\nprintf '{log}' >&2\necho '{reply}'\n")
    python.chmod(0o755)
    machine = Machine({}, versions={"onnxruntime-gpu": "1.26.0"})
    findings = look_at_onnx_runtime(machine, str(python))
    assert (findings[1].what, findings[1].state) == ("CUDA provider", state) and says in findings[1].found
    assert not any(finding.blocks for finding in findings)


# --- Ascend


def test_neither_card_nor_driver_nor_cann(tmp_path):
    findings = [*look_at_npu(machine_with(tmp_path)), *look_at_cann(machine_with(tmp_path))]
    states = {finding.what: finding.state for finding in findings}
    assert states == {"card": "missing", "plugin": "ok", "CANN": "missing", "npu-smi": "missing", "rank table": "ok"}
    assert "/dev/davinci*" in obstacle(findings, "Ascend").found


def ascend_machine(tmp_path: Path, **environ: str) -> Machine:
    """Two cards, driver and CANN 8.3, all in order."""
    cann = tmp_path / "cann"
    for name in CANN_LIBRARIES:
        touch(cann / "lib64" / name)
    touch(cann / "compiler/version.info", "Name=x\nVersion=8.3.RC1\n")
    machine = machine_with(tmp_path, cann / "lib64", ASCEND_HOME_PATH=str(cann), **environ)
    for name in ("davinci0", "davinci1", "davinci_manager"):
        touch(machine.root / "dev" / name)
    touch(machine.root / "usr/local/Ascend/driver/version.info", "Version=24.1.rc2\nascendhal_version=7\n")
    touch(machine.root / "usr/local/Ascend/driver/lib64/driver/libascend_hal.so")
    source = (
        'class GPUEnvChecker:\n  self.version = ["11.6"]\nclass AscendEnvChecker(E):\n  self.version = ["8.2", "8.3"]\n'
    )
    touch(machine.mindspore / "run_check/_check_version.py", source)
    return machine


def ascend_findings(machine: Machine) -> dict:
    return {finding.what: finding for finding in diagnose(machine, "Ascend", None)}


def test_a_whole_ascend_machine(tmp_path):
    found = ascend_findings(ascend_machine(tmp_path))
    assert obstacle(found.values(), "Ascend") is None
    assert found["card"].found == "davinci0, davinci1" and found["driver"].found.startswith("24.1.rc2 (")
    assert found["CANN"].found.startswith("8.3.RC1 in ")


def test_ascend_driver_without_card_and_card_without_driver(tmp_path):
    machine = ascend_machine(tmp_path)
    (machine.root / "dev/davinci_manager").unlink()
    assert "without /dev/davinci_manager" in obstacle(look_at_npu(machine), "Ascend").found
    for name in ("davinci0", "davinci1"):
        (machine.root / "dev" / name).unlink()
    assert obstacle(look_at_npu(machine), "Ascend").found.startswith("the driver is there, but no card")
    machine = ascend_machine(tmp_path)
    (machine.root / "usr/local/Ascend/driver/lib64/driver/libascend_hal.so").unlink()
    assert obstacle(look_at_npu(machine), "Ascend").found == "libascend_hal.so is not on the loader's path"


def test_cann_that_is_installed_but_not_sourced_or_of_another_version(tmp_path):
    machine = ascend_machine(tmp_path)
    touch(machine.mindspore / "run_check/_check_version.py", 'class AscendEnvChecker(E):\n  self.version = ["8.5"]\n')
    finding = ascend_findings(machine)["CANN"]
    assert finding.state == "problem" and not finding.blocks and "made for 8.5" in finding.found
    (tmp_path / "cann/lib64/libge_runner.so").unlink()
    finding = obstacle(look_at_cann(machine), "Ascend")
    assert "libge_runner.so not on the loader's path" in finding.found and "set_env.sh" in finding.way_out
    machine = machine_with(tmp_path)
    touch(machine.root / "usr/local/Ascend/ascend-toolkit/set_env.sh")
    assert obstacle(look_at_cann(machine), "Ascend").way_out == "source /usr/local/Ascend/ascend-toolkit/set_env.sh"


@pytest.mark.parametrize(
    ("content", "state", "says"),
    [
        (None, "missing", "No such file"),
        ("{", "problem", "can't be read as JSON"),
        ('{"version": "1.0"}', "ok", "1.0 RANK_ID=3"),
    ],
)
def test_the_rank_table_that_the_environment_names(tmp_path, content, state, says):
    path = tmp_path / "table.json"
    if content is not None:
        touch(path, content)
    finding = ascend_findings(ascend_machine(tmp_path, RANK_TABLE_FILE=str(path), RANK_ID="3"))["rank table"]
    assert finding.state == state and says in finding.found and not finding.blocks


# --- cores, memory, disk


def test_limits_of_a_container_count(tmp_path):
    machine = Machine({}, root=tmp_path, cores=8, directory=tmp_path)
    touch(tmp_path / "proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n")  # 32 and 16 GiB
    assert cgroup_cores(machine) is None and cgroup_memory(machine) is None
    assert [finding.found for finding in look_at_resources(machine)[:2]] == [
        "8 that this process may use",
        "16.0 GiB free of 32.0",
    ]
    touch(tmp_path / "proc/self/cgroup", "0::/box/inner\n")
    touch(tmp_path / "sys/fs/cgroup/box/inner/cpu.max", "max 100000\n")
    touch(tmp_path / "sys/fs/cgroup/box/cpu.max", "250000 100000\n")  # 2.5 cores' worth, in the group above
    touch(tmp_path / "sys/fs/cgroup/box/inner/memory.max", str(2 * 2**30))
    cores, memory, _ = look_at_resources(machine)
    assert cores.found == "8, but the cgroup limits their time to that of 2.5" and "OMP_NUM_THREADS=2" in cores.way_out
    assert memory.state == "problem" and memory.found.endswith("limited to 2.0 by the cgroup")


def test_limits_of_cgroup_version_1(tmp_path):
    touch(tmp_path / "proc/self/cgroup", "12:memory:/job\n5:cpu,cpuacct:/job\n0::/job\n")
    touch(tmp_path / "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "150000")
    touch(tmp_path / "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000")
    touch(tmp_path / "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1073741824")
    machine = Machine({}, root=tmp_path)
    assert cgroup_cores(machine) == 1.5 and cgroup_memory(machine) == 2**30


# --- the command


@NEEDS_COMPILER
def test_a_page_has_a_line_for_each_finding_and_a_way_out_once(tmp_path, driver, cuda, monkeypatch, capsys):
    for name in ("libcufft.so.10", "libcurand.so.10"):
        (cuda / "lib64" / name).unlink()
    machine = with_cuda(tmp_path, cuda, driver)
    environ = {**machine.environ, "STAND_IN_CUDA_INIT": "0", "STAND_IN_CUDA_CARDS": "8.0"}
    machine = Machine(**{**vars(machine), "environ": environ, "mindspore": None})  # None: it is not imported
    monkeypatch.setattr("mindloc.cli.doctor.this_machine", lambda: machine)
    assert main(["doctor", "--device_target", "CPU"]) == 0
    page = capsys.readouterr().out
    assert "NumPy: 1.26.4" in page and "cores: 1" in page and page.rstrip().endswith("CPU: can be used")
    assert main(["doctor"]) == 0  # CPU is one of any
    page = capsys.readouterr().out
    assert page.count("MISSING  lib") == 2 and page.count("setup_gpu.sh, then source") == 1  # after both of them
    assert main(["doctor", "--device_target", "GPU"]) == 2


@pytest.mark.slow
def test_the_json_output_contains_mindspores_own_report(capsys):
    code = main(["doctor", "--json"])
    state = json.loads(capsys.readouterr().out)
    assert code == 0 and state["targets"]["CPU"] == {"usable": True, "reason": None}
    sections = {finding["section"] for finding in state["findings"]}
    assert sections == {"machine", "MindSpore", "Ascend", "GPU", "ONNX Runtime"}
    assert ("MindSpore", "import", "ok") in {
        (each["section"], each["what"], each["state"]) for each in state["findings"]
    }


def test_a_target_that_does_not_work_is_exit_code_2_even_without_mindspore(tmp_path):
    source = Path(main.__code__.co_filename).parents[2]
    (tmp_path / "click").symlink_to(Path(click.__file__).parent)  # what reads the command line, and nothing else
    command = [
        sys.executable,
        "-S",
        "-c",
        f"import sys; sys.path[:0] = {[str(source), str(tmp_path)]!r}\nfrom mindloc.cli import main\n",
    ]
    command[-1] += "sys.exit(main(['doctor', '--device_target', 'GPU']))"  # -S: no other installed package is seen
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 2, done.stderr
    assert "MISSING  version: MindSpore is not installed" in done.stdout and "Traceback" not in done.stderr


def test_the_run_scripts_take_the_gpu_libraries_that_were_set_up(tmp_path):
    scripts = Path(__file__).parents[2] / "scripts"
    environ = {"PATH": os.environ["PATH"], "MINDLOC_VENV": str(tmp_path), "MINDLOC_PYTHON": str(tmp_path / "python")}
    touch(tmp_path / "python", "#!/bin/sh\necho cuda: $CUDA_HOME\n").chmod(0o755)
    command = ["bash", str(scripts / "run_mindloc.sh"), "doctor"]
    assert subprocess.run(command, env=environ, capture_output=True, text=True).stdout == "cuda:\n"
    touch(tmp_path / "gpu.env", "export CUDA_HOME=/somewhere/cuda-11.6\n")
    assert subprocess.run(command, env=environ, capture_output=True, text=True).stdout == "cuda: /somewhere/cuda-11.6\n"
