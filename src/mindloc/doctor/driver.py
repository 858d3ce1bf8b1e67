"""NVIDIA's driver and the cards that it answers for."""

import json
import re
import sys
from pathlib import Path

from mindloc.doctor.finding import Finding, absent, good, wrong
from mindloc.doctor.machine import Machine
from mindloc.doctor.program import ask

DRIVER_LIBRARY = "libcuda.so.1"
OLDEST_DRIVER = (11000, "450.80.02")  # the oldest that serves programs of any CUDA 11, by NVIDIA's compatibility table
OLDEST_CARD, LAST_COMPILED, LAST_SERVED = (6, 0), (8, 9), (9, 0)  # compute capabilities, see docs/gpu.md
CARD = "card "  # and its number: what a finding on one card is called
OTHER_WAY = "or evaluate by ONNX Runtime (docs/gpu.md)"
CPU_WAY = "on this machine use --device_target CPU"

CUINIT = {  # result -> what it means, way out
    34: (
        "the library found is the empty one for building that CUDA toolkits bring, not a driver",
        "take the folder named stubs out of LD_LIBRARY_PATH",
    ),
    100: ("the driver is there, but no card that it can use", ""),
    803: (
        "the driver's library and its kernel module are of different versions",
        "restart the machine, or finish the driver's update",
    ),
    804: (
        "the forward-compatibility library on the path does not go with this card",
        "take the folder named compat out of LD_LIBRARY_PATH",
    ),
    999: (
        "the driver fails without saying why",
        "restart the machine or reload the module nvidia_uvm; nvidia-smi may say more",
    ),
}


def look_at_driver(machine: Machine) -> list[Finding]:
    """Driver, cards and each card's fitness for MindSpore's plugin, or what keeps them from being told."""
    library = machine.library(DRIVER_LIBRARY)
    if library is None:
        return [_no_driver(machine)]
    question = str(Path(__file__).with_name("driver_question.py"))
    answer = ask(
        [sys.executable, "-I", question, str(library)], machine.environ, 30
    )  # -I: imports nothing of this folder
    reinstall = "reinstall the driver; nvidia-smi must list the card"
    if answer.code != 0:
        how = f"signal {-answer.code}" if answer.code and answer.code < 0 else answer.err.strip() or "an error"
        return [wrong("GPU", "driver", f"{library} fails when asked for its cards ({how})", reinstall)]
    told = json.loads(answer.out.splitlines()[-1])
    if "load_error" in told:
        return [wrong("GPU", "driver", f"{library} is no loadable library: {told['load_error']}", reinstall)]
    return [*_version(machine, library, told["version"]), *_cards(machine, told)]


def list_cards(findings: list[Finding]) -> list[str]:
    """What was said of each card that the driver counts, by its number."""
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


def _cards(machine: Machine, told: dict) -> list[Finding]:
    if told["init"] not in (0, 100):
        meaning, way_out = CUINIT.get(
            told["init"], ("the driver can't be used", "see whether nvidia-smi lists the card")
        )
        return [wrong("GPU", "card", f"{meaning} (cuInit {told['init']})", way_out)]
    if not told["cards"]:
        hidden = machine.environ.get("CUDA_VISIBLE_DEVICES")
        found = f"{CUINIT[100][0]} (cuInit {told['init']})"
        if hidden is not None:
            return [absent("GPU", "card", f"{found}; CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES")]
        way_out = f"see whether nvidia-smi lists one; in a container: start it with --gpus all; {CPU_WAY}"
        return [absent("GPU", "card", found, way_out)]
    none_fits = all(tuple(card["capability"]) < OLDEST_CARD for card in told["cards"])
    return [_fitness(number, card, none_fits) for number, card in enumerate(told["cards"])]


def _fitness(number: int, card: dict, none_fits: bool) -> Finding:
    """Whether the plugin's kernels and CUDA 11's libraries know a card; an old one beside a better blocks nothing."""
    capability = tuple(card["capability"])
    what = f"{CARD}{number}"
    named = f"{card['name']}, compute {capability[0]}.{capability[1]}, {card['memory_bytes'] / 2**30:.0f} GiB"
    if capability < OLDEST_CARD:
        found = f"{named}: too old, the plugin's kernels begin at compute 6.0"
        return wrong("GPU", what, found, f"a card of compute 6.0 or more; {CPU_WAY}", blocks=none_fits)
    if capability > LAST_SERVED:
        found = f"{named}: newer than CUDA 11 and cuDNN 8, whose code would be translated at run time, never tried"
        return wrong("GPU", what, found, f"a card up to compute 9.0, {OTHER_WAY}", blocks=False)
    if capability > LAST_COMPILED:
        return good("GPU", what, f"{named} (the plugin's kernels are translated at the first run, some minutes once)")
    return good("GPU", what, named)
