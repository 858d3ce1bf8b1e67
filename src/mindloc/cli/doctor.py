"""Command that reports what this machine has and lacks for each device target; needs neither MindSpore nor NumPy."""

import dataclasses
import json
from itertools import groupby

import click

from mindloc.cli.command import command
from mindloc.doctor.examination import examine
from mindloc.doctor.machine import Finding, obstacle, this_machine
from mindloc.runtime.console import wrapped
from mindloc.runtime.device import TARGETS

MARKS = {"ok": "ok", "missing": "MISSING", "problem": "PROBLEM"}
_INDENT = " " * 11  # of a finding's further lines


@command("doctor", example="--device_target GPU")
@click.option(
    "--device_target", type=click.Choice(TARGETS), help="report on this target; the exit code is for it alone"
)
@click.option("--json", "is_json", is_flag=True, help="print one JSON object, for programs")
def doctor(device_target: str | None, is_json: bool) -> int:
    """Report what this machine has and lacks for each device target, and the way out of each problem.

    The exit code is 0 if the requested target works, or, without --device_target, if any target works; else it is 2.
    MindSpore is not needed.
    """
    findings = examine(this_machine())
    verdicts = {target: obstacle(findings, target) for target in TARGETS}
    print(as_json(findings, verdicts) if is_json else as_text(findings, verdicts, device_target))
    requested = [device_target] if device_target else TARGETS
    return 0 if any(verdicts[target] is None for target in requested) else 2


def as_text(findings: list[Finding], verdicts: dict[str, Finding | None], requested: str | None) -> str:
    """The report: each section's lines, then one line per target; only ``requested`` if it is given."""
    left_out = {"Ascend", "GPU"} - {requested} if requested else set()
    lines = []
    for section, group in groupby(findings, key=lambda finding: finding.section):
        if section not in left_out:
            lines += [section, *_section(list(group)), ""]
    lines.append("targets")
    for target in [requested] if requested else TARGETS:
        reason = verdicts[target]
        verdict = f"can't be used: {reason.found}" if reason else "can be used"
        lines.append(wrapped(f"{target}: {verdict}", start="  ", indent="    "))
    return "\n".join(lines)


def _section(findings: list[Finding]) -> list[str]:
    """One line per finding; a way out that successive findings share is printed once, after the last of them."""
    lines = []
    for finding, following in zip(findings, [*findings[1:], None], strict=True):
        lines.append(wrapped(f"{finding.what}: {finding.found}", f"  {MARKS[finding.state]:8} ", _INDENT))
        if finding.way_out and not (following and following.way_out == finding.way_out):
            lines.append(f"{_INDENT}-> {finding.way_out}")  # in one line, since many are commands to copy
    return lines


def as_json(findings: list[Finding], verdicts: dict[str, Finding | None]) -> str:
    targets = {
        target: {"usable": reason is None, "reason": reason and reason.found} for target, reason in verdicts.items()
    }
    return json.dumps({"targets": targets, "findings": [dataclasses.asdict(each) for each in findings]}, indent=2)
