"""What MindSpore's Ascend plugin needs: cards and their driver, CANN and its environment; a rank table if one is named.

Nothing here was tried on a card: it follows Huawei's documents and what MindSpore's own check reads (docs/ascend.md).
"""

import re
import shutil
from pathlib import Path

from mindloc.doctor.machine import CPU_WAY, Finding, Machine, absent, good, wrong
from mindloc.errors import LaunchError
from mindloc.reading import read_json
from mindloc.runtime.process import command_line

PLUGIN = "libmindspore_ascend.so.2"
CANN_LIBRARIES = (
    "libascendcl.so",
    "libge_runner.so",
    "libgraph.so",
    "libhccl.so",
)  # some of those that the plugin needs
DRIVER_LIBRARY = "libascend_hal.so"
SET_ENV = ("/usr/local/Ascend/ascend-toolkit/set_env.sh", "/usr/local/Ascend/cann/set_env.sh")
SEE = "docs/ascend.md"


def look_at_npu(machine: Machine) -> list[Finding]:
    """Findings on cards and driver. A simulation (MS_SIMULATION_LEVEL) compiles without either."""
    if machine.environ.get("MS_SIMULATION_LEVEL"):
        return [good("Ascend", "card", "simulated, by MS_SIMULATION_LEVEL: graphs compile, nothing is computed")]
    cards = sorted(path.name for path in machine.path("/dev").glob("davinci[0-9]*"))
    version = re.search(r"^Version=(\S+)", machine.read("/usr/local/Ascend/driver/version.info"), re.MULTILINE)
    library = machine.library(DRIVER_LIBRARY, *_driver_directories(machine))
    if not cards and not version and not library:
        found = "neither a card (/dev/davinci*) nor a driver (/usr/local/Ascend/driver) is seen"
        return [absent("Ascend", "card", found, f"needs a machine with an Ascend card and its driver; {CPU_WAY}")]
    return [_cards(machine, cards), _driver(version[1] if version else None, library)]


def _cards(machine: Machine, cards: list[str]) -> Finding:
    if not cards:
        way_out = (
            "npu-smi info must list a card; in a container: pass in /dev/davinci0, /dev/davinci_manager and the rest"
        )
        return absent("Ascend", "card", "the driver is there, but no card (/dev/davinci0 and so on)", way_out)
    if not machine.path("/dev/davinci_manager").exists():
        way_out = f"in a container: pass in /dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc too ({SEE})"
        return wrong("Ascend", "card", f"{', '.join(cards)} without /dev/davinci_manager", way_out)
    return good("Ascend", "card", ", ".join(cards))


def _driver(version: str | None, library: Path | None) -> Finding:
    if library is None:
        way_out = f"install driver and firmware; in a container: mount /usr/local/Ascend/driver ({SEE})"
        return absent("Ascend", "driver", f"{DRIVER_LIBRARY} is not on the loader's path", way_out)
    return good("Ascend", "driver", f"{version or 'of unknown version'} ({library})")


def _driver_directories(machine: Machine) -> list[Path]:
    """Library directories that the driver's set_env adds to LD_LIBRARY_PATH, for MindSpore's plugin and CANN."""
    return [machine.path(f"/usr/local/Ascend/driver/lib64/{name}") for name in ("driver", "common")]


def look_at_cann(machine: Machine) -> list[Finding]:
    """Findings on the plugin and the software that it needs besides the driver."""
    return [_plugin(machine), *_cann(machine), _npu_smi(machine), _rank_table(machine)]


def _npu_smi(machine: Machine) -> Finding:
    path = shutil.which("npu-smi", path=machine.environ.get("PATH", ""))
    if path:
        return good("Ascend", "npu-smi", path)
    way_out = "comes with the driver, in /usr/local/sbin or /usr/local/bin"
    return absent("Ascend", "npu-smi", "not in PATH", way_out, blocks=False)


def _plugin(machine: Machine) -> Finding:
    path = machine.mindspore / "lib" / "plugin" / PLUGIN if machine.mindspore else None
    if path and path.exists():
        return good("Ascend", "plugin", f"MindSpore's own ({PLUGIN})")
    way_out = "pip install a MindSpore for Linux of the range that mindloc takes"
    return absent("Ascend", "plugin", f"no {PLUGIN} in the installed MindSpore", way_out)


def _cann(machine: Machine) -> list[Finding]:
    home = machine.environ.get("ASCEND_HOME_PATH")
    if not home:
        ready = [name for name in SET_ENV if machine.path(name).exists()]
        if ready:
            found = f"installed, but its environment is not set ({ready[0]} was not sourced)"
            return [absent("Ascend", "CANN", found, f"source {ready[0]}")]
        return [
            absent("Ascend", "CANN", "not installed: ASCEND_HOME_PATH is not set", f"install the CANN toolkit ({SEE})")
        ]
    lacking = [name for name in CANN_LIBRARIES if not machine.library(name)]
    if lacking:
        found = f"ASCEND_HOME_PATH={home}, but {', '.join(lacking)} not on the loader's path"
        return [absent("Ascend", "CANN", found, "source the set_env.sh of the CANN toolkit in this shell")]
    return [_cann_version(machine, Path(home))]


def _cann_version(machine: Machine, home: Path) -> Finding:
    """Finding on CANN's version, compared with the versions that this MindSpore lists as supported."""
    try:
        text = (home / "compiler" / "version.info").read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^Version=(\S+)", text, re.MULTILINE)
    known = _versions_that_mindspore_names(machine)
    if not match:
        return good("Ascend", "CANN", f"in {home}, of unknown version (no compiler/version.info)")
    if known and ".".join(match[1].split(".")[:2]) not in known:
        found = f"{match[1]} in {home}; this MindSpore was made for {', '.join(known)}"
        return wrong("Ascend", "CANN", found, f"see the table in {SEE}; MindSpore warns and continues", blocks=False)
    return good("Ascend", "CANN", f"{match[1]} in {home}")


def _versions_that_mindspore_names(machine: Machine) -> list[str]:
    """CANN versions, such as ["8.2", "8.3"], that MindSpore's own check lists in its source; empty if it lists none."""
    if machine.mindspore is None:
        return []
    try:
        text = (machine.mindspore / "run_check" / "_check_version.py").read_text(encoding="utf-8")
    except OSError:
        return []
    match = re.search(r"class AscendEnvChecker.*?self\.version = \[([^\]]*)\]", text, re.DOTALL)
    return re.findall(r"[\d.]+", match[1]) if match else []


def _rank_table(machine: Machine) -> Finding:
    """Finding on the file that RANK_TABLE_FILE names; ``mindloc rank-table`` checks whether the table is correct."""
    name = machine.environ.get("RANK_TABLE_FILE")
    rank = ", ".join(
        f"{key}={machine.environ[key]}" for key in ("RANK_ID", "RANK_SIZE", "DEVICE_ID") if key in machine.environ
    )
    if not name:
        return good(
            "Ascend", "rank table", f"none named in RANK_TABLE_FILE (needed for several cards only) {rank}".strip()
        )
    writing = command_line("rank-table", "--devices", "0,1,2,3,4,5,6,7", "--out", name)
    way_out = f"unset RANK_TABLE_FILE, or write it with: {writing}"
    try:
        table = read_json(Path(name), LaunchError, "RANK_TABLE_FILE", way_out)
    except LaunchError as reason:
        say = wrong if Path(name).is_file() else absent
        return say("Ascend", "rank table", str(reason).removesuffix(f"; {way_out}"), way_out, blocks=False)
    version = table.get("version", "of unknown version")
    checked = f"; check its content with {command_line('rank-table', '--check', name)}"
    return good("Ascend", "rank table", f"{name}, layout {version} {rank}".strip() + checked)
