"""Python packages: which MindSpore, which NumPy."""

from mindloc.doctor.finding import Finding, absent, good, wrong
from mindloc.doctor.machine import Machine

MINDSPORE_RANGE = ((2, 7, 2), (2, 11))  # first that has all we call, first not tried
INSTALL = "pip install -r requirements.txt -c constraints-cpu.txt"


def look_at_packages(machine: Machine) -> list[Finding]:
    """MindSpore's version and NumPy's, as far as they can be told without importing them."""
    return [_mindspore(machine), *_numpy(machine)]


def _mindspore(machine: Machine) -> Finding:
    first, beyond = MINDSPORE_RANGE
    wanted = f"mindloc needs {_dotted(first)} or newer, below {_dotted(beyond)}"
    version = machine.versions.get("mindspore")
    if version is None:
        return absent("MindSpore", "version", f"MindSpore is not installed; {wanted}", INSTALL)
    if not first <= numbers(version) < beyond:
        return wrong("MindSpore", "version", f"MindSpore {version} is installed; {wanted}", INSTALL)
    return good("MindSpore", "version", f"{version} (mindloc takes {_dotted(first)} or newer, below {_dotted(beyond)})")


def _numpy(machine: Machine) -> list[Finding]:
    version = machine.versions.get("numpy")
    if version is None:
        return [absent("MindSpore", "NumPy", "NumPy is not installed", INSTALL)]
    if numbers(version) >= (2,):
        text = f"NumPy {version} is installed; MindSpore's tensors need NumPy 1"
        return [wrong("MindSpore", "NumPy", text, "pip install 'numpy<2'")]
    return [good("MindSpore", "NumPy", version)]


def numbers(version: str) -> tuple[int, ...]:
    """(2, 8, 0) of "2.8.0rc1": the leading digits of each dotted part, up to the first part without any."""
    parts = []
    for part in version.split(".")[:3]:
        digits = part[: next((i for i, char in enumerate(part) if not char.isdigit()), len(part))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def _dotted(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))
