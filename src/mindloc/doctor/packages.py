"""Python packages: which MindSpore, which NumPy."""

from mindloc.doctor.finding import Finding, absent, good, wrong
from mindloc.doctor.machine import Machine

MINDSPORE_RANGE = ((2, 7, 2), (2, 11))  # first that has all we call, first not tried
SLOW_CONVOLUTIONS_FROM = (2, 9)  # on CPUs
INSTALL = "pip install -r requirements.txt -c constraints-cpu.txt"


def look_at_packages(machine: Machine) -> list[Finding]:
    """MindSpore's version and NumPy's, as far as they can be told without importing them."""
    findings = [_mindspore(machine), *_numpy(machine)]
    version = machine.versions.get("mindspore")
    return findings if version is None else [*findings, convolutions_on_cpu(version)]


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


def convolutions_on_cpu(version: str) -> Finding:
    """Whether that MindSpore has fast convolutions on a CPU; only the backbones resnet50 and vgg16 need them.

    Seen with 64 channels, 3x3, 56x56, batch 2 on one machine: 21 ms in 2.8.0, 4777 ms in 2.10.0.
    """
    what, limit = "convolutions on a CPU", _dotted(SLOW_CONVOLUTIONS_FROM)
    if numbers(version) < SLOW_CONVOLUTIONS_FROM:
        return good("MindSpore", what, f"fast in {version}")
    found = f"MindSpore {version} convolves with kernels above 1x1 some 200 times slower than releases below {limit} do"
    way_out = f"only for model.backbone resnet50 and vgg16, only on a CPU: {INSTALL}"
    return wrong("MindSpore", what, found, way_out, blocks=False)


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
