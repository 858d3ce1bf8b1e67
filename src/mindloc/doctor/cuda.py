"""What MindSpore's GPU plugin needs besides a driver: the plugin itself, CUDA 11 and cuDNN 8.

How MindSpore goes about it was read in its source and seen with 2.8.0 (docs/gpu.md): without CUDA_HOME it does not
try; with it, the release in what $CUDA_HOME/bin/nvcc prints picks one of the plugin files in the wheel; the rest is the
system loader's search for the libraries that this file names.
"""

import re
from pathlib import Path

from mindloc.doctor.driver import CPU_WAY
from mindloc.doctor.finding import Finding, absent, good, wrong
from mindloc.doctor.machine import Machine
from mindloc.doctor.program import ask, last_line

CUDA_LIBRARIES = (
    "libcudart.so.11.0",
    "libcublas.so.11",
    "libcublasLt.so.11",
    "libcufft.so.10",
    "libcurand.so.10",
    "libcusolver.so.11",
    "libcusparse.so.11",
)
NVRTC = {(11, 1): "libnvrtc.so.11.1", (11, 6): "libnvrtc.so.11.2"}  # by plugin; the rest of the names is common
CUDNN = "libcudnn.so.8"
CUDNN_PARTS = tuple(f"libcudnn_{part}.so.8" for part in ("ops_infer", "ops_train", "cnn_infer", "cnn_train"))
Release = tuple[int, int]


def look_at_cuda(machine: Machine) -> list[Finding]:
    """The plugin, and every library that it needs besides the driver's."""
    plugins = _plugins(machine)
    release, nvcc = _nvcc(machine, plugins)
    chosen = _chosen(release, plugins) or (11, 6)  # where none is chosen, tell what the newer one would need
    libraries = (*CUDA_LIBRARIES, NVRTC.get(chosen, NVRTC[11, 6]))
    needed = [_library(machine, name, chosen) for name in libraries]
    return [_plugin(plugins), nvcc, *needed, *_cudnn(machine, chosen)]


def set_up(machine: Machine) -> str:
    """The way to CUDA 11 and cuDNN 8 for this environment."""
    file = machine.prefix / "gpu.env"
    cuda_home = machine.environ.get("CUDA_HOME")
    if file.exists() and (not cuda_home or cuda_home not in file.read_text(encoding="utf-8")):
        return f"source {file}"
    return f"bash scripts/setup_gpu.sh, then source {file}"


def _plugins(machine: Machine) -> list[Release]:
    """CUDA releases that the installed MindSpore has a plugin for, oldest first."""
    folder = machine.mindspore / "lib" / "plugin" if machine.mindspore else Path("nowhere")
    matches = (re.search(r"\.so\.(\d+)\.(\d+)$", path.name) for path in folder.glob("libmindspore_gpu.so.*"))
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
    """The CUDA release that MindSpore's loader will see, and what to say of it."""
    home = machine.environ.get("CUDA_HOME")
    if not home:
        return None, absent(
            "GPU", "nvcc", "CUDA_HOME is not set, so MindSpore does not try its plugin", set_up(machine)
        )
    nvcc = Path(home) / "bin" / "nvcc"
    if not nvcc.exists():
        found = f"CUDA_HOME={home} has no bin/nvcc, by which MindSpore tells the version"
        return None, absent("GPU", "nvcc", found, set_up(machine))
    answer = ask([str(nvcc), "--version"], machine.environ, 10)
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
    path = machine.library(name, _own_folder(machine, plugin))
    if path:
        return good("GPU", name, str(path))
    others = machine.other_versions(name)
    if others:
        found = f"wrong CUDA: {others[-1]} is there, the plugin for CUDA {_dotted(plugin)} asks for {name}"
        return wrong("GPU", name, found, set_up(machine))
    return absent("GPU", name, f"{name} is not on the loader's path", set_up(machine))


def _own_folder(machine: Machine, plugin: Release) -> Path:
    """A folder that is written into the plugin file and searched before all others."""
    return machine.path(f"/usr/local/cuda-{_dotted(plugin)}/lib64")


def _cudnn(machine: Machine, plugin: Release) -> list[Finding]:
    path = machine.library(CUDNN, _own_folder(machine, plugin))
    if path is None:
        others = machine.other_versions(CUDNN)
        if not others:
            return [absent("GPU", "cuDNN", f"{CUDNN} is not on the loader's path", set_up(machine))]
        return [wrong("GPU", "cuDNN", f"wrong cuDNN: {others[-1]}; the plugin asks for {CUDNN}", set_up(machine))]
    inside = re.search(
        r"\.so\.(\d+)", path.resolve().name
    )  # another version under the name of 8 is refused by the loader
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
