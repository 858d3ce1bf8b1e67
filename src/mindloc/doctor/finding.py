"""One line of the doctor: something looked for, what was found, and the way out where it is not as it should be."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What one probe says."""

    section: str  # "MindSpore", "Ascend", "GPU", "ONNX Runtime" or "machine"
    what: str
    state: Literal["ok", "missing", "problem"]
    found: str
    way_out: str = ""
    blocks: bool = False  # the targets of this section can't be used as things are


def good(section: str, what: str, found: str) -> Finding:
    return Finding(section, what, "ok", found)


def absent(section: str, what: str, found: str, way_out: str, blocks: bool = True) -> Finding:
    return Finding(section, what, "missing", found, way_out, blocks)


def wrong(section: str, what: str, found: str, way_out: str, blocks: bool = True) -> Finding:
    return Finding(section, what, "problem", found, way_out, blocks)


def obstacle(findings: Iterable[Finding], target: str) -> Finding | None:
    """The first thing that keeps a target ("CPU", "GPU", "Ascend") from being used, or None.

    What is wrong with MindSpore's own installation keeps all of them.
    """
    return next((each for each in findings if each.blocks and each.section in ("MindSpore", target)), None)
