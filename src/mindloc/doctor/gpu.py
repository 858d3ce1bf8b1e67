"""What MindSpore's GPU plugin needs: NVIDIA's driver and a card that fits, the plugin itself, CUDA 11 and cuDNN 8.

How MindSpore loads the plugin was read in its source and observed with 2.8.0 (docs/gpu.md). Without CUDA_HOME it does
not try. With CUDA_HOME, the release that $CUDA_HOME/bin/nvcc prints selects one of the plugin files in the wheel, and
the system's loader searches for the libraries that this plugin file needs.
"""

import ctypes
import re
from pathlib import Path

from mindloc.doctor.machine import CPU_WAY, Finding, Machine, absent, good, last_line, run_program, run_python, wrong
from mindloc.runtime.packages import OLDEST_GPU

DRIVER_LIBRARY = "libcuda.so.1"
OLDEST_DRIVER = (11000, "450.80.02")  # the oldest that runs programs of any CUDA 11, by NVIDIA's compatibility table
LAST_COMPILED, LAST_SERVED = (8, 9), (9, 0)  # compute capabilities, see docs/gpu.md
CARD = "card "  # followed by its number: ``what`` of a finding on one card
OTHER_WAY = "or evaluate by ONNX Runtime (docs/gpu.md)"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*

CUDA_LIBRARIES = (
    "libcudart.so.11.0",
    "libcublas.so.11",
    "libcublasLt.so.11",
    "libcufft.so.10",
    "libcurand.so.10",
    "libcusolver.so.11",
    "libcusparse.so.11",
)
NVRTC = {
    (11, 1): "libnvrtc.so.11.1",
    (11, 6): "libnvrtc.so.11.2",
}  # CUDA release of the plugin -> name; the other names are the same for all
CUDNN = "libcudnn.so.8"
CUDNN_PARTS = tuple(f"libcudnn_{part}.so.8" for part in ("ops_infer", "ops_train", "cnn_infer", "cnn_train"))
Release = tuple[int, int]

CUINIT = {  # result -> what it means, way out
    34: (
        "the library found is the empty one for building that CUDA toolkits bring, not a driver",
        "take the directory named stubs out of LD_LIBRARY_PATH",
    ),
    100: ("the driver is there, but no card that it can use", ""),
    803: (
        "the driver's library and its kernel module are of different versions",
        "restart the machine, or finish the driver's update",
    ),
    804: (
        "the forward-compatibility library on the path does not go with this card",
        "take the directory named compat out of LD_LIBRARY_PATH",
    ),
    999: (
        "the driver fails without saying why",
        "restart the machine or reload the module nvidia_uvm; nvidia-smi may say more",
    ),
}


def look_at_driver(machine: Machine) -> list[Finding]:
    """Findings on the driver and on whether MindSpore's plugin runs on each card, or on why they can't be read."""
    library = machine.library(DRIVER_LIBRARY)
    if library is None:
        return [_no_driver(machine)]
    program = f"from mindloc.doctor.gpu import read_driver\nprint(json.dumps(read_driver({str(library)!r})))"
    answer = run_python(program, machine.environ, 30)
    reinstall = "reinstall the driver; nvidia-smi must list the card"
    if answer.code != 0:
        how = f"signal {-answer.code}" if answer.code and answer.code < 0 else answer.err.strip() or "an error"
        return [wrong("GPU", "driver", f"{library} fails to list its cards ({how})", reinstall)]
    state = answer.value()
    if "load_error" in state:
        return [wrong("GPU", "driver", f"{library} is not a loadable library: {state['load_error']}", reinstall)]
    return [*_version(machine, library, state["version"]), *_cards(machine, state)]


def read_driver(library: str) -> dict:
    """Read version and cards from a driver library. Call it in a separate process, since a broken driver may crash it.

    Returns:
        ``load_error``, or ``init`` (result of cuInit), ``version`` (e.g. 12040 for CUDA 12.4) and ``cards``.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as reason:
        return {"load_error": str(reason)}
    version, count = ctypes.c_int(), ctypes.c_int()
    result = driver.cuInit(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    if result == 0:
        result = driver.cuDeviceGetCount(ctypes.byref(count))
    return {"init": result, "version": version.value, "cards": [_card(driver, i) for i in range(count.value)]}


def _card(driver: ctypes.CDLL, index: int) -> dict:
    device, number, name, size = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(number.value)
    return {"name": name.value.decode(errors="replace"), "capability": capability, "memory_bytes": size.value}


def list_cards(findings: list[Finding]) -> list[str]:
    """What was found on each card that the driver lists, in the order of their numbers."""
    return [finding.found for finding in findings if finding.section == "GPU" and finding.what.startswith(CARD)]


def _no_driver(machine: Machine) -> Finding:
    if _card_on_the_bus(machine):
        found = f"no driver: an NVIDIA card is in this machine, but {DRIVER_LIBRARY} is not on the loader's path"
        way_out = f"install NVIDIA's driver, {OLDEST_DRIVER[1]} or newer; in a container: start it with --gpus all"
    else:
        found = f"no driver: {DRIVER_LIBRARY} is not on the loader's path, and no NVIDIA card is seen in this machine"
        way_out = f"needs a machine with an NVIDIA card and its driver, {OLDEST_DRIVER[1]} or newer; {CPU_WAY}"
    return absent("GPU", "driver", found, way_out)


def _card_on_the_bus(machine: Machine) -> bool:
    """Whether a PCI device is NVIDIA's (0x10de) and a display or 3D controller (class 0x03....)."""
    for device in machine.path("/sys/bus/pci/devices").glob("*"):
        name = f"/sys/bus/pci/devices/{device.name}"
        if machine.read(f"{name}/vendor").strip() == "0x10de" and machine.read(f"{name}/class").startswith("0x03"):
            return True
    return False


def _version(machine: Machine, library: Path, version: int) -> list[Finding]:
    module = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d[\d.]+)", machine.read("/proc/driver/nvidia/version"))
    name = f"{module[1] if module else library}, made for CUDA {version // 1000}.{version % 1000 // 10}"
    if version < OLDEST_DRIVER[0]:
        return [wrong("GPU", "driver", f"{name}: too old for CUDA 11", f"install driver {OLDEST_DRIVER[1]} or newer")]
    return [good("GPU", "driver", name)]


def _cards(machine: Machine, state: dict) -> list[Finding]:
    if state["init"] not in (0, 100):
        meaning, way_out = CUINIT.get(
            state["init"], ("the driver can't be used", "see whether nvidia-smi lists the card")
        )
        return [wrong("GPU", "card", f"{meaning} (cuInit {state['init']})", way_out)]
    if not state["cards"]:
        hidden = machine.environ.get("CUDA_VISIBLE_DEVICES")
        found = f"{CUINIT[100][0]} (cuInit {state['init']})"
        if hidden is not None:
            return [absent("GPU", "card", f"{found}; CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES")]
        way_out = f"see whether nvidia-smi lists one; in a container: start it with --gpus all; {CPU_WAY}"
        return [absent("GPU", "card", found, way_out)]
    none_fits = all(tuple(card["capability"]) < OLDEST_GPU for card in state["cards"])
    return [_fitness(number, card, none_fits) for number, card in enumerate(state["cards"])]


def _fitness(number: int, card: dict, none_fits: bool) -> Finding:
    """Finding on whether the plugin's kernels and CUDA 11 run on a card; one that is too old blocks only if all are."""
    capability = tuple(card["capability"])
    what = f"{CARD}{number}"
    named = f"{card['name']}, compute {capability[0]}.{capability[1]}, {card['memory_bytes'] / 2**30:.0f} GiB"
    if capability < OLDEST_GPU:
        found = f"{named}: too old, the plugin's kernels start at compute 6.0"
        return wrong("GPU", what, found, f"a card of compute 6.0 or more; {CPU_WAY}", blocks=none_fits)
    if capability > LAST_SERVED:
        found = f"{named}: newer than CUDA 11 and cuDNN 8, whose code would be translated at run time, never tried"
        return wrong("GPU", what, found, f"a card up to compute 9.0, {OTHER_WAY}", blocks=False)
    if capability > LAST_COMPILED:
        return good("GPU", what, f"{named} (the plugin's kernels are translated at the first run, some minutes once)")
    return good("GPU", what, named)


def look_at_cuda(machine: Machine) -> list[Finding]:
    """Findings on the plugin and every library that it needs besides the driver's."""
    plugins = _plugins(machine)
    release, nvcc = _nvcc(machine, plugins)
    chosen = _chosen(release, plugins) or (11, 6)  # if none is chosen, list what the newer one needs
    libraries = (*CUDA_LIBRARIES, NVRTC.get(chosen, NVRTC[11, 6]))
    needed = [_library(machine, name, chosen) for name in libraries]
    return [_plugin(plugins), nvcc, *needed, *_cudnn(machine, chosen)]


def set_up(machine: Machine) -> str:
    """The commands that set up CUDA 11 and cuDNN 8 for this environment."""
    file = machine.prefix / "gpu.env"
    cuda_home = machine.environ.get("CUDA_HOME")
    if file.exists() and (not cuda_home or cuda_home not in file.read_text(encoding="utf-8")):
        return f"source {file}"
    return f"bash scripts/setup_gpu.sh, then source {file}"


def _plugins(machine: Machine) -> list[Release]:
    """The CUDA releases that the installed MindSpore has a plugin for, oldest first."""
    directory = machine.mindspore / "lib" / "plugin" if machine.mindspore else Path("nowhere")
    matches = (re.search(r"\.so\.(\d+)\.(\d+)$", path.name) for path in directory.glob("libmindspore_gpu.so.*"))
    return sorted((int(match[1]), int(match[2])) for match in matches if match)


def _plugin(plugins: list[Release]) -> Finding:
    if plugins:
        return good("GPU", "plugin", f"MindSpore's own, for CUDA {' and '.join(_dotted(each) for each in plugins)}")
    way_out = f"pip install a MindSpore for Linux on x86_64; {CPU_WAY}"
    return absent("GPU", "plugin", "no libmindspore_gpu.so.* in the installed MindSpore", way_out)


def _chosen(release: Release | None, plugins: list[Release]) -> Release | None:
    """The plugin that the loader takes: of the same major number, the newest that is not newer than CUDA."""
    fitting = [each for each in plugins if release and each[0] == release[0] and each <= release]
    return fitting[-1] if fitting else None


def _nvcc(machine: Machine, plugins: list[Release]) -> tuple[Release | None, Finding]:
    """(CUDA release that MindSpore's loader will read or None, finding on it)."""
    home = machine.environ.get("CUDA_HOME")
    if not home:
        return None, absent(
            "GPU", "nvcc", "CUDA_HOME is not set, so MindSpore does not try its plugin", set_up(machine)
        )
    nvcc = Path(home) / "bin" / "nvcc"
    if not nvcc.exists():
        found = f"CUDA_HOME={home} has no bin/nvcc, from which MindSpore reads the version"
        return None, absent("GPU", "nvcc", found, set_up(machine))
    answer = run_program([str(nvcc), "--version"], machine.environ, 10)
    match = re.search(r"Cuda compilation tools, release (\d+)\.(\d+),", answer.out)
    if not match:
        said = last_line(answer.out or answer.err)
        found = f"{nvcc} does not say 'Cuda compilation tools, release 11.6,' but: {said}"
        return None, wrong("GPU", "nvcc", found, set_up(machine))
    release = (int(match[1]), int(match[2]))
    if plugins and not _chosen(release, plugins):
        found = f"{nvcc} says CUDA {_dotted(release)}; MindSpore has plugins for 11.1 to 11.8 only"
        return release, wrong("GPU", "nvcc", found, set_up(machine))
    return release, good("GPU", "nvcc", f"{nvcc} says CUDA {_dotted(release)}")


def _library(machine: Machine, name: str, plugin: Release) -> Finding:
    path = machine.library(name, _own_directory(machine, plugin))
    if path:
        return good("GPU", name, str(path))
    others = machine.other_versions(name)
    if others:
        found = f"wrong CUDA: {others[-1]} is there, the plugin for CUDA {_dotted(plugin)} requires {name}"
        return wrong("GPU", name, found, set_up(machine))
    return absent("GPU", name, f"{name} is not on the loader's path", set_up(machine))


def _own_directory(machine: Machine, plugin: Release) -> Path:
    """The library directory whose path is in the plugin file; the loader searches it first."""
    return machine.path(f"/usr/local/cuda-{_dotted(plugin)}/lib64")


def _cudnn(machine: Machine, plugin: Release) -> list[Finding]:
    path = machine.library(CUDNN, _own_directory(machine, plugin))
    if path is None:
        others = machine.other_versions(CUDNN)
        if not others:
            return [absent("GPU", "cuDNN", f"{CUDNN} is not on the loader's path", set_up(machine))]
        return [wrong("GPU", "cuDNN", f"wrong cuDNN: {others[-1]}; the plugin requires {CUDNN}", set_up(machine))]
    inside = re.search(r"\.so\.(\d+)", path.resolve().name)  # the loader refuses another version named as 8
    if inside and inside[1] != "8":
        found = f"wrong cuDNN: {path} is a link to cuDNN {inside[1]}; the plugin needs 8"
        return [wrong("GPU", "cuDNN", found, f"remove that link; {set_up(machine)}")]
    lacking = [name for name in CUDNN_PARTS if not machine.library(name, path.parent, path.resolve().parent)]
    if lacking:
        found = f"{path} is there, its parts {', '.join(lacking)} are not on the loader's path"
        return [absent("GPU", "cuDNN", found, set_up(machine))]
    full = sorted(path.parent.glob("libcudnn.so.8.*"))
    return [good("GPU", "cuDNN", f"{full[-1].name.partition('.so.')[2] if full else '8'} ({path})")]


def _dotted(release: Release) -> str:
    return f"{release[0]}.{release[1]}"
