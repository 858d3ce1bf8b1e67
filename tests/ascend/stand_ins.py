"""Simulated CANN libraries, so that MindSpore's Ascend plugin loads on a machine without an Ascend.

In simulation (MS_SIMULATION_LEVEL) the plugin answers its device calls itself, but its libraries must exist. The names
of the missing symbols are read from the wheel. Each symbol becomes a function that returns 0, except for the few whose
result is used. All functions are in one library; the other libraries are empty and depend on it.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

TOOLS = ("g++", "nm", "strings")
PLUGIN = "plugin/libmindspore_ascend.so.2"

NAMES = (
    *("acl_dvpp", "acl_dvpp_mpi", "acl_dvpp_op", "acl_op_compiler", "acl_tdt_channel", "ascendcl", "opapi", "nnopbase"),
    *("ge_common", "ge_runner", "graph", "exe_graph", "metadef", "register", "slice", "opskernel", "host_cpu_engine"),
    *("ascend_hal", "ascendalog", "runtime", "platform", "mmpa", "c_sec", "error_manager", "hccl", "msprofiler"),
    *("profapi", "aoe_executor", "atb", "cann_kb", "compress"),
)

# functions that the plugin finds with dlsym, so their names are only in its strings
LOADED_BY_NAME = re.compile(r"(acl|aclnn|aclrt|aclmdl|aclop|aclprof|acltdt|acldvpp|Hccl|Hcom|hccl|hal|rt|mstx)[A-Z]\w+")

ANSWERS = {
    "aclrtGetSocName": """const char *aclrtGetSocName() {
        const char *chip = getenv("SIMULATED_CHIP");
        return chip ? chip : "Ascend910B1"; }""",
    "aclrtGetDeviceCount": "int aclrtGetDeviceCount(unsigned *count) { *count = 8; return 0; }",
    "aclrtGetMemInfo": """int aclrtGetMemInfo(int, unsigned long *free, unsigned long *total) {
        if (free) *free = 60ul << 30;
        if (total) *total = 64ul << 30;
        return 0; }""",
    "HcclGetRankId": 'int HcclGetRankId(void *, unsigned *rank) { *rank = atoi(getenv("RANK_ID")); return 0; }',
    "HcclGetRankSize": 'int HcclGetRankSize(void *, unsigned *size) { *size = atoi(getenv("RANK_SIZE")); return 0; }',
}
# mangled names of functions whose result is an object at %rdi -> offsets of its words that must be null shared pointers
RESULTS = {
    "_ZN2ge8OperatorC": (8, 16),
    "_ZN2ge8Operator": (),
    "_ZN2ge15OperatorFactory14CreateOperator": (0, 8, 16),
    "_ZN2ge(10TensorDesc|5Shape|6Tensor|12AscendString|10TensorType|7Promote|11GraphBuffer)C": (0, 8),
}
STATUS_FACTORY = "_ZN2ge13StatusFactory8InstanceEv"  # the plugin's static constructors write error texts into its map
SOURCE = """
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
namespace ge {
struct StatusFactory { static StatusFactory *Instance(); std::map<uint32_t, std::string> texts; };
StatusFactory *StatusFactory::Instance() { static StatusFactory only; return &only; }
}
extern "C" {
%s
}
"""


def obstacle() -> str | None:
    """The reason why the libraries can't be built on this machine; None if they can."""
    if platform.machine() != "x86_64":
        return f"the stand-ins for the CANN libraries are x86-64 code, this machine is {platform.machine()}"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"building stand-ins for the CANN libraries needs {', '.join(missing)}, not found here"
    if not (_mindspore_libraries() / PLUGIN).is_file():
        return f"this MindSpore has no Ascend plugin ({PLUGIN})"
    return None


def build_stand_ins(directory: Path) -> dict[str, str]:
    """Build the simulated libraries into an empty directory; takes about ten seconds.

    Returns:
        Environment variables with which a new process finds the libraries.
    """
    libraries = directory / "cann" / "lib64"
    (libraries / "driver").mkdir(parents=True)
    _write_hccl_package(directory / "hccl")
    _link_answers(libraries / "libanswers.so", missing_symbols(_mindspore_libraries()), directory)
    for name in [*(f"lib{name}.so" for name in NAMES), "driver/libascend_hal.so"]:
        _link_empty(libraries / name, libraries)
    homes = ("ASCEND_HOME_PATH", "ASCEND_CUSTOM_PATH", "ASCEND_OPP_PATH")
    return {
        "LD_LIBRARY_PATH": _before_present("LD_LIBRARY_PATH", f"{libraries}:{libraries / 'driver'}"),
        "PYTHONPATH": _before_present("PYTHONPATH", str(directory)),
        **dict.fromkeys(homes, str(directory / "cann")),
    }


def _before_present(variable: str, paths: str) -> str:
    present = os.environ.get(variable)
    return f"{paths}:{present}" if present else paths


def missing_symbols(libraries: Path) -> set[str]:
    """The symbols that the plugin's libraries need and that neither MindSpore nor the system defines."""
    plugin = libraries / "plugin"
    ascend = [libraries / PLUGIN, plugin / "libmindspore_ops_ascend.so"]
    ascend += [path for path in plugin.glob("ascend/**/*.so*") if "aarch64" not in str(path)]
    own = [*libraries.parent.glob("*.so*"), *libraries.glob("*.so*"), *plugin.glob("*cpu*.so")]
    there = _symbols([*ascend, *own, *_system_libraries()], "--defined-only")
    missing = {
        name for name in _symbols(ascend, "--undefined-only") if not name.startswith(("Py", "_Py", "__stack_chk"))
    }
    return (missing - there) | _names_in_text(ascend)


def _mindspore_libraries() -> Path:
    return Path(importlib.util.find_spec("mindspore").origin).parent / "lib"


def _system_libraries() -> list[Path]:
    """The system libraries that Python and a C++ compiler use."""
    names = ("stdc++.so.6", "m.so.6", "c.so.6", "gcc_s.so.1", "gomp.so.1", "pthread.so.0", "dl.so.2", "rt.so.1")
    answers = [_output("g++", f"-print-file-name=lib{name}").strip() for name in names]
    answers.append(_output("g++", "-print-file-name=ld-linux-x86-64.so.2").strip())
    return [Path(answer) for answer in answers if Path(answer).is_absolute()]


def _symbols(libraries: Iterable[Path], which: str) -> set[str]:
    lines = _output("nm", "-D", "--format=posix", which, *map(str, libraries)).splitlines()
    rows = [line.split() for line in lines]
    weak = ("w", "v")  # may stay undefined
    return {
        row[0].partition("@")[0] for row in rows if len(row) >= 2 and not row[0].endswith(":") and row[1] not in weak
    }


def _names_in_text(libraries: Iterable[Path]) -> set[str]:
    words = _output("strings", "-n", "6", *map(str, libraries)).split()
    return {word for word in words if LOADED_BY_NAME.fullmatch(word)}


def _output(*command: str) -> str:
    """The output of a command. A non-zero exit code is ignored: nm returns it if one of many files has no symbols."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _link_answers(library: Path, symbols: set[str], directory: Path) -> None:
    """Link the library that contains every symbol."""
    source, assembly = directory / "answers.cc", directory / "zeros.s"
    source.write_text(SOURCE % "\n".join(ANSWERS.values()))
    zeros = sorted(symbols - ANSWERS.keys() - {STATUS_FACTORY})
    functions = "".join(f".globl {name}\n.type {name},@function\n{name}:\n{_body(name)}" for name in zeros)
    assembly.write_text(f'.text\n{functions}.section .note.GNU-stack,"",@progbits\n')
    old_strings = "-D_GLIBCXX_USE_CXX11_ABI=0"  # as the plugin is built
    _compile(library, str(source), str(assembly), old_strings)


def _link_empty(library: Path, libraries: Path) -> None:
    _compile(
        library,
        "-x",
        "c++",
        "/dev/null",
        "-Wl,--no-as-needed",
        f"-L{libraries}",
        "-lanswers",
        f"-Wl,-rpath,{libraries}",
    )


def _compile(library: Path, *arguments: str) -> None:
    command = ["g++", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", str(library), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _body(symbol: str) -> str:
    """x86-64 assembly of a function that does nothing and returns 0, or the object that it should construct."""
    this = "movq %rdi,%rax\nret\n"
    for pattern, empty_words in RESULTS.items():
        if re.match(pattern, symbol):
            return "".join(f"movq $0,{offset}(%rdi)\n" for offset in empty_words) + this
    return "xorl %eax,%eax\nret\n"


def _write_hccl_package(directory: Path) -> None:
    """Write the Python package from which MindSpore reads the version of CANN's collectives."""
    directory.mkdir()
    (directory / "__init__.py").touch()
    (directory / "sys_version.py").write_text('__sys_version__ = "7.0"\n')
